"""Common code of the benchmarks: timing of processes in random order, and a table of results.

Every command runs once in each round, in random order, so that other load on the machine affects
all of them equally; figures are medians over the rounds, ratios are medians of the ratios within a
round. Only ratios are worth comparing between machines.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Literal

HERE = Path(__file__).resolve().parent

Quantity = Literal["wall", "cpu", "rss"]
#: Maximum number of bytes of output that are read.
_MOST_SAID = 64 * 1024
_UNITS: Mapping[Quantity, str] = {"wall": "", "cpu": " (CPU)", "rss": " (memory)"}


@dataclass(frozen=True)
class Context:
    """The parameters of a benchmark.

    :ivar tinkex: tinkex, installed as a user installs it.
    :ivar tinker: the official program.
    :ivar python: the interpreter that runs tinkex.
    :ivar quick: use few rounds and small sizes, to check that the benchmark runs.
    """

    tinkex: Path
    tinker: Path
    python: Path
    quick: bool = False

    @property
    def tinker_python(self) -> Path:
        """The interpreter that the official program and SDK run on."""
        return self.tinker.parent / "python"

    def rounds(self, usual: int) -> int:
        """Return the number of rounds: *usual*, or less if ``quick``."""
        return min(usual, 2) if self.quick else usual


@dataclass(frozen=True)
class Command:
    """A process to measure.

    :ivar name: its name in the report.
    :ivar argv: the command line.
    :ivar environ: the whole environment, see :func:`environment`.
    :ivar before: called before each start, outside the measured time.
    :ivar silent: it may succeed without output.
    """

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    before: Callable[[], object] | None = field(default=None, compare=False)
    silent: bool = False


@dataclass(frozen=True)
class Sample:
    """One process: seconds from start to exit, CPU seconds, peak resident MiB.

    The peak is never below that of the process that measures (some 20 MiB): the kernel counts
    what was there before the program began.

    :ivar said: the last line that it printed; of a large output, nothing.
    """

    wall: float
    cpu: float
    rss: float
    said: str = ""


#: Samples of each command, by its name, in the order of the rounds.
Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Target:
    """A target: *command* takes at most *limit* times as much as *than*.

    :ivar limit: 0 for a ratio without a target.
    """

    command: str
    than: str
    limit: float = 0
    quantity: Quantity = "wall"


@dataclass(frozen=True)
class Verdict:
    """A target and its result.

    :ivar what: the ratio as text: ``a / b``.
    :ivar limit: as text: ``≤ 0.2``; empty without a target.
    """

    what: str
    limit: str
    found: float
    met: bool = True


@dataclass(frozen=True)
class Section:
    """A benchmark's part of the report.

    :ivar title: its heading.
    :ivar text: what is measured, and against what; Markdown.
    :ivar header: headings of the columns of *rows*; the first is of text, others of numbers.
    :ivar targets: see :func:`verdicts`.
    :ivar limits: explanation of the limit, shown if a target is missed.
    """

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[Verdict] = ()
    limits: str = ""

    def markdown(self) -> str:
        """Return the section as Markdown."""
        lines = [f"## {self.title}", "", self.text.strip(), ""]
        lines += _table(self.header, self.rows)
        if self.targets:
            rows = [
                (v.what, v.limit, f"{v.found:.3g}", _word(v) if v.limit else "")
                for v in self.targets
            ]
            lines += ["", *_table(("Ratio", "target", "measured", ""), rows)]
        if self.limits and not all(verdict.met for verdict in self.targets):
            lines += ["", f"What limits: {self.limits.strip()}"]
        return "\n".join(lines) + "\n"


def _word(verdict: Verdict) -> str:
    if verdict.met:
        return "met"
    wanted = float(verdict.limit.split()[-1])
    return f"**missed** by {abs(verdict.found / wanted - 1):.0%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = "|".join(["---"] + ["---:"] * (len(header) - 1))
    return [f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def measure(commands: Sequence[Command], rounds: int) -> dict[str, list[Sample]]:
    """Return the samples of each command; the first round, which warms up, is dropped."""
    samples: dict[str, list[Sample]] = {command.name: [] for command in commands}
    for number in range(rounds + 1):
        for command in random.sample(commands, len(commands)):
            sample = run_once(command)
            if number:
                samples[command.name].append(sample)
        tell(f"round {number} of {rounds}")
    return samples


def run_once(command: Command) -> Sample:
    """Return one sample of *command*, which must succeed and print something."""
    if command.before:
        command.before()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command.argv, env=command.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not (command.silent or os.fstat(out.fileno()).st_size):
            err.seek(0)
            said = err.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command.argv)} ended with {process.returncode}:\n{said}")
        said = _last_line(out)
    per_mib = 1024 if sys.platform == "linux" else 1024 * 1024
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / per_mib, said)


def _last_line(out: IO[bytes]) -> str:
    if os.fstat(out.fileno()).st_size > _MOST_SAID:
        return ""
    out.seek(0)
    return (out.read().decode(errors="replace").splitlines() or [""])[-1]


def ratio(samples: Samples, one: str, other: str, quantity: Quantity = "wall") -> float:
    """Return the ratio of the command *one* to *other*."""
    pairs = zip(samples[one], samples[other], strict=True)
    ratios: list[float] = [getattr(a, quantity) / getattr(b, quantity) for a, b in pairs]
    return median(ratios)


#: Headings of :func:`rows`.
HEADER = ("Command", "median ms", "fastest ms", "CPU ms", "peak MiB")


def rows(samples: Samples) -> list[tuple[str, ...]]:
    """Return a row for each command: medians of time, CPU and memory."""
    return [
        (
            f"`{name}`",
            f"{median(s.wall for s in found) * 1000:.1f}",
            f"{min(s.wall for s in found) * 1000:.1f}",
            f"{median(s.cpu for s in found) * 1000:.1f}",
            f"{median(s.rss for s in found):.0f}",
        )
        for name, found in samples.items()
    ]


def verdicts(samples: Samples, targets: Sequence[Target]) -> list[Verdict]:
    """Return the verdicts on *targets*."""
    found = []
    for target in targets:
        value = ratio(samples, target.command, target.than, target.quantity)
        what = f"`{target.command}` / `{target.than}`{_UNITS[target.quantity]}"
        limit = f"≤ {target.limit:g}" if target.limit else ""
        found.append(Verdict(what, limit, value, not target.limit or value <= target.limit))
    return found


def environment(home: str | Path, url: str = "", **more: str) -> dict[str, str]:
    """Return an environment like that of a user's shell, with a separate home.

    :param url: address of the service that both programs use.
    """
    # These change what is measured: modules compiled at every start, output in pieces.
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and not name.startswith(("TINKE", "XDG_", "CLIFF_"))
    }
    service = {"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-benchmark"} if url else {}
    return kept | {"HOME": str(home)} | service | more


@contextmanager
def server(*arguments: str, script: str = "server.py") -> Iterator[str]:
    """Run a server of this directory in a separate process and yield the address it prints."""
    command = [sys.executable, str(HERE / script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def tell(text: str, *, line: bool = False) -> None:
    """Print the progress of the measurement to standard error.

    :param line: it stays there; otherwise a terminal shows the next in its place.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}" + "\n" * line)
    else:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
