"""The use cases, over the ports: what a store does, whoever asks and wherever things are kept."""
