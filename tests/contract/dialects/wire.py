"""A scripted server on a real socket: routes are methods, a dialect is a class of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.serving import Reply, Request, serving

Handler = Callable[..., Any]


class Refusal(Exception):
    """An answer that ends the handling of a request."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        text_or_json = body if isinstance(body, (str, dict)) else {"detail": body}
        self.reply = Reply(text_or_json, status)


def detail(status: int, text: Any) -> Refusal:
    """Return the usual form of an error: ``{"detail": text}``."""
    return Refusal(status, {"detail": text})


def crash() -> Refusal:
    """Return what a web framework says when a handler raised: text, not JSON."""
    return Refusal(500, "Internal Server Error")


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; *path* is below the API, or whole where it is not of the API."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None

    @property
    def key(self) -> str | None:
        return self.headers.get("x-api-key")


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Let the decorated method answer *method* of *path*; ``{name}`` stands for one segment."""

    def decorate(handler: Handler) -> Handler:
        handler.routes = [*getattr(handler, "routes", ()), (method, path)]  # type: ignore[attr-defined]
        return handler

    return decorate


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    plain = [re.escape(part) for part in parts[::2]]
    groups = [f"(?P<{name}>[^/]+)" for name in parts[1::2]] + [""]
    return re.compile("".join(a + b for a, b in zip(plain, groups, strict=True)))


class Scripted:
    """Answers requests by the routes of its class and those of its bases.

    :cvar base: path of the base URL.
    :cvar lacks: routes of a base that this dialect does not have → status of the answer.
    """

    base: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, int]] = {}
    _routes: ClassVar[list[tuple[str, re.Pattern[str], str, str]]] = []

    def __init_subclass__(cls) -> None:
        found: dict[tuple[str, str], str] = {}
        for owner in reversed(cls.__mro__):
            for name, value in vars(owner).items():
                found.update((key, name) for key in getattr(value, "routes", ()))
        cls._routes = [(m, _pattern(p), p, name) for (m, p), name in found.items()]

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.url = ""  # set when it listens
        self._lock = threading.RLock()

    def requests(self, method: str, path: str) -> list[Seen]:
        """Return the requests of *method* whose path matches the route *path*."""
        pattern = _pattern(path)
        return [s for s in self.seen if s.method == method and pattern.fullmatch(s.path)]

    def admit(self, seen: Seen) -> None:
        """Refuse a request before it is looked at: keys, unknown fields."""

    def answer(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            try:
                return self._dispatch(seen)
            except Refusal as refusal:
                return refusal.reply

    def _dispatch(self, seen: Seen) -> Reply:
        for method, pattern, path, name in self._routes:
            match = pattern.fullmatch(seen.path)
            if match is None or method != seen.method:
                continue
            if f"{method} {path}" in self.lacks:
                raise self.missing(self.lacks[f"{method} {path}"])
            self.admit(seen)
            found = {key: unquote(value) for key, value in match.groupdict().items()}
            value = getattr(self, name)(seen, **found)
            return value if isinstance(value, Reply) else Reply(value)
        raise self.missing(404)

    def missing(self, status: int) -> Refusal:
        """Return the answer to a request for what is not there at all."""
        return detail(status, {404: "Not Found", 405: "Method Not Allowed"}[status])


@contextmanager
def listening(dialect: Scripted) -> Iterator[str]:
    """Let *dialect* answer on a loopback port for as long as the block runs; yields its URL."""

    def answer(request: Request) -> Reply:
        path = request.path.removeprefix(f"{dialect.base}/api/v1/")
        seen = Seen(request.method, path, request.query, request.headers, request.body)
        return dialect.answer(seen)

    with serving(answer) as url:
        dialect.url = f"{url}{dialect.base}"
        yield dialect.url
