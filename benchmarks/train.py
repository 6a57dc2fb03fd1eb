"""Training steps per second of the local service, and of a loop in PyTorch with PEFT.

``make bench-train`` runs it in an environment with PyTorch and writes ``benchmarks/TRAINING.md``.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO

from frame import HERE, Section, Verdict, cores, tell
from train_loop import BATCH, LENGTH, RANK

ROUNDS, STEPS = 11, 20
LEAST = 0.7
KEY = "tml-benchmark"
NAMES = {
    "bare": "PyTorch and PEFT, a loop in one process",
    "sdk": "`tinkex local serve`, official SDK",
    "tinkex": "`tinkex local serve`, `tinkex.api`",
}
TEXT = f"""\
Steps of AdamW on the default model `tinkex/baker-street-2M`: {BATCH} examples of {LENGTH} tokens,
LoRA of rank {RANK} in all modules, float32 on the CPU, with threads that wait passively. The loops
run in turn, in random order, {STEPS} steps in each of the {{rounds}} rounds; a round before these
warms up. The clients submit a step before they wait for the one before it; their figures include
the encoding, HTTP and the server. Figures are medians, ratios are medians of the ratios within a
round. {{cores}} cores.
"""


class Loop:
    """A process that runs :mod:`train_loop`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout
        if self._stdout.readline() != "ready\n":
            raise SystemExit("a loop did not start")

    def run(self, steps: int) -> float:
        """Return the steps per second of *steps* steps."""
        self._stdin.write(f"{steps}\n")
        self._stdin.flush()
        return steps / float(self._stdout.readline())


@contextmanager
def started(
    argv: list[str], stderr: int | None = None, **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a process, and end it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TINKE", "XDG_"))}
    with subprocess.Popen(
        argv,
        env=kept | environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def measure(rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the steps per second of each loop in each round."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        serve = [sys.executable, "-m", "tinkex", "local", "serve", "--api-key", KEY]
        # The engine chooses passive threads; the loop gets the same advantage on a busy machine.
        common = {"HOME": home, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        server = stack.enter_context(started(serve, subprocess.DEVNULL, **common))
        assert server.stdout is not None
        common |= {"TINKER_BASE_URL": server.stdout.readline().strip(), "TINKER_API_KEY": KEY}
        loops = {}
        for name in NAMES:
            argv = [sys.executable, str(HERE / "train_loop.py"), name]
            loops[name] = Loop(stack.enter_context(started(argv, **common)))
        for number in range(rounds + 1):
            for name in random.sample(list(NAMES), len(NAMES)):
                rate = loops[name].run(steps)
                if number:
                    found[name].append(rate)
            tell(f"round {number} of {rounds}")
    return found


def section(found: dict[str, list[float]]) -> Section:
    """Return the report."""
    rows = [
        (NAMES[name], f"{median(rates):.1f}", f"{median(rates) * BATCH * LENGTH:,.0f}")
        for name, rates in found.items()
    ]
    verdicts = []
    for name in ("sdk", "tinkex"):
        pairs = zip(found[name], found["bare"], strict=True)
        ratio = median(one / bare for one, bare in pairs)
        what = f"{NAMES[name]} / loop in one process"
        verdicts.append(Verdict(what, f"≥ {LEAST}", ratio, ratio >= LEAST))
    text = TEXT.format(rounds=len(found["bare"]), cores=cores())
    return Section("Training", text, ("Loop", "steps/s", "tokens/s"), rows, verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to check that it runs")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    found = section(measure(*((2, 5) if options.quick else (ROUNDS, STEPS))))
    print(found.markdown())
    if options.write and not options.quick:
        options.write.write_text(found.markdown(), encoding="utf-8")
    return 1 if options.check and not all(v.met for v in found.targets) else 0


if __name__ == "__main__":
    sys.exit(main())
