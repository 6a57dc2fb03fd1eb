"""Named HTTP pools: drivers with options, from ``http_pools`` in the configuration file."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinkex.config.values import parse_flag
from tinkex.exceptions import SettingsError
from tinkex.files import user_path
from tinkex.plugins import PoolOptions

#: The section of the configuration file.
SECTION = "http_pools"
DEFAULT_DRIVER = "default"
#: Chooses the installed driver that suits the service best.
AUTO = "auto"
#: Variables for CA certificates, by precedence: two of requests, two of OpenSSL.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

#: How ``openssl rehash`` names certificates.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
_PATHS = ("ca_bundle", "client_cert", "client_key")
#: The options in display order.
MEMBERS = PoolOptions._fields


def named_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named pools of *config*, the content of a configuration file.

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
    """Return the options of the pool *name*, and the names of those set in the file.

    :param directory: directory of the configuration file, which relative paths start from.
    :param drivers: names of the installed drivers.
    :raises SettingsError: an option is unknown or malformed.
    """
    named = named_in(config)
    if name not in named:
        return PoolOptions(driver=name), ()
    values = named[name] or {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"the HTTP pool {name!r} in the configuration file must be a mapping")
    given = {
        str(key): _parsed(name, str(key), value, directory)
        for key, value in values.items()
        if value is not None
    }
    if "client_key" in given and "client_cert" not in given:
        raise SettingsError(
            f"the HTTP pool {name!r} has a client_key but no client_cert",
            hint="Set client_cert to the certificate for this key.",
        )
    driver = name if name in drivers else AUTO
    return PoolOptions(**{"driver": driver, **given}), tuple(given)


def authorities(options: PoolOptions) -> str | None:
    """Return the path of the trusted certificate authorities; ``None``: verify nothing.

    :raises SettingsError: a variable names a path that does not exist.
    """
    if options.insecure or options.ca_bundle:
        return None if options.insecure else options.ca_bundle
    for variable in CA_VARIABLES:
        value = os.environ.get(variable)
        if value and not os.path.exists(value):
            raise SettingsError(
                f"{variable} is set to {value}, which does not exist",
                hint=f"Set {variable} to a CA certificate file or directory, or run: "
                f"unset {variable}",
            )
        if value:
            return value
    import ssl

    import certifi

    # OpenSSL reads single certificates of a hashed directory when it needs them, which saves
    # parsing the whole bundle in every process.
    directory = ssl.get_default_verify_paths().capath
    return directory if directory and hashed_files(directory) else certifi.where()


def hashed_files(directory: str) -> list[str]:
    """Return the paths of the certificates in *directory*, named as by ``openssl rehash``."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if _HASHED.fullmatch(entry.name)]
    except OSError:
        return []


def check_files(options: PoolOptions) -> None:
    """Check that the files of *options* are usable.

    :raises SettingsError: a file cannot be read, or has the wrong content.
    """
    if not (options.ca_bundle or options.client_cert):
        return
    import ssl

    authorities = None if options.insecure else options.ca_bundle
    for name in ("client_cert", "client_key") + (("ca_bundle",) if authorities else ()):
        path = getattr(options, name)
        if path and not (name == "ca_bundle" and os.path.isdir(path)):
            try:
                open(path, "rb").close()
            except OSError as error:
                problem = f"cannot read the HTTP pool's {name}: {path}"
                raise SettingsError(f"{problem}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authorities and not os.path.isdir(authorities):
            context.load_verify_locations(cafile=authorities)
    except ssl.SSLError as error:
        raise SettingsError(
            f"the HTTP pool's ca_bundle contains no valid certificate: {authorities}",
            hint="Use a PEM file with a line '-----BEGIN CERTIFICATE-----'.",
        ) from error
    try:
        if options.client_cert:  # with an empty password, so that OpenSSL does not ask for one
            context.load_cert_chain(options.client_cert, options.client_key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"cannot use the HTTP pool's client_cert with its key: {options.client_cert}",
            hint="Both must be in PEM format, in one file or two. The key must not have a "
            "passphrase.",
        ) from error


def origin_without(value: Any) -> str:
    """Return the origin of a setting that is not set: ``default`` if it has a default *value*."""
    return "not set" if value in (None, "", (), [], {}) else "default"


def effective(options: PoolOptions, origins: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Yield ``(name, value, origin)`` of every option, with names like ``http_pool.ca_bundle``."""
    for member in MEMBERS:
        name = f"http_pool.{member}"
        value = getattr(options, member)
        origin = origins.get(name) or origin_without(value)
        if member == "ca_bundle" and value is None:
            variable = next((v for v in CA_VARIABLES if os.environ.get(v)), None)
            if variable:
                value, origin = os.environ[variable], variable
        yield name, value, origin


def _parsed(pool: str, key: str, value: Any, directory: Path) -> Any:
    if key not in MEMBERS:
        raise SettingsError(
            f"the HTTP pool {pool!r} has an unknown option {key!r}",
            hint="Known options: " + ", ".join(MEMBERS) + ".",
        )
    if key == "insecure":
        try:
            return parse_flag(value)
        except SettingsError as error:
            raise SettingsError(f"insecure in the HTTP pool {pool!r}: {error}") from error
    if not isinstance(value, str) or not value.strip():
        wanted = "a path" if key in _PATHS else "a name"
        raise SettingsError(f"{key} in the HTTP pool {pool!r} must be {wanted}")
    if key in _PATHS:
        return str(directory / user_path(value))
    return value.strip()
