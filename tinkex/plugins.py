"""The entry-point groups of tinkex, and the discovery and loading of entry points.

Listing names imports nothing: a slow or broken plugin affects only the commands that use it.

:func:`importlib.metadata.entry_points` parses the metadata of all distributions. If there are many,
this takes longer than a whole command. stevedore caches the result in a file. The cache is missing
on a first start, in a container and with a read-only home, and it may be two minutes out of date.
This module parses only the metadata files that contain the name of a tinkex group, which is faster
than validating such a cache.
"""

from __future__ import annotations

import abc
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from tinkex.exceptions import PluginError, Terminated

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint
    from pathlib import Path

#: The public names, see the page "Plugin API".
__all__ = [
    "COMMANDS",
    "HOOKS",
    "HTTP_POOLS",
    "LIST_FORMATTERS",
    "PROFILES",
    "SETTINGS",
    "SHOW_FORMATTERS",
    "TOKENIZERS",
    "HttpPool",
    "HttpRequest",
    "HttpResponse",
    "PoolOptions",
    "PoolSettings",
    "Sender",
    "Timeouts",
    "TokenizerSource",
    "load_driver",
]

COMMANDS = "tinkex.commands"
HOOKS = "tinkex.hooks"
LIST_FORMATTERS = "tinkex.formatters.list"
SHOW_FORMATTERS = "tinkex.formatters.show"
HTTP_POOLS = "tinkex.http_pools"
TOKENIZERS = "tinkex.tokenizers"
PROFILES = "tinkex.profiles"
SETTINGS = "tinkex.settings"

#: Every group a plugin may add to; hooks have a group for each command (``tinkex.hooks.run_list``).
GROUPS = (
    *(COMMANDS, HOOKS, LIST_FORMATTERS, SHOW_FORMATTERS, HTTP_POOLS, TOKENIZERS, PROFILES),
    SETTINGS,
)

#: Environment variable: only these distributions are plugins; empty for none at all.
ONLY = "TINKEX_PLUGINS"

#: The prefix of every group.
_PREFIX = "tinkex."
_METADATA = (".dist-info", ".egg-info")
_log = logging.getLogger("tinkex")


class HttpRequest(NamedTuple):
    """A request for an HTTP pool to send.

    :ivar url: absolute, ASCII, percent-encoded.
    :ivar headers: all headers except those that the pool must add: ``Host``, ``Content-Length``
        and, if it can decode content, ``Accept-Encoding``.
    :ivar body: ``None`` for a request without a body.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None


class Timeouts(NamedTuple):
    """The timeouts of an HTTP pool in seconds.

    :ivar connect: until the connection is made.
    :ivar read: until the headers of the response are complete, connecting included, and then for
        each chunk of its body, however slowly the bytes trickle in.
    :ivar whole: until the last byte of the body, or ``None`` for no such limit. The caller holds
        it as well, between two chunks; a pool may use it to limit less itself.
    """

    connect: float
    read: float
    whole: float | None = None


class HttpResponse(Protocol):
    """The response to an :class:`HttpRequest`: its headers, and its body as an iterator."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with names in lower case; repeated headers are joined by ``", "``."""

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the decoded body in pieces as they arrive.

        The connection is reusable once the iterator is exhausted.

        :param size: maximum number of bytes in a piece; no piece is empty.
        :raises ConnectionFailed: the body ends before its announced length.
        :raises TimedOut: nothing arrives within the read timeout.
        :raises InvalidResponse: the body is malformed.
        """

    def close(self) -> None:
        """Discard the rest of the body and its connection; may be called twice."""


class Sender(Protocol):
    """Sends requests; created by :meth:`HttpPool.build`, and used by several threads at once."""

    def send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        """Send *request* to the host of its URL and return the response, with any status.

        The request is sent once: the caller handles retries, redirects and the total time.

        :raises Unreachable: no connection could be made; the server has not seen the request.
        :raises ConnectionFailed: the connection broke before the headers of the response.
        :raises TimedOut: the headers of the response did not arrive in time.
        :raises TLSError: the certificate is not trusted, or the server does not support TLS.
        :raises InvalidResponse: the response is not HTTP.
        :raises SettingsError: the URL, the proxy or a file in the options is unusable.
        """

    def close(self) -> None:
        """Close the connections."""


class PoolOptions(NamedTuple):  # not a dataclass, whose module is slow to import
    """The options of an HTTP pool; they apply to the service and to the storage of downloads.

    :ivar driver: name of the installed HTTP pool; ``None`` for the one in the settings.
    :ivar ca_bundle: path of the certificate authorities to trust, a file or a hashed directory.
    :ivar client_cert: path of the client certificate in PEM.
    :ivar client_key: path of its key, if it is in a separate file.
    :ivar insecure: certificates are not verified.
    """

    driver: str | None = None
    ca_bundle: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    insecure: bool = False


class PoolSettings(Protocol):
    """The settings for an HTTP pool, a subset of :class:`tinkex.settings.Settings`."""

    @property
    def base_url(self) -> str:
        """Address of the service, without a trailing slash."""

    @property
    def http_pool(self) -> str:
        """The name by which the pool was chosen."""

    @property
    def pool_options(self) -> PoolOptions: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Additional headers for requests; their values are secret."""

    def plugin(self, name: str) -> Any:
        """Return the settings of the plugin *name*, see :meth:`tinkex.settings.Settings.plugin`."""


class HttpPool(abc.ABC):
    """An HTTP pool, which sends requests; chosen by ``--http-pool`` (group ``tinkex.http_pools``).

    The entry point names a subclass; it is created without arguments.
    """

    #: Address of the service if no base URL is set; ``None``: the official service.
    base_url: ClassVar[str | None] = None
    #: Whether requests need an API key.
    needs_api_key: ClassVar[bool] = True
    #: Whether requests are shown instead of sent, so that nothing may be changed.
    is_dry_run: ClassVar[bool] = False

    @classmethod
    def preference(cls, settings: PoolSettings) -> int:
        """Return the preference for the pool with *settings* when ``auto`` chooses one.

        The highest number wins; 0 is never chosen. If all are 0, ``default`` is used.
        """
        return 0

    @abc.abstractmethod
    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender for the requests of one client.

        :raises SettingsError: *settings* are not valid for the pool.
        """


class TokenizerSource(abc.ABC):
    """Finds the tokenizers of some models (group ``tinkex.tokenizers``).

    The entry point names a subclass; it is created without arguments.
    """

    @abc.abstractmethod
    def find(self, model: str, *, network: bool) -> Path | None:
        """Return a directory that contains ``tokenizer.json``, or ``None`` if the model is unknown.

        :param model: a base-model name such as ``Qwen/Qwen3-8B``.
        :param network: whether files may be downloaded; every source is first called with
            ``False``.
        """


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of *group* without importing any of them.

    If ``TINKEX_PLUGINS`` is set, return the built-in ones and those of its distributions.
    """
    found = installed(tuple(sys.path)).get(group, [])
    if only() is None:
        return list(found)
    return [ep for ep in found if is_builtin(ep) or not is_left_out(distribution_of(ep))]


@lru_cache
def installed(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Return the entry points of all tinkex groups in the directories *path*, by group.

    As in :mod:`importlib.metadata`, the first distribution with a name takes precedence, and an
    entry point has its distribution as ``dist``. Each path is read once.
    """
    groups: dict[str, list[EntryPoint]] = {}
    for distribution in _distributions(path):
        try:
            for entry_point in distribution.entry_points:
                if entry_point.group.startswith(_PREFIX):
                    groups.setdefault(entry_point.group, []).append(entry_point)
        except Exception as error:  # an unreadable file affects only its own plugin
            where = getattr(distribution, "_path", "a distribution")
            _log.warning("cannot read the entry points in %s: %s", where, error)
    return groups


def _distributions(path: tuple[str, ...]) -> Iterator[Distribution]:
    """Yield the distributions of *path* that may have entry points in a tinkex group."""
    seen: set[str] = set()
    for entry in path:
        try:
            names = sorted(os.listdir(entry or "."))
        except OSError:
            continue
        for name in filter(lambda name: name.endswith(_METADATA), names):
            project = name.rpartition(".")[0].partition("-")[0].lower().replace(".", "_")
            if project in seen:
                continue
            seen.add(project)
            directory = os.path.join(entry, name)
            if _mentions_a_group(directory):
                from importlib.metadata import Distribution

                yield Distribution.at(directory)


def _mentions_a_group(directory: str) -> bool:
    try:
        with open(os.path.join(directory, "entry_points.txt"), "rb") as file:
            return _PREFIX.encode() in file.read()
    except OSError:
        return False


def only() -> tuple[str, ...] | None:
    """Return the distributions that ``TINKEX_PLUGINS`` names, or ``None`` if it is not set."""
    value = os.environ.get(ONLY)
    if value is None:
        return None
    return tuple(name for part in value.split(",") if (name := part.strip()))


def is_left_out(distribution: str) -> bool:
    """Return whether ``TINKEX_PLUGINS`` excludes the plugin *distribution*."""
    names = only()
    return names is not None and not any(same_name(distribution, name) for name in names)


def same_name(one: str, other: str) -> bool:
    """Return whether two distribution names are equal when normalized (PEP 503)."""
    one, other = (name.lower().replace("_", "-").replace(".", "-") for name in (one, other))
    return one == other


def find_distribution(name: str) -> Distribution | None:
    """Return the installed distribution *name*, in any spelling, or ``None``."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


def how_to_get(name: str) -> str:
    """Return a hint on how to install or load *name*, a plugin of this project.

    The source is that of tinkex, as recorded by pip (PEP 610): a source directory, a repository, or
    the package index.
    """
    if find_distribution(name):
        return f"{ONLY} does not name {name}."
    import json
    import shlex
    from pathlib import Path
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    ours = find_distribution("tinkex")
    origin = json.loads((ours and ours.read_text("direct_url.json")) or "{}")
    url = origin.get("url", "")
    if "dir_info" in origin:
        directory = Path(url2pathname(urlsplit(url).path), "plugins", name)
        if directory.is_dir():
            return f"Install it: pip install {shlex.quote(str(directory))}"
    if vcs := origin.get("vcs_info"):
        where = f"{vcs['vcs']}+{url}@{vcs['commit_id']}#subdirectory=plugins/{name}"
        return f"Install it: pip install {shlex.quote(f'{name} @ {where}')}"
    return f"Install it: pip install {name}"


def is_builtin(entry_point: EntryPoint) -> bool:
    """Return whether *entry_point* belongs to tinkex (some of its formats are cliff's classes)."""
    return entry_point.value.partition(":")[0].partition(".")[0] in ("tinkex", "cliff")


def pick(group: str, name: str) -> EntryPoint:
    """Return the entry point *name* of *group*, either built-in or from the only such plugin.

    :raises PluginError: no plugin defines the name, or two plugins do.
    """
    claims = [ep for ep in entry_points(group) if ep.name == name]
    for entry_point in claims:
        if is_builtin(entry_point):
            return entry_point
    if not claims:
        known = ", ".join(sorted({ep.name for ep in entry_points(group)}))
        raise PluginError(
            f"no {_noun(group)} is called {name!r}", hint=f"Available: {known or 'none'}."
        )
    if len(claims) > 1:
        owners = " and ".join(sorted(distribution_of(ep) for ep in claims))
        raise PluginError(
            f"two plugins define the {_noun(group)} {name!r}: {owners}",
            hint=f"Uninstall one of them, or list the plugins to load: {ONLY}=a,b",
        )
    return claims[0]


def load(entry_point: EntryPoint) -> Any:
    """Import and return the object that *entry_point* names.

    :raises PluginError: the import fails, even with ``sys.exit``.
    """
    try:
        # Output of a plugin during import is not part of the result.
        with redirect_stdout(sys.stderr):
            return entry_point.load()
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        raise PluginError(
            f"the plugin {distribution_of(entry_point)} does not load "
            f"({entry_point.value}: {type(error).__name__}: {error})",
            hint=f"Reinstall or remove it: pip uninstall {distribution_of(entry_point)}",
        ) from error


def preferred_pool(settings: PoolSettings) -> str | None:
    """Return the name of the HTTP pool with the highest preference for *settings*, if any."""
    best, found = 0, None
    for entry_point in entry_points(HTTP_POOLS):
        if is_builtin(entry_point):
            continue
        try:
            preference = load(entry_point).preference(settings)
        except Exception as error:  # costs its own plugin only
            _log.warning("%s", error)
            continue
        if preference > best:
            best, found = preference, entry_point.name
    return found


def load_driver(group: str, name: str) -> Any:
    """Create an instance of the class of the entry point *name* of *group*.

    :raises PluginError: it does not exist, two plugins define it, or it does not load.
    """
    entry_point = pick(group, name)
    try:
        return load(entry_point)()
    except PluginError:
        raise
    except Exception as error:
        owner = distribution_of(entry_point)
        raise PluginError(
            f"the {_noun(group)} {name!r} of plugin {owner} does not start "
            f"({type(error).__name__}: {error})"
        ) from error


def claims() -> Iterator[tuple[EntryPoint, Distribution]]:
    """Yield every entry point in a tinkex group, used or not, with its distribution."""
    for group, found in installed(tuple(sys.path)).items():
        if group in GROUPS or group.startswith(HOOKS + "."):
            yield from ((ep, ep.dist) for ep in found if ep.dist is not None)


def distribution_of(entry_point: EntryPoint) -> str:
    """Return the name of the distribution that defines *entry_point*."""
    owner = entry_point.dist
    return owner.name if owner is not None else entry_point.value.partition(":")[0]


def _noun(group: str) -> str:
    return {
        COMMANDS: "command",
        LIST_FORMATTERS: "format",
        SHOW_FORMATTERS: "format",
        HTTP_POOLS: "HTTP pool",
        TOKENIZERS: "tokenizer source",
        PROFILES: "profile",
        SETTINGS: "declaration of settings",
    }.get(group, "entry point")
