"""Fine-tune models of the Tinker API from the command line."""

__version__ = "0.1.0"
