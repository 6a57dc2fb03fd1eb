"""The results of ``run batch``, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from tinkex.exceptions import LocalError, UsageError
from tinkex.files import user_path

_HINT = "Specify a results file from 'tinkex run batch'."


@dataclass(frozen=True)
class Sequence:
    """One sample of a row.

    :ivar text: the text, or ``None`` if the batch was sampled without a tokenizer.
    :ivar stop_reason: ``stop`` or ``length``.
    :ivar avg_logprob: the mean logprob of the tokens in nats, if known.
    :ivar token_count: number of tokens, if known.
    """

    text: str | None
    stop_reason: str
    avg_logprob: float | None = None
    token_count: int | None = None


@dataclass(frozen=True)
class ResultRow:
    """The samples of one prompt.

    :ivar where: place for error messages: ``answers.jsonl, line 7``.
    :ivar index: position of the prompt, from 0.
    :ivar extra: the members of the prompt's row that ``run batch`` copies to the result.
    """

    where: str
    id: str
    index: int
    sequences: tuple[Sequence, ...]
    extra: Mapping[str, Any]


def read_results(name: str, stdin: TextIO | None = None) -> Iterator[ResultRow]:
    """Yield the rows of the results file *name*; ``-`` is *stdin*.

    :raises LocalError: the file cannot be read.
    :raises UsageError: a line is not a result of ``run batch``, or there are no lines.
    """
    place = "standard input" if name == "-" else name
    found = False
    try:
        for number, line in enumerate(_lines(name, stdin), 1):
            if line.strip():
                found = True
                yield _row(line, f"{place}, line {number}")
    except OSError as error:
        raise LocalError(f"cannot read {place}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = f"{place} is not UTF-8 text (byte {error.start})"
        raise LocalError(what, hint=_HINT) from error
    if not found:
        raise UsageError(f"there are no results in {place}", hint=_HINT)


def _lines(name: str, stdin: TextIO | None) -> Iterable[str]:
    if name != "-":
        with user_path(name).open(encoding="utf-8-sig") as lines:
            yield from lines
    elif stdin is None:
        raise LocalError("cannot read standard input: it is closed")
    else:
        yield from stdin


def _row(line: str, where: str) -> ResultRow:
    try:
        row = json.loads(line)
        extra = row.get("extra", {})
        sequences = tuple(_sequence(each) for each in row["sequences"])
        if not sequences or not isinstance(extra, Mapping):
            raise ValueError("no sequences")
        return ResultRow(where, str(row["id"]), int(row["index"]), sequences, extra)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{where} is not a result of 'tinkex run batch'",
            hint='Each line must be an object such as {"id": "q1", "index": 0, "sequences": '
            '[{"text": …, "stop_reason": …}]}.',
        ) from error


def _sequence(data: Any) -> Sequence:
    text, reason = data["text"], data["stop_reason"]
    if not isinstance(text, str | None) or not isinstance(reason, str):
        raise ValueError("not a sequence")
    logprob, count = data.get("avg_logprob"), data.get("token_count")
    return Sequence(
        text,
        reason,
        float(logprob) if isinstance(logprob, int | float) else None,
        count if isinstance(count, int) else None,
    )
