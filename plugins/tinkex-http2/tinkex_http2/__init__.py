"""An HTTP pool for tinkex that multiplexes requests over HTTP/2."""

__version__ = "0.1.0"
