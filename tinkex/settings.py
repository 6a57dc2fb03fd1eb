"""The effective settings, from options, the environment, a profile and defaults.

An earlier source takes precedence over a later one. There are exceptions: a profile that an option
selects takes precedence over the environment, so that ``--profile skyrl`` does not send the
``TINKER_API_KEY`` of another server. If any other profile specifies a server and a key for it, this
key takes precedence over a key from the environment.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tinkex import plugins
from tinkex.config import credentials, file, pools
from tinkex.config.values import (
    CLOUDFLARE,
    CREDENTIAL,
    DEFAULT_BASE_URL,
    DESCRIPTIONS,
    ENVIRONMENT,
    PROFILE_KEYS,
    is_loopback,
    parse,
)
from tinkex.exceptions import PluginError, SettingsError
from tinkex.plugins import PoolOptions

#: The public names, see the page "Plugin API".
__all__ = ["Settings"]

#: Default timeout in seconds.
DEFAULT_TIMEOUT = 120.0
DEFAULT_POOL = pools.AUTO
#: Prefix of the origin of a value that comes from a profile.
PROFILE_ORIGIN = "profile "
#: The settings of one source: name → value and description of the origin.
_Source = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class Settings:
    """The effective settings of one invocation.

    :ivar profile: name of the active profile, or ``None``.
    :ivar base_url: base URL of the service, without a trailing slash; may have a path.
    :ivar timeout: seconds that one operation may wait for the service; it applies to each operation
        of a command (create a run, then save).
    :ivar http_pool: name of the HTTP pool that sends requests: an installed driver, or a pool
        defined in the configuration file.
    :ivar format: output format from the environment or a profile, or ``None``.
    :ivar project_id: project that new sessions belong to, or ``None``.
    :ivar tags: tags of new sessions.
    :ivar allow_http: the key may be sent over plain http to another machine.
    :ivar needs_api_key: whether requests carry a key (the local service needs none).
    :ivar headers: additional headers for every request to the service; values are secret.
    :ivar plugins: the profile's settings of plugins, by distribution name; values may be
        secret. Use :meth:`plugin`.
    :ivar origins: setting name → description of the origin of its value.
    :ivar pool_options: TLS options of the HTTP pool.
    :ivar distrust: why ``api_key_command`` is not run, or ``None``.
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
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False, hash=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    pool_options: PoolOptions = field(default_factory=PoolOptions)
    distrust: str | None = field(default=None, repr=False)

    @property
    def pool_driver(self) -> str:
        """Name of the installed HTTP pool behind ``http_pool``; ``auto`` chooses one."""
        name = self.pool_options.driver or self.http_pool
        return plugins.preferred_pool(self) if name == pools.AUTO else name

    def plugin(self, name: str) -> Any:
        """Return the settings of the plugin *name*: the dataclass that it declares in the group
        ``tinkex.settings``, with the values that the profile has for it.

        :raises PluginError: the plugin declares no settings.
        :raises SettingsError: a setting in the profile is unknown or malformed.
        """
        from tinkex.config import sections

        return sections.read(name, self.plugins, self.origins.get("plugins", "Settings.plugins"))

    @property
    def is_exposed(self) -> bool:
        """Whether a key would be sent unencrypted to another machine without permission."""
        is_plain = self.base_url.startswith("http://") and not self.allow_http
        return is_plain and not is_loopback(self.base_url)

    def check_pool(self) -> None:
        """Check that the options of the HTTP pool are usable and safe.

        :raises SettingsError: a file is missing or unusable, or certificates of the official
            service would not be checked although its address was not given explicitly.
        """
        official = self.base_url == DEFAULT_BASE_URL and "base_url" not in self.origins
        if self.pool_options.insecure and official:
            raise SettingsError(
                "certificate checks cannot be turned off for the default base URL",
                hint="If a proxy signs the certificates, set REQUESTS_CA_BUNDLE to its CA "
                "certificate. To turn the checks off anyway, specify the URL with --base-url.",
            )
        pools.check_files(self.pool_options)

    def credential(self) -> str | None:
        """Return the API key to send, or ``None`` if no key is needed.

        Runs the credential command if one is set and no key is given.

        :raises SettingsError: there is no key, the command failed or must not be run, or the key
            would be sent unencrypted to another machine.
        """
        if not self.needs_api_key:
            return None
        key = self.api_key
        if not key and self.api_key_command:
            if self.distrust:
                raise SettingsError(
                    f"tinkex does not run the api_key_command in {file.config_path()}: "
                    f"{self.distrust}",
                    hint=file.DISTRUSTED,
                )
            key = credentials.from_command(self.api_key_command)
        if not key:
            raise SettingsError("Missing --api-key", hint=self._how_to_get_a_key())
        if self.is_exposed:
            raise SettingsError(
                f"the API key would be sent unencrypted to {self.base_url}",
                hint=f"Use https, or allow it: {self._command('config set allow_http true')}",
            )
        return credentials.checked(key)

    def _how_to_get_a_key(self) -> str:
        if is_of_profile(self.base_url, self.origins.get("base_url")):
            return f"Store a key for the profile: tinkex --profile {self.profile} auth login"
        login = self._command("auth login")
        if elsewhere := _keys_elsewhere():
            others = ", ".join(f"{url} ({option})" for option, url in elsewhere.items())
            return f"Servers with a key: {others}. For this server, log in with '{login}'."
        return (
            f"Log in with '{login}' or set TINKER_API_KEY. Without an account, use --profile local."
        )

    def _command(self, words: str) -> str:
        """Return the command line ``tinkex WORDS`` with the given options for profile and URL."""
        import shlex

        chosen = {"--profile": self.profile, "--base-url": self.base_url}
        given = [
            n for name, v in chosen.items() if name in self.origins.values() for n in (name, v)
        ]
        return f"{shlex.join(['tinkex', *map(str, given)])} {words}"

    def key_warning(self) -> str | None:
        """Return a warning if the key looks wrong for the official service, else ``None``."""
        key = self.api_key
        official = self.base_url == DEFAULT_BASE_URL
        if not key or not official or key.startswith(("tml-", "eyJ")):
            return None
        return (
            "Keys for the hosted service begin with 'tml-', but this key does not. Check the key."
        )

    def address_warning(self) -> str | None:
        """Return a warning if the base URL already has the API path, else ``None``."""
        found = re.search(r"(/oai)?/api(/v1)?$|/v1$", self.base_url)
        if found is None:
            return None
        base = self.base_url[: found.start()]
        return f"The base URL ends in {found[0]}; tinkex adds /api/v1 to it. Did you mean {base}?"


def resolve(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: TextIO | None = None,
) -> Settings:
    """Compute the effective settings.

    :param flags: options of the command line (absent or ``None`` if not given):
        ``api_key``, ``base_url``, ``timeout``, ``profile``, ``http_pool``, ``insecure``.
    :param environ: the environment; ``os.environ`` by default.
    :param stdin: the stream that ``--api-key -`` is read from.
    :raises SettingsError: a value is malformed, the configuration file cannot be read, or the
        profile does not exist.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    path = file.config_path(environ)
    config, distrust = file.read_checked(path)
    profile, origin = _active_profile(flags.pop("profile", None), environ, config, path)
    insecure = bool(flags.pop("insecure", False))
    options = _from_options(flags, stdin)
    environment = _from_environ(environ)
    named = {} if profile is None else _from_profile(profile, config)
    if origin != "--profile" and _has_own_key(named) and "base_url" not in options | environment:
        environment = {k: v for k, v in environment.items() if k not in CREDENTIAL}
    lower = [named, environment] if origin == "--profile" else [environment, named]
    values, origins = _merge([options, *lower])
    if profile is not None:
        values["profile"], origins["profile"] = profile, origin
        if origins.get("api_key_command", "").startswith(PROFILE_ORIGIN):
            values["distrust"] = distrust if profile in file.profiles_in(config) else None
    _add_cloudflare(values, origins, environ)
    _add_stored_key(values, origins)
    _add_pool_options(values, origins, config, path)
    if insecure:
        values["pool_options"] = values["pool_options"]._replace(insecure=True)
        origins["http_pool.insecure"] = "--insecure"
    _add_driver(values, origins, config)
    _check_server(named, values, origins, config, path)
    return Settings(**values, origins=origins)


def chosen_profile(flag: str | None = None) -> str | None:
    """Return the name of the active profile, which need not exist.

    :param flag: the profile given by an option.
    :raises SettingsError: the configuration file cannot be read.
    """
    path = file.config_path()
    return _active_profile(flag, os.environ, file.read(path), path)[0]


def profile_names() -> list[str]:
    """Return the names of all profiles, including those of plugins.

    :raises SettingsError: the configuration file cannot be read.
    """
    written = file.profiles_in(file.read(file.config_path()))
    return sorted({*written, *file.plugin_profile_names()})


def pool_names(config: Mapping[str, Any] | None = None) -> list[str]:
    """Return the names of all HTTP pools: installed drivers and pools of the file.

    :param config: the content of the file; by default it is read.
    :raises SettingsError: the configuration file cannot be read.
    """
    installed = (ep.name for ep in plugins.entry_points(plugins.HTTP_POOLS))
    config = file.read(file.config_path()) if config is None else config
    return sorted({pools.AUTO, *installed, *pools.named_in(config)})


def effective(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield ``(name, value, origin)`` of every setting, secrets masked."""
    for name in DESCRIPTIONS:
        value = credentials.masked(name, getattr(settings, name))
        if name == "timeout":
            value = f"{value:g}s"
        yield name, value, settings.origins.get(name) or pools.origin_without(value)


def stray_key(settings: Settings) -> str | None:
    """Return a warning if a key of the official service may be sent to another server.

    The key comes from the environment, the server from a profile that has no key for it.
    """
    origin, url = settings.origins.get("api_key"), settings.base_url
    official = settings.needs_api_key and (settings.api_key or "").startswith("tml-")
    elsewhere = is_of_profile(url, settings.origins.get("base_url")) and not is_loopback(url)
    if origin != ENVIRONMENT["api_key"] or not official or not elsewhere:
        return None
    return (
        f"The key in {origin} is sent to {url}, the server of profile {settings.profile}. If the "
        "key is for another server, store the right key for the profile: "
        f"tinkex --profile {settings.profile} auth login"
    )


def _keys_elsewhere() -> dict[str, str]:
    """Return a mapping: the options that select another key → the URL of its server."""
    known = {f"--base-url {url}": url for url in credentials.KeyStore().addresses()}
    for name, values in file.profiles_in(file.read(file.config_path())).items():
        if isinstance(values, Mapping) and any(values.get(key) for key in CREDENTIAL):
            known[f"--profile {name}"] = str(values.get("base_url", DEFAULT_BASE_URL))
    return known


def is_of_profile(base_url: str, origin: str | None) -> bool:
    """Return whether the base URL comes from a profile and is not the official service.

    A key of the official service is sent there only if the user gives it explicitly.
    """
    return base_url != DEFAULT_BASE_URL and (origin or "").startswith(PROFILE_ORIGIN)


def _active_profile(
    flag: Any, environ: Mapping[str, str], config: Mapping[str, Any], path: Path
) -> tuple[str | None, str]:
    """Return the name of the active profile, and the origin of that choice."""
    variable = ENVIRONMENT["profile"]
    for name, origin in (
        (flag, "--profile"),
        (environ.get(variable), variable),
        (config.get("profile"), str(path)),
    ):
        if name not in (None, ""):
            return str(name), origin
    return None, ""


def _from_options(flags: Mapping[str, Any], stdin: TextIO | None) -> _Source:
    values = dict(flags)
    if "api_key" in values:
        values["api_key"] = credentials.read_argument(values["api_key"], stdin)
    return {name: (value, f"--{name.replace('_', '-')}") for name, value in values.items()}


def _from_environ(environ: Mapping[str, str]) -> _Source:
    return {
        name: (environ[variable], variable)
        for name, variable in ENVIRONMENT.items()
        if environ.get(variable) and name != "profile"
    }


def _from_profile(name: str, config: Mapping[str, Any]) -> _Source:
    written, provided = file.profiles_in(config), file.plugin_profile_names()
    if name not in {*written, *provided}:
        hint = "Known profiles: " + (", ".join(sorted({*written, *provided})) or "none") + "."
        if name == "local":
            hint = f"The profile comes with tinkex-local. {plugins.how_to_get('tinkex-local')}"
        raise SettingsError(f"no profile named {name!r}", hint=hint)
    values = written[name] or {} if name in written else file.plugin_profile(name)
    if not isinstance(values, Mapping):
        raise SettingsError(f"profile {name!r} in the configuration file must be a mapping")
    for key in values:
        if key not in PROFILE_KEYS:
            raise SettingsError(
                f"profile {name!r} has an unknown setting {str(key)!r}",
                hint="Known settings: " + ", ".join(sorted(PROFILE_KEYS)) + ".",
            )
    return {key: (value, f"{PROFILE_ORIGIN}{name}") for key, value in values.items()}


def _has_own_key(profile: _Source) -> bool:
    """Return whether *profile* has both a base URL and a key for it."""
    server, _ = profile.get("base_url", (None, ""))
    has_key = any(profile.get(name, (None, ""))[0] for name in CREDENTIAL)
    return has_key and server not in (None, DEFAULT_BASE_URL)


def _merge(sources: list[_Source]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value and the origin of each setting in *sources*, by precedence."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in sources:
        has_credential = not values.keys().isdisjoint(CREDENTIAL)
        for name, (value, origin) in source.items():
            if value is None or name in values or (has_credential and name in CREDENTIAL):
                continue
            try:
                values[name] = parse(name, value)
            except SettingsError as error:
                raise SettingsError(f"{error} (from {origin})", hint=error.hint) from error
            origins[name] = origin
    return values, origins


def _add_cloudflare(
    values: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]
) -> None:
    """Add the service token of Cloudflare Access, unless a profile sets its headers."""
    own = values.get("headers", {})
    names = {name.lower() for name in own}
    for name, variable in CLOUDFLARE.items():
        if environ.get(variable) and name.lower() not in names:
            own = {**own, name: environ[variable]}
            origins["headers"] = ", ".join(filter(None, (origins.get("headers"), variable)))
    if own:
        values["headers"] = parse("headers", own)


def _add_stored_key(values: dict[str, Any], origins: dict[str, str]) -> None:
    if values.keys().isdisjoint(CREDENTIAL):
        url = values.get("base_url", DEFAULT_BASE_URL)
        store = credentials.KeyStore()
        own = is_of_profile(url, origins.get("base_url"))
        if stored := store.for_address(url, only_its_own=own):
            values["api_key"], origins["api_key"] = stored.key, str(store.path)


def _add_pool_options(
    values: dict[str, Any], origins: dict[str, str], config: Mapping[str, Any], path: Path
) -> None:
    """Add the pool's options from the configuration file."""
    name = values.get("http_pool", DEFAULT_POOL)
    named = pools.named_in(config)
    values["pool_options"], given = _pool_options(name, config, path)
    section = f"{pools.SECTION}.{name}"
    origins |= {f"http_pool.{member}": section for member in given}
    if name in named or "http_pool" in origins:
        origins.setdefault("http_pool.driver", section if name in named else origins["http_pool"])


def _pool_options(
    name: str, config: Mapping[str, Any], path: Path
) -> tuple[PoolOptions, tuple[str, ...]]:
    """Return the options of the pool *name*, and the names of those set in the file *path*."""
    is_named = bool(pools.named_in(config))
    drivers = {ep.name for ep in plugins.entry_points(plugins.HTTP_POOLS)} if is_named else set()
    return pools.options_of(name, config, path.parent, drivers)


def _add_driver(values: dict[str, Any], origins: dict[str, str], config: Mapping[str, Any]) -> None:
    """Add the base URL and the key requirement of the pool's driver.

    :raises SettingsError: the driver does not exist or does not load.
    """
    name = values["pool_options"].driver
    if name in (pools.AUTO, pools.DEFAULT_DRIVER):
        return
    try:
        pool = plugins.load_driver(plugins.HTTP_POOLS, name)
    except PluginError as error:
        origin, hint = origins["http_pool.driver"], error.hint
        if (hint or "").startswith("Available ") and not origin.startswith(pools.SECTION):
            hint = "Known pools: " + ", ".join(pool_names(config)) + "."
        text = f"{error} (from {origin})"
        raise SettingsError(text, hint=hint, category=error.category) from error
    values["needs_api_key"] = bool(pool.needs_api_key)
    # The address of a pool takes precedence over all but an option.
    if pool.base_url and origins.get("base_url") != "--base-url":
        values["base_url"], origins["base_url"] = pool.base_url, f"HTTP pool {name}"


def _check_server(
    named: _Source,
    values: dict[str, Any],
    origins: dict[str, str],
    config: Mapping[str, Any],
    path: Path,
) -> None:
    """Check that no other pool replaces the one that is the server of the profile.

    Its requests would be sent to the official service.

    :param named: the settings of the profile.
    :raises SettingsError: it is replaced, and neither the profile nor a source that precedes the
        profile names a server.
    """
    name, origin = named.get("http_pool", (None, ""))[0], origins.get("http_pool", "")
    server = origins.get("base_url")
    is_stale = server == ENVIRONMENT["base_url"] and origins.get("profile") == "--profile"
    if not name or origin.startswith(PROFILE_ORIGIN) or not (server is None or is_stale):
        return
    driver = _pool_options(str(name), config, path)[0].driver
    if driver in (pools.AUTO, pools.DEFAULT_DRIVER):
        return
    with contextlib.suppress(PluginError):  # a pool that is missing is not replaced
        if plugins.load_driver(plugins.HTTP_POOLS, str(driver)).base_url:
            omit = "Unset" if origin == ENVIRONMENT["http_pool"] else "Omit"
            raise SettingsError(
                f"profile {values['profile']!r} requires the HTTP pool {name!r}, but "
                f"{origin} selects {values['http_pool']!r}",
                hint=f"{omit} {origin}, or specify a server URL with --base-url.",
            )
