"""Chat with checkpoints, compare them, and score and grade what they generate."""

__version__ = "0.1.0"
