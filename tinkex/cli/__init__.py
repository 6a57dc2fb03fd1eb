"""What the person sees: the application, its shell, formats, errors and completion."""
