"""Lists of many pages: whole or nothing, in every format, and not held in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest

from tests.functional.conftest import Program
from tests.serving import Reply, Request, serving

LENGTH = 3500


class Listing:
    """A service with 3500 checkpoints whose page at :attr:`broken` is answered otherwise."""

    def __init__(self) -> None:
        self.broken: int | None = None
        self.answer = Reply({})

    def __call__(self, request: Request) -> Reply:
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        if self.broken is not None and offset >= self.broken:
            return self.answer
        return Reply(page(offset, limit))


def path(number: int) -> str:
    return f"tinker://run-{number}:train:0/sampler_weights/final"


def page(offset: int, limit: int) -> dict[str, object]:
    records = [
        {
            "checkpoint_id": "sampler_weights/final",
            "checkpoint_type": "sampler",
            "time": "2026-01-01T00:00:00Z",
            "tinker_path": path(number),
        }
        for number in range(offset, min(LENGTH, offset + limit))
    ]
    return {"checkpoints": records, "cursor": {"total_count": LENGTH}}


@pytest.fixture
def listing() -> Listing:
    return Listing()


@pytest.fixture
def words(listing: Listing) -> Iterator[list[str]]:
    with serving(listing) as url:
        options = ["--base-url", url, "--api-key", "tml-long-lists", "--limit", "0"]
        yield ["checkpoint", "list", *options]


READERS = {
    "json": lambda text: [row["tinker_path"] for row in json.loads(text)],
    "csv": lambda text: [row["tinker_path"] for row in csv.DictReader(io.StringIO(text))],
    "value": lambda text: [line.split(" ")[-1] for line in text.splitlines()],
    "plain": lambda text: [line.split("\t")[1] for line in text.splitlines()],
    "table": lambda text: [row.split("|")[-2].strip() for row in text.splitlines()[3:-1]],
}


@pytest.mark.parametrize("form", READERS)
def test_every_format_has_every_row_in_order(form: str, tinkex: Program, words: list[str]):
    done = tinkex(*words, "-f", form)

    assert READERS[form](done.stdout) == [path(number) for number in range(LENGTH)]


@pytest.mark.parametrize("form", READERS)
def test_a_failure_in_the_middle_leaves_nothing_on_stdout(form: str, tinkex, words, listing):
    listing.broken, listing.answer = 2000, Reply({"detail": "no longer"}, 403)

    done = tinkex(*words, "-f", form, code=1)

    assert done.stdout == ""
    assert "no longer" in done.stderr
