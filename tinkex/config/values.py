"""The settings: their descriptions, environment variables and parsers."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tinkex.exceptions import SettingsError

#: Name of a setting → its environment variable.
ENVIRONMENT = {
    "profile": "TINKEX_PROFILE",
    "api_key": "TINKER_API_KEY",
    "api_key_command": "TINKER_CREDENTIAL_CMD",
    "base_url": "TINKER_BASE_URL",
    "http_pool": "TINKEX_HTTP_POOL",
    "format": "TINKEX_FORMAT",
    "project_id": "TINKER_PROJECT_ID",
    "tags": "TINKER_TAGS",
}
#: Name of a setting → its description, in display order.
DESCRIPTIONS = {
    "profile": "default profile",
    "base_url": "base URL of the service",
    "api_key": "API key",
    "api_key_command": "command that prints the API key",
    "timeout": "maximum time to wait for the service, in milliseconds or with a unit (30s, 2m)",
    "http_pool": "HTTP pool that sends the requests",
    "format": "output format",
    "project_id": "project that new sessions belong to",
    "tags": "tags for new sessions, separated by commas",
    "headers": "additional headers for every request to the service, as a JSON object",
    "allow_http": "allow sending the key over unencrypted HTTP to another machine (true or false)",
}
#: Name of an HTTP pool option → its description.
POOL_DESCRIPTIONS = {
    "http_pool.driver": "installed HTTP pool that uses these options",
    "http_pool.ca_bundle": "CA certificates to trust (file or directory)",
    "http_pool.client_cert": "client certificate in PEM format",
    "http_pool.client_key": "private key of the client certificate, if it is in a separate file",
    "http_pool.insecure": "do not verify certificates (true or false)",
}
#: Name of a header → the variable that sets it, as in the official SDK.
CLOUDFLARE = {
    "CF-Access-Client-Id": "CLOUDFLARE_ACCESS_CLIENT_ID",
    "CF-Access-Client-Secret": "CLOUDFLARE_ACCESS_CLIENT_SECRET",
}
#: Headers that tinkex sets for each request; they cannot be settings.
_RESERVED = frozenset(
    {
        *("x-api-key", "user-agent", "accept", "accept-encoding", "content-type", "host"),
        *("content-length", "content-encoding", "transfer-encoding", "connection", "expect"),
    }
)
#: Two settings for the key: both are taken from the first source that has either.
CREDENTIAL = ("api_key", "api_key_command")
#: Settings that a profile may have.
PROFILE_KEYS = frozenset(DESCRIPTIONS) - {"profile"} | {"plugins"}

#: The official service (https://tinker-docs.thinkingmachines.ai).
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
#: Built-in profiles for known servers, with the default ports from their manuals.
SERVERS = {
    "official": {"base_url": DEFAULT_BASE_URL},
    "skyrl": {"base_url": "http://127.0.0.1:8000", "api_key": "tml-dummy"},
    "tuft": {"base_url": "http://127.0.0.1:10610"},
}

#: Spellings of booleans, in lower case.
_FLAGS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 0.001}


class Written(str):
    """An unquoted value in the file, kept as written, that YAML would not parse as a string.

    YAML reads ``0123`` as an octal number, ``1:30`` as 90 and ``no`` as false.
    """


def parse(name: str, value: Any) -> Any:
    """Return the parsed *value* of the setting *name*.

    :raises SettingsError: it is malformed.
    """
    # A command is run locally and may contain a file name that is not UTF-8; other values are sent.
    try:
        if name != "api_key_command":
            str(value).encode()
    except UnicodeEncodeError as error:  # the value is not repeated: it may be a key
        raise SettingsError(
            f"the value of {name} is not valid Unicode",
            hint="Convert the value to UTF-8, for example with iconv.",
        ) from error
    parser = _PARSERS.get(name)
    return _parse_text(value, name) if parser is None else parser(value)


def from_text(name: str, text: str) -> Any:
    """Convert *text*, typed by the user, to the value of *name* in a configuration file.

    :raises SettingsError: it is malformed.
    """
    value: Any = text.strip()
    if name == "allow_http":
        value = _FLAGS.get(value.lower(), value)
    if not value and value is not False:
        raise SettingsError(
            f"the value of {name} is empty",
            hint=f"To remove the setting: tinkex config unset {name}",
        )
    parsed = parse(name, value)
    return list(parsed) if name == "tags" else value if name == "timeout" else parsed


def parse_timeout(text: str | int | float) -> float:
    """Parse a timeout and return seconds: ``60000`` (milliseconds), ``500ms``, ``30s``, ``2m``.

    :raises SettingsError: *text* is malformed, zero, or more than 30 days.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", str(text).strip(), re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0 or seconds > 30 * 86400:
        raise SettingsError(
            f"not a timeout: {str(text)[:40]!r}",
            hint="Use milliseconds (60000), or a number with a unit (500ms, 30s, 2m), above 0 and "
            "up to 30 days.",
        )
    return seconds


def is_loopback(url: str) -> bool:
    """Return whether *url* refers to this machine."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_url(value: Any) -> str:
    from urllib.parse import urlsplit

    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        valid = valid and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in text):
        raise SettingsError(
            f"not a base URL: {text[:80]!r}", hint="Use the form https://host/path."
        )
    if parts.username or parts.password:
        raise SettingsError(
            "the base URL must not contain a user name or password",
            hint="Pass the key with --api-key, or set TINKER_API_KEY.",
        )
    return text


def _parse_tags(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise SettingsError("tags must be a list of strings or a comma-separated string")
    return tuple(tag for part in parts if (tag := part.strip()))


def parse_flag(value: Any, prefix: str = "") -> bool:
    """Parse a boolean, which is not quoted in a configuration file.

    :param prefix: beginning of the error message.
    :raises SettingsError: it is neither true nor false.
    """
    if isinstance(value, Written):
        value = _FLAGS.get(value.lower(), value)
    if isinstance(value, bool):
        return value
    raise SettingsError(f"{prefix}expected true or false, not {value!r}")


def _parse_text(value: Any, name: str) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value).strip()
    # The message omits the value, which may be a misplaced key.
    raise SettingsError(f"{name} must be a string")


def _parse_pool(value: Any) -> str:
    if isinstance(value, dict):
        raise SettingsError(
            "http_pool must be a name, not a mapping",
            hint="Put the options under http_pools at the top level, and set http_pool to the "
            "pool's name.",
        )
    return _parse_text(value, "http_pool")


def _parse_headers(value: Any) -> dict[str, str]:
    """Return headers by name; error messages omit their values, which may be secret."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise SettingsError(
            "headers must be a mapping of names to strings",
            hint="In the configuration file: headers: {X-Request-Id: a1}. On the command line: "
            '\'{"X-Request-Id": "a1"}\'.',
        )
    seen: set[str] = set()
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise SettingsError("the headers setting contains an invalid header name")
        if name.lower() in _RESERVED | seen:
            is_reserved, is_key = name.lower() in _RESERVED, name.lower() == "x-api-key"
            why = "cannot be changed: tinkex sets it" if is_reserved else "appears twice"
            remove = "Remove this header." if is_reserved else "Remove one of the two."
            hint = "To set the API key, use api_key." if is_key else remove
            raise SettingsError(f"the header {name} {why}", hint=hint)
        if not isinstance(text, str) or not re.fullmatch(
            r"[\x21-\x7e]([\t -~]*[\x21-\x7e])?", text
        ):
            raise SettingsError(
                f"the header {name} has an invalid value",
                hint="Use one non-empty line of ASCII text, in quotes, without spaces at the ends.",
            )
        seen.add(name.lower())
    return dict(value)


def _parse_sections(value: Any) -> dict[str, dict[Any, Any]]:
    sections = value.values() if isinstance(value, Mapping) else [value]
    if not all(isinstance(section or {}, Mapping) for section in sections):
        raise SettingsError(
            "plugins must be a mapping of distributions to their settings",
            hint="For example: plugins: {tinkex-hello: {greeting: Good morning}}",
        )
    return {str(name): dict(section or {}) for name, section in value.items()}


#: All other settings are strings.
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "base_url": _parse_url,
    "timeout": parse_timeout,
    "http_pool": _parse_pool,
    "tags": _parse_tags,
    "allow_http": lambda value: parse_flag(value, "allow_http: "),
    "headers": _parse_headers,
    "plugins": _parse_sections,
}
