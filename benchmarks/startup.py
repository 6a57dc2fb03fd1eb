"""How long commands take from start to exit, beside the official command line and bare Python.

Every command runs once in each round, in random order, so that a busy moment of the machine hits
all of them alike; figures are medians over the rounds, ratios are medians of the ratios within a
round. Only ratios are worth comparing between machines.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent

BARE = "python -c pass"
OFFICIAL_VERSION = "tinker version"
OFFICIAL_RUNS = "tinker -f json run list"
OFFICIAL_CHECKPOINTS = "tinker -f json checkpoint list"
OURS = (
    "tinkex --version",
    "tinkex version",
    "tinkex --help",
    "tinkex checkpoint list -f json",
    "tinkex run list -f json",
)


@dataclass(frozen=True)
class Target:
    """A promise: *command* takes at most *limit* times as long as *than*."""

    command: str
    than: str
    limit: float


TARGETS = (
    Target("tinkex --version", OFFICIAL_VERSION, 0.05),
    Target("tinkex checkpoint list -f json", OFFICIAL_RUNS, 0.25),
)
#: Shown besides: ratios without a target.
COMPARED = (
    Target("tinkex version", OFFICIAL_VERSION, 0),
    Target("tinkex checkpoint list -f json", OFFICIAL_CHECKPOINTS, 0),
    Target("tinkex run list -f json", OFFICIAL_RUNS, 0),
    Target("tinkex --version", BARE, 0),
    Target("tinkex version", BARE, 0),
    Target("tinkex --help", BARE, 0),
    Target("tinkex checkpoint list -f json", BARE, 0),
)


def main() -> int:
    """Measure, print, and write the report where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    bin_dir = Path(sys.executable).parent
    parser.add_argument("--tinkex", type=Path, default=bin_dir / "tinkex", help="our program")
    parser.add_argument("--tinker", type=Path, required=True, help="the official program")
    parser.add_argument("--rounds", type=int, default=25, help="rounds that count (default: 25)")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    programs = {
        "tinkex": options.tinkex.absolute(),
        "tinker": options.tinker.absolute(),
        "python": Path(sys.executable),
    }
    names = (BARE, OFFICIAL_VERSION, OFFICIAL_RUNS, OFFICIAL_CHECKPOINTS, *OURS)
    commands = {name: [str(programs[name.split()[0]]), *name.split()[1:]] for name in names}
    with tempfile.TemporaryDirectory() as home, server() as url:
        environ = clean_environment(home, url)
        times = measure(commands, environ, options.rounds)
        text = report(times, programs, environ)
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    missed = [t for t in TARGETS if ratio(times, t.command, t.than) > t.limit]
    return 1 if options.check and missed else 0


@contextmanager
def server() -> Iterator[str]:
    """Run the trivial server in a process of its own and yield its address."""
    command = [sys.executable, str(HERE / "server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def clean_environment(home: str, url: str) -> dict[str, str]:
    """Return an environment as that of a user's shell, with a home of its own."""
    # These two change what is measured: modules compiled at every start, output in pieces.
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and not name.startswith(("TINKE", "XDG_", "CLIFF_"))
    }
    return kept | {"HOME": home, "TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-benchmark"}


def measure(
    commands: Mapping[str, Sequence[str]], environ: Mapping[str, str], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each command in each round; the first, which warms up, is dropped."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in random.sample(list(commands), len(commands)):
            seconds = run_once(commands[name], environ)
            if number:
                times[name].append(seconds)
        sys.stderr.write(f"\rround {number} of {rounds} ")
    sys.stderr.write("\n")
    return times


def run_once(command: Sequence[str], environ: Mapping[str, str]) -> float:
    """Return the seconds that *command* takes; it must succeed and say something."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    seconds = time.perf_counter() - began
    silent = not done.stdout and "pass" not in command
    if done.returncode or silent:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.decode()}")
    return seconds


def ratio(times: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return how many times as long as *other* the command *one* takes."""
    return median(a / b for a, b in zip(times[one], times[other], strict=True))


def report(
    times: Mapping[str, list[float]], programs: Mapping[str, Path], environ: Mapping[str, str]
) -> str:
    """Return the figures as Markdown."""
    lines = [
        "# Start-up and listing",
        "",
        "One run of `make bench`, which runs `benchmarks/startup.py` and writes this page. Every",
        "command runs once in each round, in random order, against a server in a process of its",
        "own whose answers cost nothing; times are medians of whole processes, start to exit, and",
        "ratios are medians of the ratios within a round. Compare ratios, not milliseconds.",
        "",
        f"{len(times[BARE])} rounds; {cores()} cores; {versions(programs, environ)}.",
        "",
        "| Command | median ms | fastest ms |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| `{name}` | {median(values) * 1000:.1f} | {min(values) * 1000:.1f} |"
        for name, values in times.items()
    ]
    lines += ["", "| Target | at most | measured | |", "|---|---:|---:|---|"]
    for target in TARGETS:
        found = ratio(times, target.command, target.than)
        verdict = "met" if found <= target.limit else "**missed**"
        lines.append(
            f"| `{target.command}` / `{target.than}` | {target.limit} | {found:.3f} | {verdict} |"
        )
    lines += ["", "| Also | measured |", "|---|---:|"]
    lines += [
        f"| `{pair.command}` / `{pair.than}` | {ratio(times, pair.command, pair.than):.3f} |"
        for pair in COMPARED
    ]
    if sys.executable.startswith("/tmp"):
        lines += ["", "stevedore's cache is off for a Python below /tmp: slower than elsewhere."]
    return "\n".join(lines) + "\n"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def versions(programs: Mapping[str, Path], environ: Mapping[str, str]) -> str:
    """Return the versions of Python and of the two programs."""

    def said(*words: str) -> str:
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    official_python = programs["tinker"].parent / "python"
    found = [
        f"Python {platform.python_version()}",
        said(str(programs["tinkex"]), "version").split(" (")[0],
        said(str(programs["tinker"]), "version"),
        "on " + said(str(official_python), "--version"),
    ]
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
