"""Where each setting comes from: flag, environment, profile, default — in that order.

A profile named *by flag* is as explicit as a flag, so its values win over the environment:
``--profile skyrl`` must not send ``TINKER_API_KEY`` to another server, nor follow a forgotten
``TINKER_BASE_URL``. A profile chosen by ``TINKEX_PROFILE`` or by the file itself comes after
the environment; but where such a profile says which server it is, the key that it has for that
server stands before one of the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tinkex import plugins
from tinkex.config import credentials, file, pools
from tinkex.config.values import (
    DEFAULT_BASE_URL,
    DESCRIPTIONS,
    ENVIRONMENT,
    PROFILE_KEYS,
    is_loopback,
    parse,
)
from tinkex.exceptions import PluginError, SettingsError
from tinkex.plugins import PoolOptions

#: What plugins may use, see the page "Plugin API".
__all__ = ["PoolOptions", "Settings"]

#: Seconds; the guide's 120000 ms.
DEFAULT_TIMEOUT = 120.0
DEFAULT_POOL = pools.DEFAULT_DRIVER
#: Two ways to say one thing: the first source that has either decides both.
_CREDENTIAL = ("api_key", "api_key_command")
#: How the origin of a value begins that a profile has set.
PROFILE_ORIGIN = "profile "


@dataclass(frozen=True)
class Settings:
    """The effective settings of one invocation.

    :ivar profile: name of the profile in force, or ``None``.
    :ivar base_url: address of the service, without a trailing slash; may have a path.
    :ivar timeout: seconds that one operation may wait for the service; a command that needs
        several (create a run, then save) allows each as much.
    :ivar http_pool: name of the HTTP pool that carries requests: an installed driver, or one that
        the configuration file names.
    :ivar format: output format set by environment or profile, or ``None``.
    :ivar project_id: project that new sessions belong to, or ``None``.
    :ivar tags: tags of new sessions.
    :ivar allow_http: a key may travel over plain http to another machine.
    :ivar needs_api_key: whether requests carry a key (the embedded service needs none).
    :ivar origins: setting name → where its value came from, in words.
    :ivar pool_options: TLS options of the HTTP pool.
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
    pool_options: PoolOptions = field(default_factory=PoolOptions)

    @property
    def pool_driver(self) -> str:
        """Name of the installed HTTP pool behind ``http_pool``."""
        return self.pool_options.driver or self.http_pool

    def check_pool(self) -> None:
        """Refuse options of the HTTP pool that cannot be used.

        :raises SettingsError: a file is missing or unusable, or certificates of the official
            service would not be checked although nobody has named its address.
        """
        official = self.base_url == DEFAULT_BASE_URL and "base_url" not in self.origins
        if self.pool_options.insecure and official:
            raise SettingsError(
                "certificate checks stay on for the official service",
                hint="Behind a proxy that signs by itself, trust its authority: ca_bundle. "
                "If you do mean it, name the address with --base-url.",
            )
        pools.check_files(self.pool_options)

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
            key = credentials.from_command(self.api_key_command)
        if not key:
            raise SettingsError("Missing --api-key", hint=self._how_to_get_a_key())
        self._refuse_plain_http()
        return credentials.checked(key)

    def _how_to_get_a_key(self) -> str:
        if is_of_profile(self.base_url, self.origins.get("base_url")):
            return f"Give the profile one: tinkex --profile {self.profile} auth login."
        hint = "Log in with 'tinkex auth login' or set TINKER_API_KEY; without an account: "
        if "local" in file.plugin_profile_names():
            return f"{hint}--profile local."
        return f"{hint}--profile local, of tinkex-local. {plugins.how_to_get('tinkex-local')}"

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
        ``api_key``, ``base_url``, ``timeout``, ``profile``, ``http_pool``, ``insecure``.
    :param environ: the environment; ``os.environ`` by default.
    :param stdin: where ``--api-key -`` is read from.
    :raises SettingsError: a value is malformed, the configuration file cannot be read, or the
        profile does not exist.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    config = file.read(file.config_path(environ))
    profile, by_flag = _choose_profile(flags, environ, config)
    without_checks = bool(flags.pop("insecure", None))
    layers = [_from_flags(flags, stdin)]
    named = [_from_profile(profile, config)] if profile else []
    environment = _from_environ(environ)
    if named and not by_flag:
        environment = _without_other_key(environment, named[0], "base_url" in flags)
    layers += [*named, environment] if by_flag else [environment, *named]
    values, origins = _merge(layers)
    if profile:
        values["profile"] = profile
        origins["profile"] = _profile_origin(flags, environ)
    _find_pool(values, origins, config, file.config_path(environ))
    if without_checks:
        values["pool_options"] = pools.insecure(values["pool_options"])
        origins["http_pool.insecure"] = "--insecure"
    _apply_pool(values, origins, layers, config)
    return Settings(**values, origins=origins)


def chosen_profile(flag: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the name of the profile in force, which need not exist.

    :param flag: the profile named by an option.
    :raises SettingsError: the configuration file cannot be read.
    """
    environ = os.environ if environ is None else environ
    flags = {"profile": flag} if flag else {}
    return _choose_profile(flags, environ, file.read(file.config_path(environ)))[0]


def profile_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of all profiles, those that plugins bring included.

    :raises SettingsError: the configuration file cannot be read.
    """
    config = file.read(file.config_path(environ))
    return sorted({*file.profiles_in(config), *file.plugin_profile_names()})


class _Layer:
    """Settings of one source: name → value, and name → where from."""

    def __init__(self, values: Mapping[str, Any], origin: Callable[[str], str]) -> None:
        self.values = values
        self.origin = origin


def _from_flags(flags: Mapping[str, Any], stdin: TextIO | None) -> _Layer:
    values = {name: value for name, value in flags.items() if name != "profile"}
    if "api_key" in values:
        values["api_key"] = credentials.read_argument(values["api_key"], stdin)
    return _Layer(values, lambda name: "--" + name.replace("_", "-"))


def _from_environ(environ: Mapping[str, str]) -> _Layer:
    values = {
        name: environ[variable]
        for name, variable in ENVIRONMENT.items()
        if environ.get(variable) and name != "profile"
    }
    return _Layer(values, lambda name: ENVIRONMENT[name])


def _without_other_key(environment: _Layer, profile: _Layer, has_address: bool) -> _Layer:
    """Return *environment* without its key if *profile* has a server of its own and its key."""
    own = profile.values.get("base_url") not in (None, DEFAULT_BASE_URL)
    if has_address or not own or "base_url" in environment.values:  # an option, a variable
        return environment
    if not any(profile.values.get(name) for name in _CREDENTIAL):
        return environment
    kept = {name: value for name, value in environment.values.items() if name not in _CREDENTIAL}
    return _Layer(kept, environment.origin)


def _from_profile(name: str, config: Mapping[str, Any]) -> _Layer:
    written = file.profiles_in(config)
    values = written[name] or {} if name in written else _implied_profile(name, written)
    if not isinstance(values, Mapping):
        raise SettingsError(f"profile {name!r} is not a mapping in the configuration file")
    for key in values:
        if key not in PROFILE_KEYS:
            raise SettingsError(
                f"profile {name!r} has an unknown setting {str(key)!r}",
                hint="Known: " + ", ".join(sorted(PROFILE_KEYS)) + ".",
            )
    return _Layer(values, lambda _: f"{PROFILE_ORIGIN}{name}")


def _implied_profile(name: str, written: Mapping[str, Any]) -> Mapping[str, Any]:
    # Installing tinkex-local is enough for `--profile local`.
    implied = file.plugin_profile_names()
    if name in implied:
        return file.plugin_profile(name)
    hint = "Known: " + (", ".join(sorted({*map(str, written), *implied})) or "none") + "."
    if name == "local":
        hint = f"It comes with tinkex-local. {plugins.how_to_get('tinkex-local')}"
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
    return variable if environ.get(variable) else str(file.config_path(environ))


def _merge(layers: list[_Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        # The first source that names a credential, as a key or as a command, decides both.
        has_credential = "api_key" in values or "api_key_command" in values
        for name, value in layer.values.items():
            if name in values or value is None:
                continue
            if has_credential and name in _CREDENTIAL:
                continue
            values[name] = _parse(name, value, layer.origin(name))
            origins[name] = layer.origin(name)
    if not ("api_key" in values or "api_key_command" in values):
        url = values.get("base_url", DEFAULT_BASE_URL)
        from tinkex.config.credentials import KeyStore

        store = KeyStore()
        own = is_of_profile(url, origins.get("base_url"))
        stored = store.for_address(url, only_its_own=own)
        if stored:
            values["api_key"], origins["api_key"] = stored.key, str(store.path)
    return values, origins


def stray_key(settings: Settings) -> str | None:
    """Return a warning if a hosted key of the environment goes to the server of a profile.

    That is one on another machine, for which the profile has no key.
    """
    origin = settings.origins.get("api_key")
    official = settings.needs_api_key and (settings.api_key or "").startswith("tml-")
    elsewhere = is_of_profile(settings.base_url, settings.origins.get("base_url"))
    strays = origin == ENVIRONMENT["api_key"] and official and elsewhere
    if not strays or is_loopback(settings.base_url):
        return None
    return (
        f"{origin} goes to {settings.base_url}, the server of profile {settings.profile}; if it is "
        f"a key for another, give the profile one: tinkex --profile {settings.profile} auth login"
    )


def is_of_profile(base_url: str, origin: str | None) -> bool:
    """Tell whether a profile says that the service is another than the official one.

    A key of the official service is never sent there by itself.
    """
    return base_url != DEFAULT_BASE_URL and (origin or "").startswith(PROFILE_ORIGIN)


def _apply_pool(
    values: dict[str, Any], origins: dict[str, str], layers: list[_Layer], config: Mapping[str, Any]
) -> None:
    """Let the chosen pool say where requests go and whether they need a key."""
    name = values["pool_options"].driver
    if name == DEFAULT_POOL:
        return
    try:
        pool = plugins.load_driver(plugins.HTTP_POOLS, name)
    except PluginError as error:
        raise _unknown_pool(error, values, origins, config) from error
    values["needs_api_key"] = bool(pool.needs_api_key)
    # A pool with an address of its own is the server; only a flag may point elsewhere.
    if pool.base_url and "base_url" not in layers[0].values:
        values["base_url"] = pool.base_url
        origins["base_url"] = f"HTTP pool {name}"


def _find_pool(
    values: dict[str, Any], origins: dict[str, str], config: Mapping[str, Any], path: Path
) -> None:
    """Let the configuration file say what is behind the name of the pool."""
    name = values.get("http_pool", DEFAULT_POOL)
    asked = plugins.entry_points(plugins.HTTP_POOLS) if config.get(pools.SECTION) else []
    drivers = {ep.name for ep in asked}
    options, given = pools.options_of(name, config, path.parent, drivers)
    values["pool_options"] = options
    origins |= {f"http_pool.{member}": f"{pools.SECTION}.{name}" for member in given}
    if name in pools.named_in(config) and "driver" not in given:
        origins["http_pool.driver"] = f"{pools.SECTION}.{name}"
    elif name not in pools.named_in(config) and "http_pool" in origins:
        origins["http_pool.driver"] = origins["http_pool"]


def _unknown_pool(
    error: PluginError,
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    config: Mapping[str, Any],
) -> SettingsError:
    origin = origins.get("http_pool.driver") or origins["http_pool"]
    hint = error.hint
    if (hint or "").startswith("Known: ") and not origin.startswith(pools.SECTION):
        hint = "Known: " + ", ".join(_pool_names(config)) + "."
    return SettingsError(f"{error} (from {origin})", hint=hint)


def pool_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what may be named as HTTP pool: installed drivers and those of the file.

    :raises SettingsError: the configuration file cannot be read.
    """
    return _pool_names(file.read(file.config_path(environ)))


def _pool_names(config: Mapping[str, Any]) -> list[str]:
    installed = (ep.name for ep in plugins.entry_points(plugins.HTTP_POOLS))
    return sorted({*installed, *pools.named_in(config)})


def _parse(name: str, value: Any, origin: str) -> Any:
    try:
        return parse(name, value)
    except SettingsError as error:
        raise SettingsError(f"{error} (from {origin})", hint=error.hint) from error


def effective(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield ``(name, value, origin)`` of every setting, secrets masked."""
    for name in DESCRIPTIONS:
        value = getattr(settings, name)
        if name == "api_key" and value:
            value = credentials.mask(value)
        if name == "timeout":
            value = f"{value:g}s"
        if name == "api_key_command" and value:
            value = credentials.mask_inside(value)
        origin = settings.origins.get(name, "default")
        yield name, list(value) if isinstance(value, tuple) else value, origin
