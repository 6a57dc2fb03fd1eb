"""Sampling: one prompt or many, tokenizers and chat templates."""
