"""How fast the store is, beside what the same machine does bare in the same run."""
