"""The smallest plugin for tinkex: one command, one format, one hook."""
