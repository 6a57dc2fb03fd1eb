"""Where each setting comes from: flag, environment, profile, default — in that order.

A profile named *by flag* is as explicit as a flag, so its values win over the environment:
``--profile skyrl`` must not send ``TINKER_API_KEY`` to another server, nor follow a forgotten
``TINKER_BASE_URL``. A profile chosen by ``TINKEX_PROFILE`` or by the file itself comes after
the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tinkex import keys, plugins
from tinkex.exceptions import PluginError, SettingsError
from tinkex.files import user_path

#: What plugins may use, see the page "Plugin API".
__all__ = ["Settings"]

#: The official service (https://tinker-docs.thinkingmachines.ai).
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
#: Seconds; the guide's 120000 ms.
DEFAULT_TIMEOUT = 120.0
DEFAULT_POOL = "default"
#: Setting → environment variable.
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
CONFIG_VARIABLE = "TINKEX_CONFIG"

#: What a profile may say.
PROFILE_KEYS = frozenset(
    {
        "api_key",
        "api_key_command",
        "base_url",
        "timeout",
        "http_pool",
        "format",
        "project_id",
        "tags",
        "allow_http",
    }
)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 0.001}


@dataclass(frozen=True)
class Settings:
    """The effective settings of one invocation.

    :ivar profile: name of the profile in force, or ``None``.
    :ivar base_url: address of the service, without a trailing slash; may have a path.
    :ivar timeout: seconds that one operation may wait for the service; a command that needs
        several (create a run, then save) allows each as much.
    :ivar http_pool: name of the driver that carries requests.
    :ivar format: output format set by environment or profile, or ``None``.
    :ivar project_id: project that new sessions belong to, or ``None``.
    :ivar tags: tags of new sessions.
    :ivar allow_http: a key may travel over plain http to another machine.
    :ivar needs_api_key: whether requests carry a key (the embedded service needs none).
    :ivar origins: setting name → where its value came from, in words.
    """

    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    http_pool: str = DEFAULT_POOL
    profile: str | None = None
    format: str | None = None
    project_id: str | None = None
    tags: tuple[str, ...] = ()
    allow_http: bool = False
    needs_api_key: bool = True
    api_key: str | None = field(default=None, repr=False)
    api_key_command: str | None = field(default=None, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def credential(self) -> str | None:
        """Return the API key to send, or ``None`` where none is needed.

        Runs the credential command when that is where the key comes from.

        :raises SettingsError: there is no key, the command failed, or the key would travel
            unencrypted to another machine.
        """
        if not self.needs_api_key:
            return None
        key = self.api_key
        if not key and self.api_key_command:
            key = keys.from_command(self.api_key_command)
        if not key:
            raise SettingsError(
                "Missing --api-key",
                hint="Set TINKER_API_KEY, or try without an account: --profile local "
                "(pip install tinkex-local).",
            )
        self._refuse_plain_http()
        return keys.checked(key)

    def _refuse_plain_http(self) -> None:
        if self.allow_http or not self.base_url.startswith("http://"):
            return
        if not is_loopback(self.base_url):
            raise SettingsError(
                f"the API key would travel unencrypted to {self.base_url}",
                hint="Use https, or set allow_http: true in a profile.",
            )

    def key_warning(self) -> str | None:
        """Return a hint when the key looks wrong for the official service, else ``None``."""
        key = self.api_key
        official = self.base_url == DEFAULT_BASE_URL
        if not key or not official or key.startswith(("tml-", "eyJ")):
            return None
        return "Keys of the official service begin with 'tml-'; this one does not. Is it its key?"


def resolve(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: TextIO | None = None,
) -> Settings:
    """Return the effective settings.

    :param flags: options given on the command line (absent or ``None`` means not given):
        ``api_key``, ``base_url``, ``timeout``, ``profile``, ``http_pool``.
    :param environ: the environment; ``os.environ`` by default.
    :param stdin: where ``--api-key -`` is read from.
    :raises SettingsError: a value is malformed, the configuration file cannot be read, or the
        profile does not exist.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    config = _read_config(config_path(environ))
    profile, by_flag = _choose_profile(flags, environ, config)
    layers = [_from_flags(flags, stdin)]
    named = [_from_profile(profile, config)] if profile else []
    layers += [*named, _from_environ(environ)] if by_flag else [_from_environ(environ), *named]
    values, origins = _merge(layers, keys.stored)
    if profile:
        values["profile"] = profile
        origins["profile"] = _profile_origin(flags, environ)
    _apply_pool(values, origins, layers)
    return Settings(**values, origins=origins)


def chosen_profile(flag: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the name of the profile in force, which need not exist.

    :param flag: the profile named by an option.
    :raises SettingsError: the configuration file cannot be read.
    """
    environ = os.environ if environ is None else environ
    flags = {"profile": flag} if flag else {}
    return _choose_profile(flags, environ, _read_config(config_path(environ)))[0]


def profile_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of all profiles, those of HTTP pools included.

    :raises SettingsError: the configuration file cannot be read.
    """
    profiles = _read_config(config_path(environ)).get("profiles") or {}
    return sorted({*map(str, profiles), *_pools_with_profile()})


def _pools_with_profile() -> set[str]:
    return {ep.name for ep in plugins.entry_points(plugins.HTTP_POOLS)} - {DEFAULT_POOL}


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the configuration file, which need not exist."""
    environ = os.environ if environ is None else environ
    if environ.get(CONFIG_VARIABLE):
        return user_path(environ[CONFIG_VARIABLE])
    base = environ.get("XDG_CONFIG_HOME")
    # Unlike Path.home(), expanduser() does not fail for a user without a home.
    return Path(base or os.path.expanduser("~/.config"), "tinkex", "config.yaml")


def parse_duration(text: str | int | float) -> float:
    """Return the seconds that *text* means: ``60000`` (milliseconds), ``500ms``, ``30s``, ``2m``.

    :raises SettingsError: not a duration, or not more than zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", str(text).strip(), re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0 or seconds > 30 * 86400:
        raise SettingsError(
            f"not a timeout: {str(text)[:40]!r}",
            hint="Give milliseconds (60000) or a unit (500ms, 30s, 2m), up to 30 days.",
        )
    return seconds


def is_loopback(url: str) -> bool:
    """Tell whether *url* names this machine."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class _Layer:
    """Settings of one source: name → value, and name → where from."""

    values: Mapping[str, Any]
    origin: Callable[[str], str]


def _from_flags(flags: Mapping[str, Any], stdin: TextIO | None) -> _Layer:
    values = {name: value for name, value in flags.items() if name != "profile"}
    if "api_key" in values:
        values["api_key"] = keys.read_argument(values["api_key"], stdin)
    return _Layer(values, lambda name: "--" + name.replace("_", "-"))


def _from_environ(environ: Mapping[str, str]) -> _Layer:
    values = {
        name: environ[variable]
        for name, variable in ENVIRONMENT.items()
        if environ.get(variable) and name != "profile"
    }
    return _Layer(values, lambda name: ENVIRONMENT[name])


def _from_profile(name: str, config: Mapping[str, Any]) -> _Layer:
    profiles = {str(key): value for key, value in (config.get("profiles") or {}).items()}
    values = profiles[name] or {} if name in profiles else _implied_profile(name, profiles)
    if not isinstance(values, Mapping):
        raise SettingsError(f"profile {name!r} is not a mapping in the configuration file")
    for key in values:
        if key not in PROFILE_KEYS:
            raise SettingsError(
                f"profile {name!r} has an unknown setting {str(key)!r}",
                hint="Known: " + ", ".join(sorted(PROFILE_KEYS)) + ".",
            )
    return _Layer(values, lambda _: f"profile {name}")


def _implied_profile(name: str, profiles: Mapping[str, Any]) -> Mapping[str, Any]:
    # Installing tinkex-local is enough for `--profile local`.
    pools = _pools_with_profile()
    if name in pools:
        return {"http_pool": name}
    hint = "Known: " + (", ".join(sorted({*map(str, profiles), *pools})) or "none") + "."
    if name == "local" and plugins.find_distribution("tinkex-local"):
        hint = f"{plugins.ONLY} does not name tinkex-local."
    elif name == "local":
        hint = "Install the embedded service: pip install tinkex-local."
    raise SettingsError(f"no profile is called {name!r}", hint=hint)


def _choose_profile(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[str | None, bool]:
    if flags.get("profile"):
        return str(flags["profile"]), True
    chosen = environ.get(ENVIRONMENT["profile"]) or config.get("profile")
    return (None if chosen in (None, "") else str(chosen)), False


def _profile_origin(flags: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    if flags.get("profile"):
        return "--profile"
    variable = ENVIRONMENT["profile"]
    return variable if environ.get(variable) else str(config_path(environ))


def _merge(
    layers: list[_Layer], stored_key: Callable[[], tuple[str, str] | None]
) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        # The first source that names a credential, as a key or as a command, decides both.
        has_credential = "api_key" in values or "api_key_command" in values
        for name, value in layer.values.items():
            if name in values or value is None:
                continue
            if has_credential and name in ("api_key", "api_key_command"):
                continue
            values[name] = _parse(name, value, layer.origin(name))
            origins[name] = layer.origin(name)
    if not ("api_key" in values or "api_key_command" in values):
        stored = stored_key()
        if stored:
            values["api_key"], origins["api_key"] = stored
    return values, origins


def _apply_pool(values: dict[str, Any], origins: dict[str, str], layers: list[_Layer]) -> None:
    """Let the chosen pool say where requests go and whether they need a key."""
    name = values.get("http_pool", DEFAULT_POOL)
    if name == DEFAULT_POOL:
        return
    try:
        pool = plugins.load_driver(plugins.HTTP_POOLS, name)
    except PluginError as error:
        raise SettingsError(f"{error} (from {origins['http_pool']})", hint=error.hint) from error
    values["needs_api_key"] = bool(pool.needs_api_key)
    # A pool with an address of its own is the server; only a flag may point elsewhere.
    if pool.base_url and "base_url" not in layers[0].values:
        values["base_url"] = pool.base_url
        origins["base_url"] = f"HTTP pool {name}"


def _parse(name: str, value: Any, origin: str) -> Any:
    try:
        return _PARSERS[name](value)
    except SettingsError as error:
        raise SettingsError(f"{error} (from {origin})", hint=error.hint) from error


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
            f"not a base URL: {text[:80]!r}", hint="It looks like https://host/path."
        )
    if parts.username or parts.password:
        raise SettingsError("the base URL must not hold a user name or password")
    return text


def _parse_tags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (str, list)):
        raise SettingsError("tags must be a list or a text with commas")
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(tag for part in parts if (tag := str(part).strip()))


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise SettingsError(f"neither true nor false: {value!r}")


def _parse_text(value: Any) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value).strip()
    # The value is not repeated: it may be a key in the wrong place.
    raise SettingsError(f"a text is wanted here, not a {type(value).__name__}")


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "api_key": _parse_text,
    "api_key_command": _parse_text,
    "base_url": _parse_url,
    "timeout": parse_duration,
    "http_pool": _parse_text,
    "format": _parse_text,
    "project_id": _parse_text,
    "tags": _parse_tags,
    "allow_http": _parse_bool,
}


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {_reason(error)}") from error
    import yaml

    try:
        config = yaml.safe_load(text)
    except (ValueError, RecursionError) as error:  # dates out of range, endless nesting
        raise SettingsError(f"{path} is not valid YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not valid YAML{where}") from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not isinstance(config.get("profiles") or {}, dict):
        raise SettingsError(f"{path} must be a mapping with 'profile' and 'profiles'")
    return config


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not UTF-8 text"


def effective(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield ``(name, value, origin)`` of every setting, secrets masked."""
    for name in (
        "profile",
        "base_url",
        "api_key",
        "api_key_command",
        "timeout",
        "http_pool",
        "format",
        "project_id",
        "tags",
        "allow_http",
    ):
        value = getattr(settings, name)
        if name == "api_key" and value:
            value = keys.mask(value)
        if name == "timeout":
            value = f"{value:g}s"
        if name == "api_key_command" and value:
            value = keys.mask_inside(value)
        origin = settings.origins.get(name, "default")
        yield name, list(value) if isinstance(value, tuple) else value, origin
