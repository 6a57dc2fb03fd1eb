"""The same change to many checkpoints: side by side, all tried, one outcome each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex.columns import plain_text
from tinkex.commands.base import Lister
from tinkex.exceptions import NotFound, Terminated, TinkexError

if TYPE_CHECKING:
    from tinkex.api import Checkpoint

__all__ = ["BulkChange", "sum_of"]

#: Changes under way at once; as many as the official command line has.
CONCURRENCY = 32
#: Paths that a question lists.
LISTED = 20


class BulkChange(Lister):
    """A command that changes checkpoints; the rows are one outcome for each, in their order.

    :ivar result: the paths of those that were changed.
    """

    is_action = True
    #: What is being done: ``Deleting``.
    doing: ClassVar[str]
    #: What has been done: ``deleted``.
    done: ClassVar[str]
    #: How many were to be changed; none in a rehearsal.
    _tried = 0
    _failures: Sequence[tuple[str, TinkexError]] = ()
    #: What made an end of it before all were tried.
    _interrupt: BaseException | None = None

    def change(
        self,
        paths: Sequence[str],
        do: Callable[..., None],
        row: Callable[[str, TinkexError | None], tuple[Any, ...]],
    ) -> Iterable[tuple[Any, ...]]:
        """Return the rows of what becomes of *paths*.

        :param do: changes one path; takes ``explain`` as the methods of
            :class:`tinkex.api.Checkpoints` do. The failure of the only path is raised.
        :param row: makes the row of a path out of its error.
        """
        self.result = []
        failures: list[tuple[str, TinkexError]] = []
        self._failures = failures
        self._tried = len(paths)
        if len(paths) == 1:
            do(paths[0])
            self.result.append(paths[0])
            self.changed(self.result)
            return [row(paths[0], None)]
        rows = self._rows(paths, do, row, failures)
        # A bar and lines cannot be drawn at once: the lines come when all is done.
        return list(rows) if self.app.display.draws else rows

    def changed(self, paths: list[str]) -> None:
        """Be told of the *paths* that were changed, at the end."""

    def _rows(
        self,
        paths: Sequence[str],
        do: Callable[..., None],
        row: Callable[[str, TinkexError | None], tuple[Any, ...]],
        failures: list[tuple[str, TinkexError]],
    ) -> Iterator[tuple[Any, ...]]:
        from tinkex.api.http.concurrency import map_ordered

        display, total = self.app.display, len(paths)
        known: dict[str, TinkexError | None] = {}

        def tried(path: str) -> TinkexError | None:
            try:
                do(path, explain=False)
                known[path] = None
            except TinkexError as error:
                known[path] = error
            return known[path]

        def told(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            if error is None:
                self.result.append(path)
            else:
                failures.append((path, error))
            return row(path, error)

        outcomes = map_ordered(
            tried,
            paths,
            workers=CONCURRENCY,
            on_done=lambda count: display.count(self.doing, count, total),
        )
        had_turn = 0
        try:
            for path, error in zip(paths, outcomes, strict=True):
                had_turn += 1
                yield told(path, error)
        except (KeyboardInterrupt, Terminated) as interrupt:
            # What is known by now is told before the end, and what has not had its turn as well.
            self._interrupt = interrupt
            display.clear()
            for path in paths[had_turn:]:
                if path in known:
                    yield told(path, known[path])
        finally:
            display.clear()
            self.changed(self.result)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        try:
            super().produce_output(parsed_args, column_names, data)
        except (KeyboardInterrupt, Terminated) as interrupt:
            self._interrupt = interrupt
        if self._interrupt is not None:
            self._tell_what_is_left()
            raise self._interrupt
        failures = self._failures
        # What came of each path is the result, also when one of them could not be changed.
        if failures:
            path, first = failures[0]
            hint = first.hint
            if isinstance(first, NotFound):
                hint = self.client.checkpoints.nearest(path) or hint
            raise TinkexError(
                f"{len(failures)} of {self._tried} checkpoints could not be {self.done}",
                hint=hint,
                category=first.category,
            )
        if self._tried > 1:
            self.status(f"{len(self.result)} checkpoints {self.done}.")
        return 0

    def _tell_what_is_left(self) -> None:
        if self._tried > 1:
            told = f"At least {len(self.result)} of {self._tried} were {self.done} before that"
            self.app.warn(f"{told}, as told above; up to {CONCURRENCY} more may be.", prefix="")

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the plain line of a path that was changed."""
        return f"{self.done.capitalize()} {plain_text(record['tinker_path'])}"

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["error"]:
            path = plain_text(record["tinker_path"])
            self.app.warn(f"{path}: {record['error']}", prefix=f"Not {self.done}: ")
            return None
        return self.line(record)

    def list_for_question(self, paths: Sequence[str], notes: Mapping[str, str] = {}) -> str:
        """Return *paths* as the lines of a question, a note behind each that has one."""
        lines = [f"  {path}{notes.get(path, '')}" for path in paths[:LISTED]]
        if len(paths) > LISTED:
            lines.append(f"  … and {len(paths) - LISTED} more")
        return "\n".join(lines)


def sum_of(checkpoints: Sequence[Checkpoint]) -> str:
    """Return ``3 checkpoints, 1.2 GB`` for people; the size only where all sizes are known."""
    from tinkex.api.resources.selection import total_size
    from tinkex.columns import Size

    count = f"{len(checkpoints)} checkpoint{'' if len(checkpoints) == 1 else 's'}"
    size = total_size(checkpoints)
    return count if size is None else f"{count}, {Size(size).human_readable()}"
