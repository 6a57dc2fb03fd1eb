"""Duration of commands, compared with the official command line and bare Python."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from frame import (
    HEADER,
    Command,
    Context,
    Section,
    Target,
    environment,
    measure,
    rows,
    server,
    verdicts,
)

BARE = "python -c pass"
LIST = "tinkex checkpoint list -f json"
REQUESTS = "python -c 'import requests; requests.get(URL)'"
OURS = (
    "tinkex --version",
    "tinkex version",
    "tinkex --help",
    "tinkex checkpoint list --help",
    "tinkex run --help",
    LIST,
    "tinkex run list -f json",
)
OFFICIAL = (
    "tinker version",
    "tinker checkpoint list --help",
    "tinker -f json run list",
    "tinker -f json checkpoint list",
)
LIST_HTTP2 = f"{LIST} (with tinkex-http2)"
SAMPLE = "tinkex --profile local run --max-tokens 8"
SAMPLE_REQUESTS = f"{SAMPLE} (with an import of requests)"
LIST_OF_MANY = f"{LIST} (150 distributions)"
LIST_BESIDE_SLEEPER = f"{LIST} (a plugin sleeps at import)"
DISTRIBUTIONS = 150
#: The plugins of all but one command; tinkex-http2 is not among them.
WITHOUT = "tinkex-local"

TARGETS = (
    Target("tinkex --version", BARE, 1.3),
    Target("tinkex --version", "tinker version", 0.05),
    Target("tinkex checkpoint list --help", "tinker checkpoint list --help", 0.20),
    Target(LIST, "tinker -f json run list", 0.20),
    Target(LIST_OF_MANY, LIST, 1.1),
    Target(LIST_BESIDE_SLEEPER, LIST, 1.1),
    Target(LIST_HTTP2, LIST, 1.0),
    Target(LIST_HTTP2, LIST, 0, "cpu"),
    Target(SAMPLE, SAMPLE_REQUESTS, 0.8),
    Target(SAMPLE, REQUESTS),
    Target(LIST, REQUESTS),
    Target(LIST, REQUESTS, 0, "cpu"),
    Target(LIST, "tinker -f json run list", 0, "cpu"),
    Target(LIST, "tinker -f json run list", 0, "rss"),
    Target(LIST, "tinker -f json checkpoint list"),
    Target("tinkex run list -f json", "tinker -f json run list"),
    Target("tinkex --help", BARE),
    Target(LIST, BARE),
)

TEXT = """\
The interpreter, the program and one listing of 20 over plain HTTP on the same machine, {rounds}
rounds. The last command of the official program makes one request for its list; `run list` makes
three requests on three connections. The one-line script imports requests and makes one request:
what a list would cost with nothing of tinkex in it. {installed} distributions are installed; the
last two lines
are of the same program with more beside it: 150 of them, and a plugin with a command whose module
sleeps for half a second when it is imported. The plugin tinkex-http2 is left out but in the line
that names it; the local service is in the process of its command, and nothing is sent. That
command imported requests once; the line that still does shows what it costs.
"""
LIMITS = """\
four fifths of the time of a list are the imports of cliff and requests with the parts of the
standard library that they need; the last column of `python -X importtime` distinguishes them.
"""


def run(context: Context) -> Section:
    """Measure the start of both programs."""
    programs = {"tinkex": context.tinkex, "tinker": context.tinker, "python": context.python}
    rounds = context.rounds(25)
    with tempfile.TemporaryDirectory() as home, server() as url:
        environ = environment(home, url, TINKEX_PLUGINS=WITHOUT)
        commands = [
            Command(name, _argv(programs, name), environ, silent=name == BARE)
            for name in (BARE, *OFFICIAL, *OURS)
        ]
        script = f"import requests; requests.get({url + '/api/v1/checkpoints'!r})"
        requested = [str(context.python), "-c", script]
        commands.append(Command(REQUESTS, requested, environ, silent=True))
        installed = _installed(context)
        many, sleeper = Path(home, "many"), Path(home, "sleeper")
        for number in range(DISTRIBUTIONS - installed):
            _install(many, f"other-{number}", "[console_scripts]\nother = other:main\n")
        _install(sleeper, "sleeper", "[tinkex.commands]\nsleep = sleeper:Sleep\n")
        (sleeper / "sleeper.py").write_text("import time\ntime.sleep(0.5)\n", encoding="utf-8")
        for name, place in ((LIST_OF_MANY, many), (LIST_BESIDE_SLEEPER, sleeper)):
            named = f"{WITHOUT},{place.name}"
            beside = environment(home, url, PYTHONPATH=str(place), TINKEX_PLUGINS=named)
            commands.append(Command(name, _argv(programs, LIST), beside))
        commands.append(Command(LIST_HTTP2, _argv(programs, LIST), environment(home, url)))
        sample = _sample(programs)
        commands.append(Command(SAMPLE, sample, environment(home)))
        with_requests = [str(context.python), "-c", _WITH_REQUESTS, *sample[1:]]
        commands.append(Command(SAMPLE_REQUESTS, with_requests, environment(home)))
        samples = measure(commands, rounds)
    text = TEXT.format(rounds=rounds, installed=installed)
    found = verdicts(samples, TARGETS)
    return Section("Start-up", text, HEADER, rows(samples), found, LIMITS)


#: The program, after an import that it does without.
_WITH_REQUESTS = "import requests, sys; from tinkex.__main__ import main; sys.exit(main())"


def _argv(programs: dict[str, Path], name: str) -> list[str]:
    return [str(programs[name.split()[0]]), *name.split()[1:]]


def _sample(programs: dict[str, Path]) -> list[str]:
    model = ["--base-model", "tinkex/baker-street-2M", "--prompt", "x", "--max-tokens", "8"]
    return [str(programs["tinkex"]), "--profile", "local", "run", *model]


def _installed(context: Context) -> int:
    """Return the number of installed distributions other than tinkex."""
    script = "from importlib.metadata import distributions; print(len(list(distributions())))"
    command = [str(context.python), "-c", script]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def _install(place: Path, name: str, entry_points: str) -> None:
    """Put the metadata of a distribution into *place*, a directory of ``PYTHONPATH``."""
    metadata = place / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(entry_points, encoding="utf-8")
