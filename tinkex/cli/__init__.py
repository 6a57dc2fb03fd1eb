"""The user interface: application, shell, formats, errors and completion."""
