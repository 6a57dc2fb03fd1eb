"""Servers for the dialects of the protocol, each with a table of responses."""
