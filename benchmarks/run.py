"""Runs the benchmarks and joins their sections into one report.

A benchmark is a module of this directory with ``run(context) -> Section``; see frame.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import platform
import subprocess
import sys
import time
from pathlib import Path

from frame import HERE, Context, Section, cores, tell

#: The benchmarks, in the order of the report.
NAMES = tuple(
    name for name in ("startup", "lists", "batch", "download") if (HERE / f"{name}.py").is_file()
)

INTRODUCTION = """\
# Measurements

{command}.
Every command of a section runs once in each round, in random order; times are medians of whole
processes, start to exit, and ratios are medians of the ratios within a round. Servers run in a
process of their own, and their answers cost next to nothing. Compare ratios, not milliseconds.

{versions}; {cores} cores.
"""


def main() -> int:
    """Run the benchmarks, and print and write the report."""
    options = _parser().parse_args()
    context = Context(
        options.tinkex.absolute(), options.tinker.absolute(), Path(sys.executable), options.quick
    )
    began = time.monotonic()
    sections: list[Section] = []
    for number, name in enumerate(options.only, 1):
        tell(f"benchmark {number} of {len(options.only)}: {name}", line=True)
        sections.append(_section(name, context))
    minutes = (time.monotonic() - began) / 60
    tell(f"{minutes:.1f} minutes in all", line=True)
    report = "\n".join([_introduction(context, options.only), *(s.markdown() for s in sections)])
    print(report)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(report, encoding="utf-8")
    missed = [
        verdict.what for section in sections for verdict in section.targets if not verdict.met
    ]
    return 1 if options.check and missed else 0


def _section(name: str, context: Context) -> Section:
    """Run one benchmark; append its command and duration to its text."""
    began = time.monotonic()
    section: Section = importlib.import_module(name).run(context)
    took = time.monotonic() - began
    command = f"make bench BENCH_ARGS='--only {name}'"
    text = f"{section.text.strip()}\n\nThis part alone, in {took:.0f} s: `{command}`."
    return dataclasses.replace(section, text=text)


def _parser() -> argparse.ArgumentParser:
    bin_dir = Path(sys.executable).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tinkex", type=Path, default=bin_dir / "tinkex", help="our program")
    parser.add_argument("--tinker", type=Path, required=True, help="the official program")
    parser.add_argument(
        "--only",
        type=_names,
        default=NAMES,
        metavar="NAME,…",
        help=f"these alone, of {','.join(NAMES)}",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    return parser


def _names(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no benchmark is called {unknown[0]!r}")
    return tuple(name for name in NAMES if name in wanted)


def _introduction(context: Context, names: tuple[str, ...]) -> str:
    command = "One run of `make bench`, which writes this page"
    if names != NAMES:
        command = f"One run of `make bench BENCH_ARGS='--only {','.join(names)}'`"
    if context.quick:
        command += " (quick: **not** for comparison)"
    return INTRODUCTION.format(command=command, versions=_versions(context), cores=cores())


def _versions(context: Context) -> str:
    def said(*words: object) -> str:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    found = [
        f"Python {platform.python_version()}",
        said(context.tinkex, "--version").split(" (")[0],
        said(context.tinker, "version"),
        "on " + said(context.tinker_python, "--version"),
    ]
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
