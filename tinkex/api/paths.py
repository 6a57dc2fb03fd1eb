"""Paths of checkpoints, and ids as segments of a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from tinkex.config.values import DEFAULT_BASE_URL
from tinkex.exceptions import InvalidName, InvalidResponse, UsageError

T = TypeVar("T")

SCHEME = "tinker://"
#: Schemes that servers use; a path is sent back to its server unchanged.
SCHEMES = ("tinker", "mint", "twinkle", "xorl")
#: Middle part of a path → ``checkpoint_type`` of the service.
KINDS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
SAMPLER_KIND = "sampler_weights"


#: The usual form of a path, which needs no further check.
_USUAL = re.compile(
    r"tinker://([A-Za-z0-9][\w:.-]{0,200})/(weights|sampler_weights|external_weights)/"
    r"([A-Za-z0-9][\w.-]{0,200})",
    re.ASCII,
)
#: The run in the address of a console page.
_PAGE_OF_RUN = re.compile(r"/(?:training[-_]runs|checkpoints)/([^/?#\s]+)")
#: The web console of the official service; no other server is known to have one.
_CONSOLE = "https://tinker.thinkingmachines.ai"


@dataclass(frozen=True)
class TinkerPath:
    """The path of a checkpoint: ``tinker://<run_id>/<kind>/<name>``.

    Some servers write ``tinker://<run_id>/<name>`` for sampler checkpoints, which is read as
    ``sampler_weights``; some have their own scheme and kinds.

    :ivar run_id: the training run; opaque, may contain ``:``.
    :ivar kind: ``weights``, ``sampler_weights``, ``external_weights``, or a kind that only one
        server has.
    :ivar name: the name given when it was saved; two segments on some servers.
    :ivar scheme: ``tinker``, or that of another server.
    """

    run_id: str
    kind: str
    name: str
    scheme: str = "tinker"

    @classmethod
    def from_string(cls, text: str) -> TinkerPath:
        """Parse *text* as a path, ignoring surrounding quotes and whitespace.

        :raises InvalidName: *text* is malformed.
        """
        text = str(text)
        if usual := _USUAL.fullmatch(text):
            return cls(*usual.groups())
        scheme, _, rest = pasted(text).partition("://")
        parts = rest.split("/")
        if len(parts) == 2 and parts[1] not in KINDS:
            parts.insert(1, SAMPLER_KIND)
        if scheme not in SCHEMES or len(parts) not in (3, 4) or not all(map(_is_segment, parts)):
            raise InvalidName(
                f"not a checkpoint path: {shown(text)}",
                hint=hint_for_page(text)
                or "A checkpoint path looks like tinker://RUN_ID/sampler_weights/NAME.",
            )
        return cls(parts[0], parts[1], "/".join(parts[2:]), scheme)

    @classmethod
    def from_server(cls, text: str) -> TinkerPath:
        """Parse *text*, part of a response, as a path.

        :raises InvalidResponse: *text* is malformed.
        """
        return _from_server(cls.from_string, text)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.run_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        """The id within the run: ``<kind>/<name>``."""
        return f"{self.kind}/{self.name}"

    @property
    def checkpoint_type(self) -> str:
        """The service's name for the kind: ``training``, ``sampler``, ``external``, or empty."""
        return KINDS.get(self.kind, "")

    @property
    def url(self) -> str:
        """The URL below the API: ``training_runs/<run>/checkpoints/<kind>/<name>``."""
        name = "/".join(map(segment, self.name.split("/")))
        return f"{run_url(self.run_id)}/checkpoints/{segment(self.kind)}/{name}"

    @property
    def bare_url(self) -> str:
        """The URL without the kind, which some servers expect."""
        return f"{run_url(self.run_id)}/checkpoints/{segment(self.name)}"


def pasted(text: str) -> str:
    """Return *text* without surrounding whitespace and quotes, and without a trailing slash.

    The scheme of a path becomes lower case; any other text keeps its slash.
    """
    if text.startswith(SCHEME) and text[-1] != "/" and not text[-1].isspace():
        return text  # as in every item of a list
    text = text.strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        text = text[1:-1].strip()
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        return text
    return f"{scheme.lower()}://{rest.removesuffix('/')}"


def is_path(text: str) -> bool:
    """Return whether *text* is a path, or looks like one."""
    return pasted(text).partition("://")[0] in SCHEMES


def hint_for_page(text: str) -> str | None:
    """Return a hint if *text* is the URL of a web page, such as a console page."""
    if not pasted(text).lower().startswith(("https://", "http://")):
        return None
    run = _PAGE_OF_RUN.search(text)
    if run is None:
        return "This is a web page URL. A checkpoint path looks like tinker://RUN/KIND/NAME."
    run_id = unquote(run[1])
    return f"This is a console page URL. The run id is {run_id}."


def run_url(run_id: str) -> str:
    """Return the URL of a run below the API.

    :raises UsageError: *run_id* cannot be the id of a run.
    """
    return f"training_runs/{segment(run_id)}"


def segment(text: str) -> str:
    """Return *text* percent-encoded as a single segment of a URL.

    :raises UsageError: *text* is empty, ``.`` or ``..``.
    """
    if not _is_segment(text):
        raise UsageError(f"not an id: {shown(text)}")
    return quote(text, safe=":")


def segment_from_server(text: str) -> str:
    """Return *text*, an id in a response, percent-encoded as a single segment of a URL.

    :raises InvalidResponse: *text* is empty, ``.`` or ``..``.
    """
    return _from_server(segment, text)


#: A note about a path in a response.
UNKNOWN_FORM = (
    "This version of tinkex does not recognize the form of the checkpoint path and shows the path "
    "unchanged."
)


def as_received(text: str) -> tuple[str, bool]:
    """Return *text*, the path of a new checkpoint in a response, and whether its form is known.

    A new checkpoint must not be lost because its path has an unknown form, so the server's path is
    kept unchanged. Only a missing kind is added.

    :raises InvalidResponse: *text* contains characters that are not allowed in a path.
    """
    try:
        path = TinkerPath.from_string(text)
    except InvalidName:
        if not text.isprintable():
            raise InvalidResponse(
                f"unexpected response from the server: not a path: {shown(text)}"
            ) from None
        return text, False
    return (str(path) if text.startswith(SCHEME) else text), True


def _from_server(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except UsageError as error:
        raise InvalidResponse(f"unexpected response from the server: {error}") from error


def _is_segment(text: str) -> bool:
    # The HTTP library would remove dot segments, even percent-encoded ones.
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
