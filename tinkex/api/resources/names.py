"""Resolution of short names of runs and checkpoints to ids and paths.

Names of a checkpoint are its path, ``RUN:NAME``, ``RUN:TYPE/NAME``, ``RUN@latest``, ``@latest``
for the whole account, and ``RUN`` alone if the run has only one checkpoint. ``:sampler``,
``:training`` or ``:external`` may follow ``@latest``. ``~N`` may follow any name except a path; it
means the N-th checkpoint saved before the named one. Names of a run are its id, the path of one of
its checkpoints, ``@latest`` for the run last used, and ``@latest~N``.

``RUN`` is the id of a run or a unique prefix of it; its UUID may be cut to eight digits.
A full path requires no request.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tinkex.api.paths import KINDS, SCHEME, TinkerPath, hint_for_page, is_path, pasted, shown
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.checkpoints import Checkpoints, closest
from tinkex.api.resources.runs import Runs, last_used
from tinkex.api.resources.selection import TYPES, time_of
from tinkex.exceptions import (
    BadRequest,
    InvalidName,
    NotFound,
    TinkexError,
    UsageError,
    a_few,
)

R = TypeVar("R")
T = TypeVar("T")

_FORMS = "Use tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest or @latest."
_NAME = re.compile(r"([^@~]*)(@latest(?::([a-z_]+))?)?(?:~([0-9]{1,6}))?")
_KINDS_OF_NAME = {"checkpoint": "checkpoint path or name", "run": "training run id or name"}
#: A slash is allowed only in RUN:weights/NAME and RUN:training/NAME.
_SLASHES = re.compile(rf"[^/]*|[^/]+:({'|'.join(TYPES)})/[^/:]+")
#: A session id; on many servers, ids of runs begin with it.
_UUID = re.compile(r"([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f-])")
#: A run id or a checkpoint name that can be part of a short name.
_PLAIN = re.compile(r"[\w.:-]+")


class AmbiguousName(UsageError):
    """The name matches several runs or checkpoints; the hint lists them."""


class Account(Protocol):
    """The resources of a client in which names are looked up."""

    @property
    def runs(self) -> Runs: ...
    @property
    def checkpoints(self) -> Checkpoints: ...


@dataclass(frozen=True)
class _Name:
    """The parts of a name; *latest* refers to the newest, *back* to the N-th before it."""

    text: str
    run: str
    latest: bool
    kind: str | None
    back: int


def resolve_checkpoint(account: Account, text: str, *, kind: str | None = None) -> str:
    """Return the path of the checkpoint that *text* names.

    :param kind: ``training`` or ``sampler``: the type to prefer if *text* matches several.
    :raises UsageError: it matches no checkpoint, or several (:class:`AmbiguousName`).
    :raises tinkex.exceptions.TinkexError: a request failed.
    """
    text = pasted(text)
    if is_path(text):
        return str(TinkerPath.from_string(text))
    if text.count("/") == 2 and text.split("/")[1] in KINDS:
        return str(TinkerPath.from_string(SCHEME + text))
    return _Search(account, "checkpoint", text).checkpoint(kind)


def resolve_run(account: Account, text: str) -> str:
    """Return the id of the run that *text* names, from the list of all runs.

    :raises UsageError: it matches no run, or several (:class:`AmbiguousName`).
    """
    text = pasted(text)
    if is_path(text):
        return TinkerPath.from_string(text).run_id
    return _Search(account, "run", text).run()


def with_run(account: Account, text: str, do: Callable[[str], R]) -> R:
    """Call *do* with the id of the run that *text* names; return the result.

    *text* is tried as an id first, and looked up only if the service does not know it.

    :raises UsageError: see :func:`resolve_run`.
    """
    text = pasted(text)
    if is_path(text) or "@" in text or "~" in text or hint_for_page(text):
        return do(resolve_run(account, text))
    try:
        return do(text)
    except (NotFound, BadRequest) as unknown:
        try:
            run_id = resolve_run(account, text)
        except AmbiguousName:
            raise
        except TinkexError:
            raise unknown from None
        if run_id == text:
            raise
        return do(run_id)


def short_runs(run_ids: Iterable[str]) -> dict[str, str]:
    """Return a short, unique name for each of *run_ids*.

    It is ``699b8252`` for an id that begins with a UUID, ``699b8252:train:1`` where several begin
    with the same, and otherwise the id.
    """
    ids = dict.fromkeys(run_ids)
    found = {run_id: match[1] for run_id in ids if (match := _UUID.match(run_id))}
    beginnings, abbreviated = Counter(found.values()), Counter(map(_abbreviated, found))
    for run_id, beginning in found.items():
        if beginnings[beginning] > 1:
            short = _abbreviated(run_id)
            found[run_id] = short if abbreviated[short] == 1 and short != beginning else run_id
    return {run_id: found.get(run_id, run_id) for run_id in ids}


def short_checkpoints(paths: Sequence[str], *, complete: bool) -> list[str]:
    """Return a short name for each of *paths*: ``699b8252:NAME``, or the path if it has none.

    A name that several checkpoints of a run share includes the type: ``699b8252:sampler/NAME``.

    :param complete: *paths* has all checkpoints of its runs; if not, every name includes the type.
    """
    parsed: list[TinkerPath | None] = []
    for text in paths:
        with contextlib.suppress(UsageError):
            parsed.append(TinkerPath.from_string(text))
            continue
        parsed.append(None)
    known = [path for path in parsed if path]
    runs = short_runs(path.run_id for path in known)
    count = Counter((path.run_id, path.name) for path in known)

    def short(path: TinkerPath) -> str | None:
        run, name, kind = runs[path.run_id], path.name, path.checkpoint_type
        if not (_PLAIN.fullmatch(run) and _PLAIN.fullmatch(name) and kind) or ":" in name:
            return None
        unique = complete and count[path.run_id, name] == 1 and not _is_numbered(run, name)
        return f"{run}:{name}" if unique else f"{run}:{kind}/{name}"

    return [(path and short(path)) or text for text, path in zip(paths, parsed, strict=True)]


def _abbreviated(run_id: str) -> str:
    """Return *run_id* with the UUID at its beginning cut to eight digits."""
    return _UUID.sub(r"\1", run_id, count=1) if _UUID.match(run_id) else run_id


class _Search:
    """The lookup of one name."""

    def __init__(self, account: Account, what: str, text: str) -> None:
        self._account = account
        self._name = _parsed(text, what)

    def run(self) -> str:
        name = self._name
        if not name.latest:
            return self._one_beginning(name.run)
        if name.run or name.kind:
            raise InvalidName(f"not a run name: {shown(name.text)}", resource="run")
        runs = sorted(self._account.runs.list(None), key=last_used, reverse=True)
        return _nth(runs, name.back, "training runs", "run").training_run_id

    def checkpoint(self, kind: str | None) -> str:
        name, run_id, label = self._name, "", None
        if name.run:
            run_id, label, found = self._checkpoints(name.run)
        else:
            found = self._account.checkpoints.list(None)
        if label is not None:
            if "@" in name.text:
                raise InvalidName(f"{shown(name.text)} refers to two checkpoints", hint=_FORMS)
            return _labelled(found, run_id, label, kind, name.back)
        kind = name.kind or kind
        fitting = [c for c in found if c.path and kind in (None, c.checkpoint_type)]
        # Checkpoints saved at the same time keep the service's order.
        fitting.sort(key=time_of, reverse=True)
        what = f"{kind + ' ' if kind else ''}checkpoints"
        if len(fitting) > 1 and not name.latest:
            raise AmbiguousName(
                f"{shown(name.text)} is ambiguous: the run {run_id} has {len(fitting)} {what}",
                hint="Use RUN:NAME or RUN@latest. Checkpoints in the run: "
                f"{a_few([checkpoint.tinker_path for checkpoint in fitting])}.",
            )
        what += f" in the run {run_id}" if run_id else ""
        return _nth(fitting, name.back, what, "checkpoint").tinker_path

    def _checkpoints(self, text: str) -> tuple[str, str | None, Sequence[Checkpoint]]:
        """Return the run, the checkpoint's name if *text* has one, and the run's checkpoints."""
        run_id, _, label = text.rpartition(":")
        if not run_id or _is_numbered(run_id, label):
            run_id, label = text, ""
        of_run = self._account.checkpoints.list
        found: Sequence[Checkpoint] = []
        # An unknown id may be the beginning of a known one.
        with contextlib.suppress(NotFound, BadRequest, UsageError):
            found = of_run(None, run_id=run_id)
        if not found:
            run_id, label = self._split(text)
            found = of_run(None, run_id=run_id)
        return run_id, label or None, found

    def _ids(self) -> list[str]:
        return [run.training_run_id for run in self._account.runs.list(None)]

    def _split(self, text: str) -> tuple[str, str]:
        """Split *text* into the run and the checkpoint's name, or ``""`` without one."""
        head, _, label = text.rpartition(":")
        ids = self._ids()
        if head and not _is_numbered(head, label) and not _matching(text, ids):
            return self._one_beginning(head, ids), label
        return self._one_beginning(text, ids), ""

    def _one_beginning(self, text: str, ids: list[str] | None = None) -> str:
        """Return the run whose id is *text*, or the only one whose id begins with it."""
        ids = self._ids() if ids is None else ids
        found = _matching(text, ids)
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousName(
                f"{len(found)} training run ids begin with {shown(text)}",
                hint=f"Use a longer prefix: {a_few(found)}.",
            )
        near = difflib.get_close_matches(text, ids, n=3, cutoff=0.5)
        raise InvalidName(
            f"no training run id begins with {shown(text)}",
            resource="run",
            hint=f"Did you mean {a_few(near)}?" if near else None,
        )


def _parsed(text: str, what: str) -> _Name:
    match = _NAME.fullmatch(text)
    run, latest, kind, back = match.groups() if match else ("", None, None, None)
    if not (run or latest) or not text.isprintable() or not _SLASHES.fullmatch(run):
        hint = hint_for_page(text) or (_FORMS if what == "checkpoint" else None)
        raise InvalidName(f"not a {_KINDS_OF_NAME[what]}: {shown(text)}", resource=what, hint=hint)
    if kind is not None and kind not in TYPES:
        raise UsageError(
            f"unknown checkpoint type {shown(kind)}",
            hint="Use :sampler, :training or :external after @latest.",
        )
    is_latest = latest is not None or back is not None
    return _Name(text, run, is_latest, TYPES[kind] if kind else None, int(back or 0))


def _is_numbered(run_id: str, label: str) -> bool:
    """Return whether *label* is the end of an id ``…:train:0``, not a checkpoint's name."""
    return run_id.endswith(":train") and label.isdecimal()


def _matching(text: str, ids: Sequence[str]) -> list[str]:
    if text in ids:
        return [text]
    return [run_id for run_id in ids if run_id.startswith(text) or _abbreviated(run_id) == text]


def _labelled(
    found: Sequence[Checkpoint], run_id: str, label: str, kind: str | None, back: int
) -> str:
    """Return the checkpoint of *found* called *label*: ``NAME``, ``weights/NAME`` or similar."""
    names = {c.tinker_path: path for c in found if (path := c.path)}
    fitting = [
        p
        for p in names.values()
        if label in (p.name, p.checkpoint_id, f"{p.checkpoint_type}/{p.name}")
    ]
    if len(fitting) > 1:
        fitting = [p for p in fitting if p.checkpoint_type == kind] or fitting
    if not fitting:
        near = closest(label, [p.checkpoint_id if "/" in label else p.name for p in names.values()])
        raise UsageError(
            f"the run {run_id} has no checkpoint called {shown(label)}",
            hint=f"Checkpoints in this run: {a_few(near)}."
            if near
            else "This run has no checkpoints.",
        )
    if len(fitting) > 1:
        raise AmbiguousName(
            f"{len(fitting)} checkpoints in the run {run_id} are called {shown(label)}",
            hint=f"Use a full path: {a_few([str(p) for p in fitting])}.",
        )
    line = [c for c in found if c.path and c.path.kind == fitting[0].kind]
    line.sort(key=time_of, reverse=True)
    place = [c.tinker_path for c in line].index(str(fitting[0]))
    return _nth(
        line[place:], back, f"checkpoints not newer than {fitting[0]}", "checkpoint"
    ).tinker_path


def _nth(found: Sequence[T], back: int, what: str, resource: str) -> T:
    """Return the item of *found* that ``~back`` refers to.

    :param what: noun for the items, for the error message.
    """
    if back < len(found):
        return found[back]
    few = f"~{back} is out of range for {what} (maximum: ~{len(found) - 1})"
    raise InvalidName(few if found else f"there are no {what}", resource=resource)
