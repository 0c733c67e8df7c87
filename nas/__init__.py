"""Hardware-aware neural architecture search: supernet, search, export, verification and the command line."""

__version__ = "0.1.0"
