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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tinkex.exceptions import PluginError, RequestShown, Terminated, TinkexError
from tinkex.files import limit_error

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
    "preferred_pool",
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

#: Environment variable: only these distributions are plugins, or all but ``-name``; empty for none.
ONLY = "TINKEX_PLUGINS"

#: The prefix of every group.
_PREFIX = "tinkex."
_METADATA = (".dist-info", ".egg-info")
#: Raised to end the command, not because of a fault in a plugin.
_ENDINGS = (BrokenPipeError, KeyboardInterrupt, RequestShown, Terminated)


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

    :ivar connect: time to make the connection.
    :ivar read: time until the headers of the response are complete, including the time to connect;
        and, separately, the time until each chunk of the body is complete.
    :ivar whole: time until the body is complete; ``None``: no limit. The caller checks this limit
        after each chunk, so that a pool may ignore it.
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
    :ivar client_cert: path of the client certificate in PEM format.
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
        """Base URL of the service, without a trailing slash."""

    @property
    def http_pool(self) -> str:
        """The name by which the pool was chosen."""

    @property
    def pool_options(self) -> PoolOptions:
        """The TLS options of the pool."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Additional headers for requests; their values are secret."""

    def plugin(self, name: str) -> Any:
        """Return the settings of the plugin *name*, see :meth:`tinkex.settings.Settings.plugin`."""


class HttpPool(abc.ABC):
    """An HTTP pool, which sends requests; selected by ``--http-pool``.

    The entry point, in the group ``tinkex.http_pools``, names a subclass, which tinkex creates
    without arguments. A pool that wraps another pool must copy the ``base_url`` and
    ``needs_api_key`` of that pool in ``__init__``.
    """

    #: Base URL of the service, which only ``--base-url`` overrides; ``None``: that of the settings.
    base_url: str | None = None
    #: Whether requests need an API key.
    needs_api_key: bool = True
    #: Whether the pool shows requests instead of sending them; commands then change nothing.
    is_dry_run: bool = False

    @classmethod
    def preference(cls, settings: PoolSettings) -> int:
        """Return how well the pool suits *settings*, for the selection by ``auto``.

        ``auto`` selects the pool with the highest number; if all numbers are 0, ``default``.
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

    Entry points that ``TINKEX_PLUGINS`` disables are omitted, but never built-in ones.
    """
    found = installed(tuple(sys.path)).groups.get(group, [])
    if ONLY not in os.environ:
        return list(found)
    return [ep for ep in found if is_builtin(ep) or not why_off(distribution_of(ep))]


class Installed(NamedTuple):
    """The entry points of all tinkex groups, by group, and errors for unreadable metadata."""

    groups: dict[str, list[EntryPoint]]
    unreadable: list[str]


@lru_cache
def installed(path: tuple[str, ...]) -> Installed:
    """Return the tinkex entry points of the distributions in the directories *path*.

    As in :mod:`importlib.metadata`, the first distribution with a name takes precedence, and an
    entry point has its distribution as ``dist``. Each path is read once.
    """
    found = Installed({}, [])
    for distribution in _distributions(path):
        try:
            for entry_point in distribution.entry_points:
                if entry_point.group.startswith(_PREFIX):
                    found.groups.setdefault(entry_point.group, []).append(entry_point)
        except Exception as error:  # an unreadable file affects only its own plugin
            where = getattr(distribution, "_path", "a distribution")
            found.unreadable.append(f"cannot read the entry points in {where}: {error}")
    return found


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


def names_in_variable() -> list[str]:
    """Return the items of ``TINKEX_PLUGINS``: names, and ``-name`` for disabled plugins."""
    return [word for part in os.environ.get(ONLY, "").split(",") if (word := part.strip())]


def why_off(distribution: str) -> str | None:
    """Return why ``TINKEX_PLUGINS`` prevents a plugin from being loaded, or ``None``."""
    if ONLY not in os.environ:
        return None
    words = names_in_variable()
    off = [word[1:] for word in words if word.startswith("-")]
    on = [word for word in words if not word.startswith("-")]
    if any(same_name(distribution, name) for name in off):
        return f"{ONLY} disables {distribution}"
    if (on or not off) and not any(same_name(distribution, name) for name in on):
        return f"{ONLY} omits {distribution}"
    return None


def turn_off(distribution: str) -> str:
    """Return a shell command that disables a plugin, in addition to those already disabled."""
    import shlex

    return f"export {ONLY}={shlex.quote(','.join([*names_in_variable(), f'-{distribution}']))}"


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

    The source is that of tinkex, as recorded by pip (PEP 610): directory, repository or index.
    """
    if find_distribution(name):
        if off := why_off(name):
            return f"{off}. Change or unset {ONLY}."
        return f"The installed {name} does not provide it."
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
            f"no {_noun(group)} named {name!r}",
            hint=f"Available {_noun(group)}s: {known or 'none'}.",
        )
    if len(claims) > 1:
        owners = " and ".join(sorted(distribution_of(ep) for ep in claims))
        raise PluginError(
            f"two plugins define the {_noun(group)} {name!r}: {owners}",
            hint=f"Uninstall one of them, or disable one: {turn_off(distribution_of(claims[0]))}",
        )
    return claims[0]


@contextmanager
def blaming(
    entry_point: EntryPoint,
    what: str,
    *,
    hint: Callable[[str], str] | None = None,
    meant: tuple[type[TinkexError], ...] = (),
) -> Iterator[None]:
    """Raise an error that names the plugin of *entry_point* if the block fails.

    :param what: start of the message, with ``{}`` for the plugin: ``the hook 'x' of {} failed``.
    :param hint: returns the hint for a distribution's name, which is read only if needed.
    :param meant: errors that the plugin raises on purpose; they are passed on unchanged.
    :raises PluginError: the block raises any other error, including ``SystemExit``.
    :raises LimitReached: no more files or threads are allowed.
    """
    passed: tuple[type[BaseException], ...] = (*meant, *_ENDINGS)
    try:
        yield
    except passed:
        raise
    except BaseException as error:
        raise limit_error(error) or PluginError(
            f"{what.replace('{}', owner_of(entry_point))} ({reason(error)})",
            hint=hint and hint(distribution_of(entry_point)),
            category="bug",
        ) from error


def reason(error: BaseException) -> str:
    """Return the class and message of *error* on one line, even if its ``str()`` fails."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def load(entry_point: EntryPoint) -> Any:
    """Import and return the object that *entry_point* names.

    :raises PluginError: the import fails, even with ``sys.exit``.
    """
    what = f"the plugin {{}} does not load: {entry_point.value}"
    # Output of a plugin during import is not part of the result.
    with (
        blaming(
            entry_point, what, hint="Reinstall the plugin, or remove it: pip uninstall {}".format
        ),
        redirect_stdout(sys.stderr),
    ):
        return entry_point.load()


def preferred_pool(settings: PoolSettings) -> str:
    """Return the name of the HTTP pool that ``auto`` chooses for *settings*.

    It has the highest preference; a pool that wraps it must not have one itself.
    """
    best, found = 0, "default"
    for entry_point in entry_points(HTTP_POOLS):
        if is_builtin(entry_point):
            continue
        what = f"the HTTP pool {entry_point.name!r} of plugin {{}} failed"
        try:
            pool = load(entry_point)
            with blaming(entry_point, what):
                preference = pool.preference(settings)
        except PluginError as error:  # affects only this plugin
            text = "%s, so 'auto' does not choose the HTTP pool %s"
            logging.getLogger("tinkex").warning(text, error, entry_point.name)
            continue
        if preference > best:
            best, found = preference, entry_point.name
    return found


def load_driver(group: str, name: str) -> Any:
    """Create an instance of the class of the entry point *name* of *group*.

    :raises PluginError: it does not exist, two plugins define it, or it does not load.
    """
    entry_point = pick(group, name)
    driver = load(entry_point)
    what = f"the {_noun(group)} {name!r} of plugin {{}} does not start"

    def hint(distribution: str) -> str:
        if group == TOKENIZERS:  # all sources are asked
            return f"To run without this plugin: {turn_off(distribution)}"
        return (
            f"Choose another {_noun(group)}, and report the problem to the maintainers of "
            f"{distribution}."
        )

    with blaming(entry_point, what, hint=hint):
        try:
            return driver()
        except PluginError as error:  # a pool that it wraps
            inner = error
    text = f"{what.replace('{}', owner_of(entry_point))}: {inner}"
    raise PluginError(text, hint=inner.hint, category=inner.category) from inner


def suspects(error: BaseException, involved: Iterable[str] = ()) -> tuple[bool, list[str]]:
    """Return whether a plugin's code raised *error*, and the plugins that may have caused it.

    If the innermost frame of tinkex or a plugin belongs to a plugin, this is the only one returned;
    otherwise every plugin with a frame in the traceback or a module in *involved*, with versions.

    :param involved: modules whose code was involved, possibly without a frame in the traceback.
    """
    modules = []
    traceback = error.__traceback__
    while traceback is not None:
        modules.append(str(traceback.tb_frame.f_globals.get("__name__")))
        traceback = traceback.tb_next
    for module in reversed(modules):
        if module.partition(".")[0] == "tinkex":
            break
        if found := _plugin_of(module):
            return True, [owner_of(found)]
    found_all = filter(None, map(_plugin_of, [*reversed(modules), *involved]))
    return False, list(dict.fromkeys(map(owner_of, found_all)))


def _plugin_of(module: str) -> EntryPoint | None:
    """Return an entry point of the plugin that contains *module*; plugins may share a namespace."""
    words = module.split(".")
    shared = {
        ep: len(os.path.commonprefix([words, ep.module.split(".")]))
        for ep, _ in claims()
        if not is_builtin(ep)
    }
    nearest = max(shared, key=shared.__getitem__, default=None)
    return nearest if nearest is not None and shared[nearest] else None


def claims() -> Iterator[tuple[EntryPoint, Distribution]]:
    """Yield every entry point in a ``tinkex.*`` group, used or not, with its distribution."""
    for found in installed(tuple(sys.path)).groups.values():
        yield from ((ep, ep.dist) for ep in found if ep.dist is not None)


def distribution_of(entry_point: EntryPoint) -> str:
    """Return the name of the distribution that defines *entry_point*."""
    owner = entry_point.dist
    return owner.name if owner is not None else entry_point.value.partition(":")[0]


def owner_of(entry_point: EntryPoint) -> str:
    """Return the name and the version of the distribution that provides *entry_point*."""
    version = entry_point.dist.version if entry_point.dist is not None else ""
    return f"{distribution_of(entry_point)} {version}".rstrip()


def _noun(group: str) -> str:
    return {
        COMMANDS: "command",
        LIST_FORMATTERS: "format",
        SHOW_FORMATTERS: "format",
        HTTP_POOLS: "HTTP pool",
        TOKENIZERS: "tokenizer source",
        PROFILES: "profile",
        SETTINGS: "settings declaration",
    }.get(group, "entry point")
