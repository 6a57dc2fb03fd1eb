"""``tinker://`` paths of checkpoints, and ids as segments of a URL."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from os.path import commonprefix
from typing import TypeVar
from urllib.parse import quote, urlsplit

from tinkex.config.values import DEFAULT_BASE_URL
from tinkex.exceptions import InvalidName, InvalidResponse, UsageError

T = TypeVar("T")

SCHEME = "tinker://"
#: Middle part of a path → ``checkpoint_type`` of the service.
KINDS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
SAMPLER_KIND = "sampler_weights"


#: The web console of the official service; no other server is known to have one.
_CONSOLE = "https://tinker.thinkingmachines.ai"


@dataclass(frozen=True)
class TinkerPath:
    """The path of a checkpoint: ``tinker://<run_id>/<kind>/<name>``.

    Some servers write ``tinker://<run_id>/<name>`` for sampler checkpoints, which is read as
    ``sampler_weights``.

    :ivar run_id: the training run; opaque, may contain ``:``.
    :ivar kind: ``weights``, ``sampler_weights`` or ``external_weights``.
    :ivar name: the name given when it was saved.
    """

    run_id: str
    kind: str
    name: str

    @classmethod
    def from_string(cls, text: str) -> TinkerPath:
        """Return the path that *text* is.

        :raises InvalidName: *text* is malformed.
        """
        scheme, _, rest = str(text).partition("//")
        parts = rest.split("/")
        if len(parts) == 2:
            parts.insert(1, SAMPLER_KIND)
        is_path = scheme == "tinker:" and len(parts) == 3 and all(map(_is_segment, parts))
        if not is_path or parts[1] not in KINDS:
            raise InvalidName(
                f"not a checkpoint path: {shown(text)}",
                hint="It looks like tinker://RUN_ID/sampler_weights/NAME.",
            )
        return cls(*parts)

    @classmethod
    def from_server(cls, text: str) -> TinkerPath:
        """Return the path that *text*, part of a response, is.

        :raises InvalidResponse: *text* is malformed.
        """
        return _from_server(cls.from_string, text)

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        """The id within the run: ``<kind>/<name>``."""
        return f"{self.kind}/{self.name}"

    @property
    def checkpoint_type(self) -> str:
        """The service's word for the kind: ``training``, ``sampler`` or ``external``."""
        return KINDS[self.kind]

    @property
    def url(self) -> str:
        """The URL below the API: ``training_runs/<run>/checkpoints/<kind>/<name>``."""
        return f"{run_url(self.run_id)}/checkpoints/{self.kind}/{segment(self.name)}"

    @property
    def bare_url(self) -> str:
        """The URL without the kind, which some servers expect."""
        return f"{run_url(self.run_id)}/checkpoints/{segment(self.name)}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return a short name for each checkpoint path: ``RUN:NAME``, or ``RUN:KIND/NAME``.

    ``RUN`` is the beginning of the run's id, eight characters or as many as set it apart from the
    other runs in *paths*. Text that has no such name is its own.
    """
    names = {text: text for text in paths}
    known: dict[str, TinkerPath] = {}
    for text in names:
        with suppress(InvalidName):
            known[text] = TinkerPath.from_string(text)
    runs = _short_runs({path.run_id for path in known.values()})
    labels = Counter((path.run_id, path.name) for path in known.values())
    for text, path in known.items():
        label = path.name if labels[path.run_id, path.name] == 1 else path.checkpoint_id
        # Other characters have a meaning in a name.
        if re.fullmatch(r"[^@~/]+", path.run_id) and re.fullmatch(r"[\w.-]+", path.name):
            names[text] = f"{runs[path.run_id]}:{label}"
    return names


def _short_runs(run_ids: set[str]) -> dict[str, str]:
    ids = sorted(run_ids)
    short = {}
    for before, run_id, after in zip(["", *ids], ids, [*ids[1:], ""], strict=False):
        shared = max(len(commonprefix([run_id, other])) for other in (before, after))
        head = run_id.partition(":")[0]  # "…:train:0" is cut before the colon, or not at all
        short[run_id] = head[: max(8, shared + 1)] if shared < len(head) else run_id
    return short


def run_url(run_id: str) -> str:
    """Return the URL of a run below the API.

    :raises UsageError: *run_id* cannot be the id of a run.
    """
    return f"training_runs/{segment(run_id)}"


def segment(text: str) -> str:
    """Return *text* as one segment of a URL that it cannot leave.

    :raises UsageError: *text* cannot be one: it is empty, ``.`` or ``..``.
    """
    if not _is_segment(text):
        raise UsageError(f"not an id: {shown(text)}")
    return quote(text, safe=":")


def segment_from_server(text: str) -> str:
    """Return the id *text* in a response as one segment of a URL.

    :raises InvalidResponse: it cannot be one.
    """
    return _from_server(segment, text)


def _from_server(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except UsageError as error:
        raise InvalidResponse(f"unexpected response from the server: {error}") from error


def _is_segment(text: str) -> bool:
    # Dot segments would be folded away by the HTTP library, even when percent-encoded.
    return bool(text) and text not in (".", "..") and text.isprintable() and len(text) <= 1024


def shown(text: object) -> str:
    """Return *text* quoted and shortened for a message."""
    line = str(text).encode("utf-8", "replace").decode()
    return repr(line if len(line) <= 200 else line[:199] + "…")


def console_page(base_url: str, *parts: str) -> str | None:
    """Return a page of the service's web console, or ``None`` if the service has no console.

    :param base_url: the service; only the official one has a console.
    :param parts: ``training_runs`` and a run, or ``checkpoints``, a run and a checkpoint's id.
    """
    if urlsplit(base_url)[:2] != urlsplit(DEFAULT_BASE_URL)[:2]:
        return None
    return "/".join([_CONSOLE, *(quote(part, safe="") for part in parts)])
