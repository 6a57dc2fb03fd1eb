"""A scripted server on a real socket; a dialect is a class with a method for each route."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.serving import Reply, Request, serving

Handler = Callable[..., Any]


class Refusal(Exception):
    """A response that ends the handling of a request."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        super().__init__(status, body)
        self.reply = Reply(body, status, headers)


def detail(status: int, text: Any) -> Refusal:
    """Return the usual form of an error: ``{"detail": text}``."""
    return Refusal(status, {"detail": text})


def crash() -> Refusal:
    """Return what a web framework says when a handler raised: text, not JSON."""
    return Refusal(500, "Internal Server Error")


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Let the decorated method, or what overrides it, answer *method* of *path*.

    ``{name}`` stands for one segment of the path, which becomes an argument.
    """

    def decorate(handler: Handler) -> Handler:
        handler.route = f"{method} {path}"  # type: ignore[attr-defined]
        return handler

    return decorate


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+\}", path)
    return re.compile("([^/]+)".join(map(re.escape, parts)))


class Scripted:
    """Answers requests by the routes of its class and those of its bases.

    :cvar base: path of the base URL.
    :cvar fixed: routes with the same response always, ``"METHOD path"`` → response.
    :cvar lacks: routes of a base that this dialect does not have → status of the response.
    """

    base: ClassVar[str] = ""
    fixed: ClassVar[Mapping[str, Any]] = {}
    lacks: ClassVar[Mapping[str, int]] = {}
    _routes: ClassVar[list[tuple[str, re.Pattern[str], str, Any]]] = []

    def __init_subclass__(cls) -> None:
        found: dict[str, Any] = {}
        for owner in reversed(cls.__mro__):
            found |= {
                key: lambda *_, value=value: value
                for key, value in vars(owner).get("fixed", {}).items()
            }
            for name, value in vars(owner).items():
                if hasattr(value, "route"):
                    found[value.route] = name
        split = ((*key.split(" "), handler) for key, handler in found.items())
        cls._routes = [(method, _pattern(path), path, handler) for method, path, handler in split]

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.url = ""  # set when it listens
        self._lock = threading.RLock()

    def requests(self, method: str, path: str) -> list[Request]:
        """Return the requests of *method* whose path matches the route *path*."""
        pattern = _pattern(path)
        return [s for s in self.seen if s.method == method and pattern.fullmatch(s.path)]

    def admit(self, seen: Request) -> None:
        """Refuse a request before it is handled, because of its key or unknown fields."""

    def answer(self, seen: Request) -> Any:
        with self._lock:
            self.seen.append(seen)
            try:
                return self._dispatch(seen)
            except Refusal as refusal:
                return refusal.reply

    def _dispatch(self, seen: Request) -> Reply:
        for method, pattern, path, handler in self._routes:
            match = pattern.fullmatch(seen.path)
            if match is None or method != seen.method:
                continue
            if f"{method} {path}" in self.lacks:
                raise self.missing(self.lacks[f"{method} {path}"])
            self.admit(seen)
            call = getattr(self, handler) if isinstance(handler, str) else handler
            value = call(seen, *map(unquote, match.groups()))
            return value if isinstance(value, Reply) else Reply(value)
        raise self.missing(404)

    def missing(self, status: int) -> Refusal:
        """Return the response to a request for what is not there at all."""
        return detail(status, {404: "Not Found", 405: "Method Not Allowed"}[status])


@contextmanager
def listening(dialect: Scripted) -> Iterator[str]:
    """Let *dialect* answer on a loopback port during the block; yields its URL.

    The paths that it sees are below the API, or whole where they are not of the API.
    """

    def answer(request: Request) -> Any:
        path = request.path.removeprefix(f"{dialect.base}/api/v1/")
        return dialect.answer(dataclasses.replace(request, path=path))

    with serving(answer) as url:
        dialect.url = f"{url}{dialect.base}"
        yield dialect.url
