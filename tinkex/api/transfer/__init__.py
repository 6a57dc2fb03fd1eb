"""Checkpoint files: downloads, archives, verification."""
