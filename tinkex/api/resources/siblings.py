"""What else a run has, for the hint of an error about a checkpoint that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources import listing
from tinkex.api.resources.records import Checkpoint
from tinkex.exceptions import NotFound, TinkexError

#: Seconds that a hint may take; the error itself is known already.
_PATIENCE = 5.0
#: Names that a hint shows.
_SHOWN = 3


def hint_about(transport: Transport, path: TinkerPath, deadline: Deadline) -> str | None:
    """Ask the service what the run of *path* has, and return a hint, or ``None``; never raises."""
    try:
        patience = min(_PATIENCE, deadline.remaining())
        short = transport.deadline("what else the run has", patience)
        return hint_from(path, listing.of_run(transport, path.run_id, short))
    except NotFound:
        return f"There is no training run {path.run_id}; see 'tinkex run list'."
    except TinkexError:
        return None


def hint_from(path: TinkerPath, found: Iterable[Checkpoint]) -> str | None:
    """Return a hint about *path*, which is not among *found*: what its run has instead."""
    there = [TinkerPath.from_string(checkpoint.tinker_path) for checkpoint in found]
    if not there:
        return f"The run {path.run_id} has no checkpoints."
    same_name = [other for other in there if other.name == path.name]
    if same_name:
        return f"Did you mean {same_name[0]}?"
    # Of two kinds with one name, that of the same kind is meant.
    there.sort(key=lambda other: other.kind != path.kind)
    near = nearest(path.name, [other.name for other in there])
    paths = {other.name: str(other) for other in reversed(there)}
    return "In this run there are: " + _few([paths[name] for name in near], len(there))


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return a few of *names*, those most like *name* first."""
    different = list(dict.fromkeys(names))
    alike = difflib.get_close_matches(name, different, n=_SHOWN, cutoff=0.5)
    return (alike + [other for other in different if other not in alike])[:_SHOWN]


def _few(shown: list[str], total: int) -> str:
    more = total - len(shown)
    return ", ".join(shown) + (f" and {more} more." if more > 0 else ".")
