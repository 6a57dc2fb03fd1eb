"""Names that a person can type for a run or a checkpoint.

For a checkpoint: its path; ``RUN:NAME``; ``RUN@latest``; ``@latest`` for the whole account;
``RUN`` alone where the run has just one. ``@latest`` may be followed by ``:sampler``,
``:training`` or ``:external``, and everything but a path by ``~N``: the N-th saved before it.
For a run: its id; ``@latest``, the run last worked on, and ``@latest~N``; a checkpoint's path.

``RUN`` is the id of a run or its beginning, if only one run's id begins so. What is written out
in full costs no request here.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from tinkex.api.paths import KINDS, SCHEME, TinkerPath
from tinkex.api.resources import listing
from tinkex.api.resources.records import Checkpoint
from tinkex.api.resources.runs import TrainingRun, list_runs
from tinkex.api.resources.selection import TYPES, type_of
from tinkex.api.resources.siblings import nearest
from tinkex.exceptions import BadRequest, NotFound, TinkexError, UsageError

if TYPE_CHECKING:
    from tinkex.api.client import ServiceClient

R = TypeVar("R")

_FORMS = (
    "Give tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest or @latest; see 'tinkex checkpoint list'."
)
_NAME = re.compile(r"([^@~]*)(@latest(?::([a-z_]+))?)?(?:~([0-9]{1,6}))?")
_KINDS_OF_NAME = {"checkpoint": "checkpoint path or name", "run": "training run's id or name"}
#: A slash may be in RUN:weights/NAME only.
_SLASHES = re.compile(rf"[^/]*|[^/]+:({'|'.join(KINDS)})/[^/:]+")
#: Candidates that an error lists.
_LISTED = 8


class AmbiguousName(UsageError):
    """Several things could be meant; the hint lists them."""


@dataclass(frozen=True)
class _Name:
    """What was typed, taken apart; *back* is ``None`` where no ``~N`` was typed."""

    text: str
    run: str
    latest: bool
    kind: str | None
    back: int | None


def is_path(text: str) -> bool:
    """Tell whether *text* is a path or means to be one."""
    return text.startswith(SCHEME)


def resolve_checkpoint(client: ServiceClient, text: str, *, kind: str | None = None) -> str:
    """Return the path of the checkpoint that *text* names.

    :param kind: ``training`` or ``sampler``: what is wanted where *text* leaves a choice.
    :raises UsageError: it names nothing, or several (:class:`AmbiguousName`).
    :raises tinkex.exceptions.TinkexError: the service could not be asked.
    """
    if is_path(text):
        return str(TinkerPath.from_string(text))
    if text.count("/") == 2 and text.split("/")[1] in KINDS:
        return str(TinkerPath.from_string(SCHEME + text))
    return _Search(client, "checkpoint", text).checkpoint(kind)


def resolve_run(client: ServiceClient, text: str) -> str:
    """Return the id of the run that *text* names; the service is asked for all runs.

    :raises UsageError: it names nothing, or several (:class:`AmbiguousName`).
    """
    if is_path(text):
        return TinkerPath.from_string(text).run_id
    return _Search(client, "run", text).run()


def with_run(client: ServiceClient, text: str, do: Callable[[str], R]) -> R:
    """Return what *do* makes of the run that *text* names.

    An id written out is tried as it is, and looked up only if the service does not know it.

    :raises UsageError: see :func:`resolve_run`.
    """
    if is_path(text) or "@" in text or "~" in text:
        return do(resolve_run(client, text))
    try:
        return do(text)
    except (NotFound, BadRequest) as unknown:
        try:
            run_id = resolve_run(client, text)
        except AmbiguousName:
            raise
        except TinkexError:
            raise unknown from None
        if run_id == text:
            raise
        return do(run_id)


class _Search:
    """Asks the service what a name may mean, within the time of one operation."""

    def __init__(self, client: ServiceClient, what: str, text: str) -> None:
        self._transport = client._transport
        self._deadline = client.deadline(f"the name of the {what}")
        self._name = _taken_apart(text, what)

    def run(self) -> str:
        name = self._name
        if not name.latest:
            if name.back is not None:
                raise UsageError(f"no run is meant by {_shown(name.text)}", hint=_FORMS)
            return self._one_beginning(name.run)
        if name.run or name.kind:
            raise UsageError(f"no run is meant by {_shown(name.text)}", hint=_FORMS)
        runs = sorted(self._runs(), key=_last_request, reverse=True)
        if (name.back or 0) >= len(runs):
            raise UsageError(_too_few(len(runs), "training runs", name.back or 0))
        return runs[name.back or 0].training_run_id

    def checkpoint(self, kind: str | None) -> str:
        name = self._name
        if not name.run:
            found = list(listing.of_account(self._transport, self._deadline, None, 0))
            return _counted(found, name, name.kind or kind, "checkpoints")
        run_id, label, found = self._checkpoints(name.run)
        if label is not None:
            if name.latest:
                raise UsageError(f"{_shown(name.text)} names two checkpoints", hint=_FORMS)
            return _labelled(found, run_id, label, kind, name.back or 0)
        if name.latest or name.back is not None:
            return _counted(found, name, name.kind or kind, f"checkpoints of the run {run_id}")
        return _only(found, run_id, kind)

    def _checkpoints(self, text: str) -> tuple[str, str | None, list[Checkpoint]]:
        """Return the run, the checkpoint's name if *text* has one, and the run's checkpoints."""
        run_id, _, label = text.rpartition(":")
        if not run_id or _is_numbered(run_id, label):
            run_id, label = text, ""
        found: list[Checkpoint] = []
        # What the service does not know may be the beginning of an id.
        with contextlib.suppress(NotFound, BadRequest, UsageError):
            found = listing.of_run(self._transport, run_id, self._deadline)
        if not found:
            run_id, label = self._readings(text)
            found = listing.of_run(self._transport, run_id, self._deadline)
        return run_id, label or None, found

    def _readings(self, text: str) -> tuple[str, str]:
        """Return the run that *text* means and the checkpoint's name behind it, or ``""``."""
        head, _, label = text.rpartition(":")
        ids = [run.training_run_id for run in self._runs()]
        if head and not _is_numbered(head, label) and not _beginning(text, ids):
            return self._one_beginning(head, ids), label
        return self._one_beginning(text, ids), ""

    def _one_beginning(self, text: str, ids: list[str] | None = None) -> str:
        """Return the one run whose id is *text* or begins with it."""
        ids = [run.training_run_id for run in self._runs()] if ids is None else ids
        found = _beginning(text, ids)
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousName(
                f"{len(found)} training runs begin with {_shown(text)}",
                hint=f"Type more of it: {_listed(found)}",
            )
        near = difflib.get_close_matches(text, ids, n=3, cutoff=0.5)
        hint = f"Did you mean {_listed(near)}" if near else "See 'tinkex run list'."
        raise UsageError(f"no training run's id begins with {_shown(text)}", hint=hint)

    def _runs(self) -> Sequence[TrainingRun]:
        return list_runs(self._transport, self._deadline, None).items


def _taken_apart(text: str, what: str) -> _Name:
    match = _NAME.fullmatch(text)
    run, latest, kind, back = match.groups() if match else ("", None, None, None)
    if not (run or latest) or not text.isprintable() or not _SLASHES.fullmatch(run):
        raise UsageError(f"not a {_KINDS_OF_NAME[what]}: {_shown(text)}", hint=_FORMS)
    if kind is not None and kind not in TYPES:
        raise UsageError(
            f"no kind of checkpoint is called {_shown(kind)}",
            hint="After @latest there may be :sampler, :training or :external.",
        )
    kind = TYPES[kind] if kind else None
    return _Name(text, run, latest is not None, kind, None if back is None else int(back))


def _is_numbered(run_id: str, label: str) -> bool:
    """Tell whether *label* is the last part of an id ``…:train:0`` and no checkpoint's name."""
    return run_id.endswith(":train") and label.isdecimal()


def _beginning(text: str, ids: Sequence[str]) -> list[str]:
    return [text] if text in ids else [run_id for run_id in ids if run_id.startswith(text)]


def _counted(found: Sequence[Checkpoint], name: _Name, kind: str | None, what: str) -> str:
    """Return the newest of *found*, or the one that many before it."""
    fitting = _newest_first(c for c in found if kind in (None, type_of(c)))
    back = name.back or 0
    if back >= len(fitting):
        raise UsageError(
            _too_few(len(fitting), f"{kind + ' ' if kind else ''}{what}", back),
            hint="See 'tinkex checkpoint list'.",
        )
    return fitting[back].tinker_path


def _labelled(
    found: Sequence[Checkpoint], run_id: str, label: str, kind: str | None, back: int
) -> str:
    """Return the checkpoint of *found* called *label*: ``NAME`` or ``weights/NAME``."""
    names = {c.tinker_path: TinkerPath.from_string(c.tinker_path) for c in found}
    fitting = [p for p in names.values() if label in (p.name, p.checkpoint_id)]
    if len(fitting) > 1:
        fitting = [p for p in fitting if p.checkpoint_type == kind] or fitting
    if not fitting:
        near = nearest(label, [p.checkpoint_id if "/" in label else p.name for p in names.values()])
        raise UsageError(
            f"the run {run_id} has no checkpoint called {_shown(label)}",
            hint=f"It has {_listed(near)}" if near else "It has none at all.",
        )
    if len(fitting) > 1:
        raise AmbiguousName(
            f"{len(fitting)} checkpoints of the run {run_id} are called {_shown(label)}",
            hint=f"Give one in full: {_listed([str(p) for p in fitting])}",
        )
    if not back:
        return str(fitting[0])
    line = [c for c in _newest_first(found) if names[c.tinker_path].kind == fitting[0].kind]
    place = [c.tinker_path for c in line].index(str(fitting[0])) + back
    if place >= len(line):
        raise UsageError(f"there are not {back} checkpoints before {fitting[0]}")
    return line[place].tinker_path


def _only(found: Sequence[Checkpoint], run_id: str, kind: str | None) -> str:
    fitting = [c.tinker_path for c in _newest_first(found) if kind in (None, type_of(c))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UsageError(f"the run {run_id} has no {kind + ' ' if kind else ''}checkpoints")
    raise AmbiguousName(
        f"the run {run_id} has {len(fitting)} checkpoints",
        hint=f"Give RUN:NAME or RUN@latest; there are {_listed(fitting)}",
    )


def _newest_first(found: Iterable[Checkpoint]) -> list[Checkpoint]:
    # Those of one moment stay in the service's order.
    return sorted(found, key=lambda checkpoint: checkpoint.time, reverse=True)


def _last_request(run: TrainingRun) -> datetime:
    return run.last_request_time or datetime.min.replace(tzinfo=UTC)


def _too_few(count: int, what: str, back: int) -> str:
    if not count:
        return f"there are no {what}"
    return f"there are only {count} {what}, so there is no ~{back}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more + "."


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:199] + "…")
