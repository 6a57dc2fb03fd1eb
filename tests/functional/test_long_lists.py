"""Lists of many pages: whole or nothing, in every format, and not held in memory."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.functional.conftest import Program

LENGTH = 3500


class Listing:
    """A service with 3500 checkpoints whose page at :attr:`broken` is answered otherwise."""

    def __init__(self) -> None:
        self.broken: int | None = None
        self.answer: tuple[int, bytes] = (200, b"{}")
        listing = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # the program may have ended meanwhile
                    super().handle()

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                limit, offset = int(query["limit"][0]), int(query["offset"][0])
                status, body = 200, page(offset, limit)
                if listing.broken is not None and offset >= listing.broken:
                    status, body = listing.answer
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def path(number: int) -> str:
    return f"tinker://run-{number}:train:0/sampler_weights/final"


def page(offset: int, limit: int) -> bytes:
    records = [
        {
            "checkpoint_id": "sampler_weights/final",
            "checkpoint_type": "sampler",
            "time": "2026-01-01T00:00:00Z",
            "tinker_path": path(number),
        }
        for number in range(offset, min(LENGTH, offset + limit))
    ]
    return json.dumps({"checkpoints": records, "cursor": {"total_count": LENGTH}}).encode()


@pytest.fixture
def listing() -> Iterator[Listing]:
    listing = Listing()
    thread = threading.Thread(target=listing.server.serve_forever, args=(0.02,))
    thread.start()
    yield listing
    listing.server.shutdown()
    listing.server.server_close()
    thread.join()


@pytest.fixture
def words(listing: Listing) -> list[str]:
    options = ["--base-url", listing.url, "--api-key", "tml-long-lists", "--limit", "0"]
    return ["checkpoint", "list", *options]


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


def test_sorted_rows_are_all_there(tinkex: Program, words: list[str]):
    done = tinkex(*words, "-f", "value", "-c", "tinker_path", "--sort-column", "tinker_path")

    assert done.stdout.splitlines() == sorted(map(path, range(LENGTH)))


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, b'{"detail": "no longer"}'), "no longer"),
        ((200, b"<html>"), ""),
        ((200, b'{"checkpoints": [{"tinker_path": 7}]}'), ""),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing_on_stdout(
    form: str,
    answer: tuple[int, bytes],
    said: str,
    tinkex: Program,
    words: list[str],
    listing: Listing,
):
    listing.broken, listing.answer = 2000, answer

    done = tinkex(*words, "-f", form, code=1)

    assert done.stdout == ""
    assert said in done.stderr
