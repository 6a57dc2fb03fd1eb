"""A Tinker-compatible service that lives in a directory: no account, no daemon."""

__version__ = "0.1.0"


def profile() -> dict[str, str]:
    """Return the settings of the profile ``local``, which exists once this package is installed."""
    return {"http_pool": "local"}
