"""A Tinker-compatible service that lives in a directory: no account, no daemon."""

__version__ = "0.1.0"
