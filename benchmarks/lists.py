"""Lists of up to 100,000 checkpoints, and the deletion of 1,000, with both programs."""

from __future__ import annotations

import tempfile

from frame import (
    HEADER,
    Command,
    Context,
    Samples,
    Section,
    Target,
    environment,
    measure,
    rows,
    server,
    verdicts,
)
from server import OF_RUN

LONG = 10_000
VERY_LONG = 100_000
DELETED = 1000

OURS_20, OFFICIAL_20 = "tinkex checkpoint list -f json (20)", "tinker checkpoint list (20)"
OURS, OFFICIAL = "tinkex checkpoint list -f json (10,000)", "tinker checkpoint list (10,000)"
OURS_VALUE = "tinkex checkpoint list -f value (10,000)"
OURS_DELETE, OFFICIAL_DELETE = (
    "tinkex checkpoint delete (1,000)",
    "tinker checkpoint delete (1,000)",
)
OURS_DELETE_HTTP2 = f"{OURS_DELETE}, http2"
OURS_LONGEST = "tinkex checkpoint list -f json (100,000)"
OURS_LONGEST_CSV = "tinkex checkpoint list -f csv (100,000)"
OFFICIAL_LONGEST = "tinker checkpoint list (100,000)"
OURS_SLOW = "tinkex run list -f json (100 pages at 100 ms)"
OFFICIAL_SLOW = "tinker run list (100 pages at 100 ms)"
OURS_RUNS, OFFICIAL_RUNS = "tinkex run list -f json (100,000)", "tinker run list (100,000)"
OURS_RUNS_HTTP2 = f"{OURS_RUNS}, http2"
#: The pool of every line that does not name one; its rows are those without the plugin.
DEFAULT, HTTP2 = {"TINKEX_HTTP_POOL": "default"}, {"TINKEX_HTTP_POOL": "http2"}

TARGETS = (
    Target(OURS_20, OFFICIAL_20, 0.5),
    Target(OURS, OFFICIAL, 0.5),
    Target(OURS, OFFICIAL, 0, "cpu"),
    Target(OURS, OFFICIAL, 0, "rss"),
    Target(OURS_DELETE, OFFICIAL_DELETE, 1.0),
    Target(OURS_DELETE_HTTP2, OFFICIAL_DELETE, 0.2),
    Target(OURS_DELETE_HTTP2, OFFICIAL_DELETE, 0, "cpu"),
    Target(OURS_DELETE, OFFICIAL_DELETE, 0, "cpu"),
)
LONGEST = (
    Target(OURS_LONGEST, OFFICIAL_LONGEST),
    Target(OURS_LONGEST, OFFICIAL_LONGEST, 0, "rss"),
    Target(OURS_LONGEST_CSV, OFFICIAL_LONGEST, 0, "rss"),
    Target(OURS_SLOW, OFFICIAL_SLOW),
    Target(OURS_RUNS, OFFICIAL_RUNS),
    Target(OURS_RUNS_HTTP2, OFFICIAL_RUNS, 0.45),
    Target(OURS_RUNS, OFFICIAL_RUNS, 0, "rss"),
)

TEXT = """\
All with `--limit 0`, the official program with `-f json`. Both ask for pages of 1,000 checkpoints
or 100 runs. Deletions name their paths on the command line, 100 of each run, and change nothing on
the server; ours read the list of each run first, to warn of shared names.
Ours are over the default HTTP pool unless they name another. {rounds} rounds, {few} of the lists of
100,000. The server answers in some 2 ms a page, so this is what the clients themselves cost.
"""
LIMITS = """\
up to some thousand entries the start of both programs; beyond that, reading and writing JSON in
Python, and a server that shares the cores.
"""


def run(context: Context) -> Section:
    """Measure lists and deletions."""
    rounds, few = context.rounds(9), context.rounds(2)
    with tempfile.TemporaryDirectory() as home:
        samples = _measure(context, home, rounds)
        longest = {} if context.quick else _measure_longest(context, home, few)
    found = verdicts(samples, TARGETS)
    if longest:
        found += verdicts(longest, LONGEST)
    text = TEXT.format(rounds=rounds, few=few)
    shown = rows({**samples, **longest})
    return Section("Lists and deletions", text, HEADER, shown, found, LIMITS)


def _measure(context: Context, home: str, rounds: int) -> Samples:
    with server() as short, server("--count", str(LONG)) as long:
        few, many = environment(home, short, **DEFAULT), environment(home, long, **DEFAULT)
        ours, official = str(context.tinkex), str(context.tinker)
        listed, listed_official = _lists(context)
        paths = [
            f"tinker://run-{n // OF_RUN}:train:0/sampler_weights/{n % OF_RUN:04}"
            for n in range(DELETED)
        ]
        return measure(
            [
                Command(OURS_20, listed, few),
                Command(OFFICIAL_20, listed_official, few),
                Command(OURS, listed, many),
                Command(OURS_VALUE, [*listed[:-1], "value"], many),
                Command(OFFICIAL, listed_official, many),
                Command(OURS_DELETE, [ours, "checkpoint", "delete", "--yes", *paths], few),
                Command(
                    OURS_DELETE_HTTP2,
                    [ours, "checkpoint", "delete", "--yes", *paths],
                    few | HTTP2,
                ),
                Command(OFFICIAL_DELETE, [official, "checkpoint", "delete", "--yes", *paths], few),
            ],
            rounds,
        )


def _measure_longest(context: Context, home: str, rounds: int) -> Samples:
    listed, listed_official = _lists(context)
    slow = ("--count", str(LONG), "--wait", "0.1")
    with server("--count", str(VERY_LONG)) as url, server(*slow) as slow_url:
        environ = environment(home, url, **DEFAULT)
        waiting = environment(home, slow_url, **DEFAULT)
        return measure(
            [
                Command(OURS_LONGEST, listed, environ),
                Command(OURS_LONGEST_CSV, [*listed[:-1], "csv"], environ),
                Command(OFFICIAL_LONGEST, listed_official, environ),
                Command(OURS_SLOW, _of_runs(listed), waiting),
                Command(OFFICIAL_SLOW, _of_runs(listed_official), waiting),
                Command(OURS_RUNS, _of_runs(listed), environ),
                Command(OURS_RUNS_HTTP2, _of_runs(listed), environ | HTTP2),
                Command(OFFICIAL_RUNS, _of_runs(listed_official), environ),
            ],
            rounds,
        )


def _lists(context: Context) -> tuple[list[str], list[str]]:
    ours = [str(context.tinkex), "checkpoint", "list", "--limit", "0", "-f", "json"]
    official = [str(context.tinker), "-f", "json", "checkpoint", "list", "--limit", "0"]
    return ours, official


def _of_runs(command: list[str]) -> list[str]:
    return ["run" if word == "checkpoint" else word for word in command]
