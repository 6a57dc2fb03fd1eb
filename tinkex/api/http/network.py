"""What the machine says about proxies and certificates, read once.

Sessions do not look at the environment themselves (``trust_env`` is off): a ``.netrc`` must not
replace the API key, and looking again for every request is slow.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tinkex.config.pools import CA_VARIABLES, PoolOptions
from tinkex.config.values import is_loopback
from tinkex.exceptions import SettingsError

#: How ``openssl rehash`` names certificates.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


def proxies_for(url: str) -> dict[str, str]:
    """Return the proxies for *url* (scheme → address), empty where it is to be reached directly.

    Honours HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in either case. This machine is never
    reached by way of another one: what is sent to it may be sent in clear, the API key included.
    """
    if is_loopback(url):
        return {}
    from requests.utils import get_environ_proxies

    return dict(get_environ_proxies(url))


def certificates() -> str | bool:
    """Return where CA certificates are: a file, a hashed directory, or ``True`` for certifi's.

    A directory is read one certificate at a time as needed, which saves parsing the whole
    bundle in every process.

    :raises SettingsError: a variable names something that does not exist.
    """
    for variable in CA_VARIABLES:
        value = os.environ.get(variable)
        if value and not Path(value).exists():
            raise SettingsError(
                f"{variable} names {value}, which does not exist",
                hint=f"Let it name a file or directory of CA certificates, or: unset {variable}",
            )
        if value:
            return value
    import ssl

    directory = ssl.get_default_verify_paths().capath
    return directory if directory and _is_hashed(directory) else True


def trusted(options: PoolOptions) -> str | bool:
    """Return what requests wants to know as ``verify``.

    :raises SettingsError: as :func:`certificates`.
    """
    if options.insecure:
        return False
    return options.ca_bundle or certificates()


def _is_hashed(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(_HASHED.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False
