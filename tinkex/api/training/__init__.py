"""Training: a run's steps, and saving and loading its weights."""
