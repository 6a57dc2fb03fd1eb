"""What the service remembers: sessions, runs, checkpoints, operations, models."""
