"""Servers that speak the dialects of the protocol, each as its table of answers says."""
