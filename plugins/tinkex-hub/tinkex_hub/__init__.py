"""Inspect, convert and merge checkpoints, and push them to the Hugging Face Hub."""

__version__ = "0.1.0"
