"""Named HTTP pools: a driver with options, from ``http_pools`` of the configuration file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tinkex.exceptions import SettingsError

#: The section of the configuration file.
SECTION = "http_pools"
DEFAULT_DRIVER = "default"
#: Connections that are kept, where a pool does not say.
DEFAULT_SIZE = 256
#: Repetitions of a request, where a pool does not say.
DEFAULT_RETRIES = 5
#: First one set wins; the first two are those of requests, the others those of OpenSSL.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

_LIMITS = {"size": (1, 4096), "retries": (0, 100)}
_PATHS = ("ca_bundle", "client_cert", "client_key")


@dataclass(frozen=True)
class PoolOptions:
    """How an HTTP pool carries requests, to the service and to the storage of downloads alike.

    :ivar driver: name of the installed HTTP pool, or ``None``: the one that the settings name.
    :ivar size: connections that are kept for each host.
    :ivar retries: how often a request is made again, at most; 0 for never.
    :ivar ca_bundle: path of the authorities to trust, a file or a hashed directory.
    :ivar client_cert: path of the client certificate in PEM.
    :ivar client_key: path of its key, where it is not in the same file.
    :ivar insecure: certificates are not checked.
    """

    driver: str | None = None
    size: int = DEFAULT_SIZE
    retries: int = DEFAULT_RETRIES
    ca_bundle: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    insecure: bool = False

    @property
    def certificate(self) -> str | tuple[str, str] | None:
        """The client certificate as requests takes it."""
        if self.client_cert and self.client_key:
            return self.client_cert, self.client_key
        return self.client_cert

    def check_files(self) -> None:
        """Read the files, so that what is wrong with one is told by its name.

        :raises SettingsError: one cannot be read, or is not what it should be.
        """
        if self.ca_bundle and not self.insecure:
            _check_authorities(self.ca_bundle)
        if self.client_cert:
            _check_client(self.client_cert, self.client_key)


#: The options, in the order in which they are shown.
MEMBERS = tuple(field.name for field in fields(PoolOptions))


def named_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pools that *config*, the content of a configuration file, names.

    :raises SettingsError: the section is not a mapping.
    """
    section = config.get(SECTION)
    if not isinstance(section or {}, Mapping):
        raise SettingsError(
            f"{SECTION} in the configuration file must be a mapping",
            hint=f"For example: {SECTION}: {{office: {{ca_bundle: ~/office.pem}}}}",
        )
    return {str(name): values for name, values in (section or {}).items()}


def options_of(
    name: str, config: Mapping[str, Any], directory: Path, drivers: Collection[str]
) -> tuple[PoolOptions, tuple[str, ...]]:
    """Return the options of the pool *name*, and which of them the configuration file has set.

    :param directory: what relative paths start from: that of the configuration file.
    :param drivers: names of the installed drivers.
    :raises SettingsError: an option is unknown or malformed.
    """
    named = named_in(config)
    if name not in named:
        return PoolOptions(driver=name), ()
    values = named[name] or {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"the HTTP pool {name!r} is not a mapping in the configuration file")
    given = {
        str(key): _parsed(name, str(key), value, directory)
        for key, value in values.items()
        if value is not None
    }
    if "client_key" in given and "client_cert" not in given:
        raise SettingsError(
            f"the HTTP pool {name!r} has client_key, but no client_cert",
            hint="Give the certificate that the key belongs to.",
        )
    driver = name if name in drivers else DEFAULT_DRIVER
    return PoolOptions(**{"driver": driver, **given}), tuple(given)


def insecure(options: PoolOptions) -> PoolOptions:
    """Return *options* without checks of certificates."""
    return replace(options, insecure=True)


def effective(options: PoolOptions, origins: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Yield ``(name, value, origin)`` of every option; names as ``http_pool.size``."""
    for member in MEMBERS:
        name = f"http_pool.{member}"
        value, origin = getattr(options, member), origins.get(name, "default")
        if member == "ca_bundle" and value is None:
            variable = next((v for v in CA_VARIABLES if os.environ.get(v)), None)
            if variable:
                value, origin = os.environ[variable], variable
        yield name, value, origin


def _parsed(pool: str, key: str, value: Any, directory: Path) -> Any:
    if key not in MEMBERS:
        raise SettingsError(
            f"the HTTP pool {pool!r} has an unknown option {key!r}", hint=_nearest(key)
        )
    if key in _LIMITS:
        low, high = _LIMITS[key]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise SettingsError(f"{key} of the HTTP pool {pool!r} is not a number of {low} to {high}")
    if key == "insecure":
        if isinstance(value, bool):
            return value
        raise SettingsError(f"insecure of the HTTP pool {pool!r} is neither true nor false")
    if not isinstance(value, str) or not value.strip():
        wanted = "the path of a file" if key in _PATHS else "a name"
        raise SettingsError(f"{key} of the HTTP pool {pool!r} is not {wanted}")
    if key in _PATHS:
        from tinkex.files import user_path

        return str(directory / user_path(value))
    return value.strip()


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, MEMBERS, 1)
    known = "Known: " + ", ".join(MEMBERS) + "."
    return f"Did you mean {near[0]}? {known}" if near else known


def _check_authorities(path: str) -> None:
    import ssl

    is_directory = _must_be_there(path, "ca_bundle", directory=True)
    try:
        if not is_directory:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise SettingsError(
            f"ca_bundle of the HTTP pool holds no certificate: {path}",
            hint="A file in PEM is wanted: it has a line '-----BEGIN CERTIFICATE-----'.",
        ) from error


def _check_client(certificate: str, key: str | None) -> None:
    import ssl

    _must_be_there(certificate, "client_cert")
    if key:
        _must_be_there(key, "client_key")
    try:
        # An empty password: OpenSSL would ask the terminal for one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"client_cert of the HTTP pool cannot be used with its key: {certificate}",
            hint="Both are wanted in PEM, in one file or two, the key without a passphrase.",
        ) from error


def _must_be_there(path: str, option: str, *, directory: bool = False) -> bool:
    """Tell whether *path* is a directory, which only some may be."""
    if directory and os.path.isdir(path):
        return True
    try:
        with open(path, "rb"):
            return False
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise SettingsError(
            f"{option} of the HTTP pool cannot be read: {path}: {reason}"
        ) from error
