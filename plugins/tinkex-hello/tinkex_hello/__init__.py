"""A small plugin for tinkex: commands, a format, a hook and a setting."""
