"""dostore: an object store whose contents are SHA-256 addressed and erasure-coded."""

__version__ = "0.1.0+dev"
