"""An HTTP pool for tinkex that speaks HTTP/2."""

__version__ = "0.1.0"
