"""The state of the service: sessions, runs, checkpoints, operations, models."""
