"""The commands of tinkex-hub."""
