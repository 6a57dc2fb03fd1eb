"""The shell examples of the manual: found in its pages, run, compared with what they show.

A page is one session of a reader: an empty home directory, one shell, its ``console`` and ``bash``
blocks from top to bottom. The service is the local one, over HTTP at ``$SERVER`` and embedded; in
both are a model ``Qwen/Qwen3-8B`` (the small one under that name) and a run ``run-123`` with the
checkpoints that the pages speak of. Output goes to a terminal, so tables are what a reader sees.

What a page says besides::

    .. not run: <why>       the next block is not run
    .. run first: <shell>   these commands run here, and no reader sees them

(in Markdown ``<!-- not run: ... -->``). A block whose first line is a comment with nothing but a
path, such as ``# ~/.config/tinkex/config.yaml``, is written to that file. ``…`` in a shown output
stands for anything. A command may fail only where its error is shown.

``python doc/examples.py README.md`` prints the session of a page.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Size of the terminal that the examples see.
COLUMNS, LINES = 80, 50
#: The longest that a page may take, in seconds.
PATIENCE = 180
SHELLS = ("console", "bash", "sh")

_RST_BLOCK = re.compile(
    r"(?m)^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n(?:(?P=indent) +:.*\n)*\n"
    r"(?P<body>(?:(?P=indent)   .*(?:\n|\Z)|[ ]*\n)+)"
)
_RST_COMMENT = re.compile(
    r"(?m)^(?P<indent> *)\.\. (?P<kind>not run|run first):"
    r"(?P<text>.*\n(?:(?P=indent)   .*\n|\n(?=(?P=indent)   ))*)"
)
_MD_BLOCK = re.compile(r"(?ms)^(?P<indent>)```(?P<language>\w+)\n(?P<body>.*?)^```$")
_MD_COMMENT = re.compile(r"(?ms)^<!-- (?P<kind>not run|run first):(?P<text>.*?)-->$")
_PROMPT = re.compile(r"(?:\$|tinkex(?:\([\w-]+\))?>) ")


@dataclass(frozen=True)
class Step:
    """One thing that happens in a session.

    :ivar line: where in the page, from 1.
    :ivar shell: what bash is given.
    :ivar shown: the output in the page; empty if none is.
    :ivar hidden: the reader does not see it.
    """

    line: int
    shell: str
    shown: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Page:
    """The examples of one page.

    :ivar steps: what is run, in order.
    :ivar exempt: line and reason of each block that is not run.
    :ivar faults: blocks that are neither.
    """

    path: Path
    steps: tuple[Step, ...]
    exempt: tuple[tuple[int, str], ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Ran:
    """What a step printed, on both streams, and its exit code."""

    step: Step
    output: str
    code: int


def pages() -> list[Path]:
    """Return the pages that have a shell example."""
    texts = [ROOT / "README.md", *sorted((ROOT / "doc" / "source").rglob("*.rst"))]
    return [path for path in texts if read(path).steps or read(path).exempt]


def read(path: Path) -> Page:
    """Return the examples of the page *path*."""
    text = path.read_text(encoding="utf-8")
    markdown = path.suffix == ".md"
    block, comment = (_MD_BLOCK, _MD_COMMENT) if markdown else (_RST_BLOCK, _RST_COMMENT)
    found = sorted([*block.finditer(text), *comment.finditer(text)], key=lambda m: m.start())
    steps: list[Step] = []
    exempt: list[tuple[int, str]] = []
    faults: list[str] = []
    reason = ""
    for match in found:
        line = text.count("\n", 0, match.start()) + 1
        parts = match.groupdict()
        if parts.get("kind") == "not run":
            reason = " ".join(parts["text"].split())
            continue
        if parts.get("kind") == "run first":
            steps.append(Step(line, _dedent(parts["text"]).strip(), hidden=True))
            continue
        body = _dedent(parts["body"])
        if parts["language"] not in SHELLS:
            steps += _file(line, body)
        elif reason:
            exempt.append((line, reason))
        else:
            new = list(_commands(line, body) if parts["language"] == "console" else [])
            if parts["language"] != "console" and body.strip():
                new = [Step(line, f"(set -e\n{body}\n)")]  # a script: it may exit
            faults += [] if new else [f"{path.name}:{line}: neither commands nor a reason"]
            steps += new
        reason = ""
    return Page(path, tuple(steps), tuple(exempt), tuple(faults))


def _dedent(text: str) -> str:
    lines = text.split("\n")
    widths = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    first = len(lines[0]) - len(lines[0].lstrip()) if lines[0].strip() else 0
    width = min([*widths, first] if first else widths or [0])
    return "\n".join(line[width:] if line[:width].isspace() else line for line in lines).rstrip()


def _file(line: int, body: str) -> Iterator[Step]:
    """Yield the step that writes a block which begins with the path of its file."""
    first = body.lstrip("\n").partition("\n")[0]
    if match := re.fullmatch(r"# (~?[\w./-]+\.\w+)", first):
        path = shlex.quote(match[1]).replace("'", "").replace("~", '"$HOME"', 1)
        shell = f"mkdir -p \"$(dirname {path})\"\ncat > {path} <<'END-OF-FILE'\n{body}\nEND-OF-FILE"
        yield Step(line, shell, hidden=True)


def _commands(line: int, body: str) -> Iterator[Step]:
    """Yield the commands of a ``console`` block, each with what is shown below it."""
    chunks = re.split(r"(?m)^(?=\$ )", body)
    for chunk in chunks[1:]:
        first, *rest = chunk.rstrip("\n").split("\n")
        command = [first[2:]]
        while rest and rest[0].startswith("> "):
            command.append(rest.pop(0)[2:])
        # Lines at the prompt of the interactive shell are its standard input.
        typed = [_PROMPT.sub("", text, count=1) for text in rest if _PROMPT.match(text)]
        shown = "\n".join(text for text in rest if not _PROMPT.match(text)).strip("\n")
        if typed:
            command[-1] += " <<'END-OF-LINES'"
            command += [*typed, "END-OF-LINES"]
        yield Step(line, "\n".join(command), shown)


# ------------------------------------------------------------------------------ running


class World:
    """A local service with what the pages speak of, copied for each session.

    :param directory: where everything is kept; it must exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._template = directory / "template"
        #: The last directory of the path has a ``jq`` for machines without one.
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            f"{os.pathsep}{ROOT / 'tests' / 'functional' / 'guide' / 'bin'}",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
            "XDG_CACHE_HOME": str(directory / "cache"),
            "SOURCES": str(ROOT),
        }
        self.run_id = self._build()

    def _build(self) -> str:
        import tinkex
        import tinkex_local
        from tinkex.api import ServiceClient
        from tinkex.settings import resolve
        from tinkex.testing import local_service

        model = Path(tinkex_local.__file__).parent / "models" / "baker-street-2M"
        with local_service(self.directory / "builder") as home:
            tinkex.run(["local", "model", "add", "Qwen/Qwen3-8B", str(model)])
            with ServiceClient(resolve()) as client:
                training = client.create_lora_training_client("Qwen/Qwen3-8B", rank=8, seed=1)
                with training:
                    training.save_weights_for_sampler("0001")
                    training.save_weights_for_sampler("final")
                    training.save_state("0001")
                run = client.runs.list()[0].training_run_id
            home.rename(self._template)
        return run

    def session(self, steps: tuple[Step, ...], name: str) -> list[Ran]:
        """Run *steps* in a home directory of their own and return what came of each.

        :raises AssertionError: it does not come to its end.
        """
        home = self.directory / name
        work = home / "work"
        work.mkdir(parents=True)
        shutil.copytree(self._template, home / "service")
        environment = self.environment | {
            "HOME": str(home),
            "TMPDIR": str(home),
            "TINKEX_LOCAL_HOME": str(home / "service"),
            "TINKER_API_KEY": "tml-example",
        }
        script = home / "session.sh"
        with _serving(environment) as server:
            environment |= {"SERVER": server, "TINKER_BASE_URL": server}
            script.write_text(_script(steps, {"run-123": self.run_id}, server), encoding="utf-8")
            output = on_terminal(["bash", str(script)], work, environment)
        return list(_results(steps, output))


class _serving:
    """A ``tinkex local serve`` for the length of a session; its address."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            [Path(sys.executable).parent / "tinkex", "local", "serve", "--quiet"],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)


def _script(steps: tuple[Step, ...], stand_ins: Mapping[str, str], server: str) -> str:
    lines = ["set -uo pipefail"]
    for index, step in enumerate(steps):
        shell = step.shell.replace("http://127.0.0.1:8000", server)
        shell = shell.replace("http://127.0.0.1:10610", server)
        for name, real in stand_ins.items():
            shell = shell.replace(name, real)
        lines += [f"printf '\\036{index}\\037'", shell, f"printf '\\035{index} %d\\037' $?"]
    return "\n".join(lines) + "\n"


def on_terminal(
    command: list[str], cwd: Path, environment: Mapping[str, str], columns: int = COLUMNS
) -> str:
    """Run *command* with both outputs on a terminal and return what it wrote.

    Standard input is empty and no terminal, so that nothing asks.

    :raises AssertionError: it did not end in time.
    """
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # a line ends as the program ended it
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    late = threading.Timer(PATIENCE, os.killpg, [process.pid, signal.SIGKILL])
    late.start()
    written = b""
    try:
        while block := os.read(ours, 1 << 16):
            written += block
    except OSError:  # the last writer has gone
        pass
    finally:
        os.close(ours)
        code = process.wait()
        late.cancel()
    text = written.decode("utf-8", "replace")
    assert code >= 0, f"it was killed after {PATIENCE} s: {text[-2000:]}"
    return text


def _results(steps: tuple[Step, ...], output: str) -> Iterator[Ran]:
    for index, step in enumerate(steps):
        match = re.search(rf"\x1e{index}\x1f(.*?)\x1d{index} (\d+)\x1f", output, re.S)
        assert match, f"line {step.line} was not reached or did not end: {output[-2000:]}"
        yield Ran(step, match[1], int(match[2]))


# ------------------------------------------------------------------------------ comparing

_NORMAL = (
    (r"\x1b\[[\d;]*m", ""),  # jq has colours on every terminal
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:train:\d+|run-123", "<run>"),
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"(?<=\| )[0-9a-f]{8}\b", "<id>"),  # the short name of a run, alone or before a checkpoint's
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "<time>"),
    (r"\b(?:now|\d+ (?:minute|hour|day)s? ago|in \d+ (?:minute|hour|day)s?)\b", "<when>"),
    (r"-?\d+\.\d{3,}\b", "<number>"),
    (r"\b\d+(?:\.\d+)? (?:ms|seconds|s)\b", "<duration>"),
    (r"http://127\.0\.0\.1:\d+", "<server>"),
    (r"tinkex \d+\.\d+\.\d+\S*(?: \([0-9a-f]{7}\))?", "tinkex <version>"),
    # Columns are as wide as what is in them.
    (r"-{3,}", "---"),
    (r"[ \t]+", " "),
    (r"(?m) $", ""),
)


def normal(text: str, home: Path | str = "") -> str:
    """Return *text* without what differs from run to run: ids, times, versions, widths."""
    text = text.replace(str(home), "~") if home else text
    for pattern, replacement in _NORMAL:
        text = re.sub(pattern, replacement, text)
    return text.strip("\n")


def fault(ran: Ran, home: Path) -> str | None:
    """Return what is wrong with *ran*, or ``None``: its exit code, or other output than shown."""
    step, output = ran.step, normal(ran.output, home)
    told = re.search(r'(?m)^Hint: |^Invalid option|^\{"error": ', step.shown)
    if ran.code and not told:
        return f"line {step.line}: exit code {ran.code}: {step.shell}\n{ran.output}"
    if told and not ran.code:
        return f"line {step.line}: it shows an error, and succeeds: {step.shell}"
    if not step.shown:
        return None
    pattern = ".*".join(map(re.escape, normal(step.shown).split("…")))
    if re.fullmatch(pattern, output, re.S):
        return None
    return f"line {step.line}: {step.shell}\nshown:\n{normal(step.shown)}\nprinted:\n{output}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch))
        for number, argument in enumerate(sys.argv[1:]):
            for ran in world.session(read(Path(argument)).steps, f"page-{number}"):
                print(f"{'#' if ran.step.hidden else '$'} {ran.step.shell}\n{ran.output}", end="")
                print(f"[exit code {ran.code}]\n" * bool(ran.code), end="")
