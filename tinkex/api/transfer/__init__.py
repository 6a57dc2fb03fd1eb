"""Files on their way: downloads, archives, verification."""
