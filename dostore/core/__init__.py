"""The pure core: formats and arithmetic, with no reactor, file, socket, clock or randomness."""
