"""A Tinker-compatible service in a local directory, without an account or a daemon."""

__version__ = "0.1.0"


def profile() -> dict[str, str]:
    """Return the settings of the profile ``local``, which this package provides."""
    return {"http_pool": "local"}
