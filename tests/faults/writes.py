"""Every command that writes files, for the tests with full and read-only disks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tinkex_local
from tests.functional.conftest import KEY, MODEL
from tests.weights import weights
from tinkex.testing import Invocation
from tinkex_local.state.adapter import AdapterSpec
from tinkex_local.state.adapter import write as write_adapter
from tinkex_local.state.models import read_facts

MODEL_FILES = Path(tinkex_local.__file__).parent / "models" / "baker-street-2M"

TENSOR = "base_model.model.layers.0.k_proj.lora_A.weight"

#: Prompts of the batch, as token ids.
ROWS = 6


@dataclass(frozen=True)
class Spot:
    """The directory where everything of one try lies: home, caches, temporary and working files."""

    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        inside = {
            "HOME": "home",
            "XDG_CONFIG_HOME": "config",
            "XDG_DATA_HOME": "data",
            "XDG_STATE_HOME": "state",
            "XDG_CACHE_HOME": "cache",
            "TINKEX_LOCAL_HOME": "local",
            "TMPDIR": "tmp",
        }
        return {name: str(self.directory / place) for name, place in inside.items()}

    def make(self, writer: Writer) -> Spot:
        """Make the directories that are there before anything of tinkex, and what *writer* wants."""
        for name in ("home", "config", "data", "state", "cache", "tmp", "work"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        writer.before(self)
        return self

    def text(self, name: str) -> str:
        return (self.directory / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def written(self) -> dict[str, bytes]:
        """Return the content of every file but locks, temporary ones, and the local service's."""
        return {
            name: path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file()
            and not (name := str(path.relative_to(self.directory))).startswith(_PASSING)
            and not any(part.startswith(_UNFINISHED) for part in path.parts)
            and not name.endswith(".lock")
        }


#: Not part of what a person has: of one process, or of the service (whose state has its own check).
_PASSING = ("tmp/", "cache/", "local/", "filler")
#: Directories that the same command completes or replaces after a kill.
_UNFINISHED = (".tinkex-download-", ".tinkex-export-")


@dataclass(frozen=True)
class Writer:
    """A command line that writes.

    :ivar what: what it writes, for the table.
    :ivar words: the command line, run in ``work``; ``{path}`` and ``{run}`` are a checkpoint and
        its run on the service.
    :ivar before: makes what was there before.
    :ivar after: raises unless all that the command is to write is there.
    :ivar goes_on: it succeeds all the same: what it cannot write serves only its own speed.
    :ivar asked_for: yet it was asked for: if the file cannot even be opened, that is reported.
    :ivar prints: it has printed its result before it writes.
    :ivar where: the address of the server, or none of its own.
    :ivar leaves: patterns of files that it may leave behind when it fails, whole as far as they go.
    :ivar again: stand behind the words when it is run again.
    """

    what: str
    words: tuple[str, ...]
    after: Callable[[Spot], None]
    before: Callable[[Spot], None] = lambda _: None
    goes_on: bool = False
    asked_for: bool = False
    prints: bool = False
    where: str = "service"
    stdin: str = ""
    leaves: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


#: A row of the results of ``run batch``.
RESULT = {"id": "a", "index": 0, "sequences": [{"text": "Holmes lit", "stop_reason": "stop"}]}
#: What checkpoints that are downloaded come over.
OLD_ADAPTER = {"adapter_config.json": "{}", "mine": "mine"}


class Elsewhere:
    """A process that runs command lines under limits (:mod:`tests.faults.limited`)."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.limited", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def __call__(
        self, writer: Writer, spot: Spot, place: Place, *, longest: int | None = None, again: bool
    ) -> Invocation:
        words = place.words(writer, *(writer.again if again else ()))
        job = {
            "argv": words,
            "environ": place.environ(writer, spot),
            "directory": str(spot.directory / "work"),
            "longest": longest,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**job, "stdin": writer.stdin}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Invocation(answer["stdout"], answer["stderr"], answer["code"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Place:
    """Servers, and a checkpoint on one of them."""

    def __init__(self, urls: dict[str, str], path: str) -> None:
        self._urls = urls
        run = path.removeprefix("tinker://").split("/")[0]
        self._values = {"{path}": path, "{run}": run, "{model}": str(MODEL_FILES)}

    def words(self, writer: Writer, *more: str) -> list[str]:
        """Return the command line of *writer*, with *more* behind it."""
        address: tuple[str, ...] = ()
        if writer.where:
            local = ("--profile", "local")
            address = local if writer.where == "local" else ("--base-url", self._urls[writer.where])
        return [*(self._values.get(word, word) for word in writer.words), *more, *address]

    def environ(self, writer: Writer, spot: Spot) -> dict[str, str]:
        """Return the variables of *spot*, and the key unless *writer* is to store it."""
        with_key = writer.where in self._urls and writer.stdin != f"{KEY}\n"
        return spot.environ | ({"TINKER_API_KEY": KEY} if with_key else {})


CONFIG = "config/tinkex/config.yaml"
ALIASES = "config/tinkex/aliases.json"
KEYS = "home/.tinker/credentials.json"


def some_settings(spot: Spot) -> None:
    spot.write(CONFIG, "# mine\nprofiles:\n  work: {timeout: 30s}\n  other: {timeout: 10s}\n")


def some_aliases(spot: Spot) -> None:
    spot.write(ALIASES, '{"mine": "tinker://run/weights/y"}')


def two_keys(spot: Spot) -> None:
    keys = {number: {"type": "manual", "key": f"tml-{number}", "name": number} for number in "78"}
    spot.write(KEYS, json.dumps({"version": 1, "default": "7", "keys": keys}))


def old(name: str) -> Callable[[Spot], None]:
    return lambda spot: spot.write(f"work/{name}", "old\n")


def prompts(spot: Spot) -> None:
    rows = (json.dumps({"tokens": [number, 2, 3]}) for number in range(ROWS))
    spot.write("work/prompts.jsonl", "\n".join(rows) + "\n")


def both(*steps: Callable[[Spot], None]) -> Callable[[Spot], None]:
    def run(spot: Spot) -> None:
        for step in steps:
            step(spot)

    return run


def holds(name: str, *texts: str) -> Callable[[Spot], None]:
    def check(spot: Spot) -> None:
        found = spot.text(name)
        assert all(text in found for text in texts), found

    return check


def holds_json(name: str, member: str) -> Callable[[Spot], None]:
    def check(spot: Spot) -> None:
        assert member in json.loads(spot.text(name))

    return check


def is_new(name: str) -> Callable[[Spot], None]:
    def check(spot: Spot) -> None:
        assert spot.text(name) != "old\n"

    return check


def all_rows(spot: Spot) -> None:
    rows = [json.loads(line) for line in spot.text("work/rows.jsonl").splitlines()]
    assert [row["index"] for row in rows] == list(range(ROWS))


def adapter(below: str) -> Callable[[Spot], None]:
    def check(spot: Spot) -> None:
        (lock,) = (spot.directory / below).glob("**/tinkex.lock.json")
        names = {path.name for path in lock.parent.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= names

    return check


def old_adapter(spot: Spot) -> None:
    for name, text in OLD_ADAPTER.items():
        spot.write(f"work/adapter/{name}", text)


def adapter_without_modules(spot: Spot) -> None:
    """Leave a download whose configuration names no modules."""
    config = b'{"target_modules": null}'
    files = {"adapter_config.json": config, "adapter_model.safetensors": weights(names=[TENSOR])}
    listed = [{"name": name, "size_bytes": len(content)} for name, content in files.items()]
    (spot.directory / "work/adapter").mkdir()
    for name, content in files.items():
        (spot.directory / "work/adapter" / name).write_bytes(content)
    lock = {"tinker_path": "tinker://r/sampler_weights/x", "files": listed}
    spot.write("work/adapter/tinkex.lock.json", json.dumps(lock))


def local_adapter(spot: Spot) -> None:
    """Make an adapter for the model of the embedded service."""
    (spot.directory / "work/mine").mkdir()
    write_adapter(spot.directory / "work/mine", AdapterSpec(MODEL, 1, 0), read_facts(MODEL_FILES))


def skeleton(spot: Spot) -> None:
    assert "tinkex" in spot.text("work/tinkex-mine/setup.cfg")


def nothing(spot: Spot) -> None:
    """What it writes is no result."""


_SAVE = ("checkpoint", "--base-model", MODEL, "--rank", "1", "--output", "saved.json")
_BATCH = (
    *("run", "batch", "prompts.jsonl", "--base-model", MODEL, "--max-tokens", "2"),
    *("--with-tokens", "--ordered", "--output", "rows.jsonl"),
)

WRITERS: dict[str, Writer] = {
    "config set": Writer(
        "configuration file",
        ("config", "set", "--profile", "work", "timeout", "60s"),
        holds(CONFIG, "# mine", "60s", "10s"),
        some_settings,
    ),
    "profile add": Writer(
        "configuration file",
        ("profile", "add", "new", "--base-url", "https://tinker.example"),
        holds(CONFIG, "# mine", "30s", "tinker.example"),
        some_settings,
        where="",
    ),
    "alias set": Writer(
        "aliases",
        ("alias", "set", "prod", "tinker://run/sampler_weights/x"),
        holds_json(ALIASES, "prod"),
        some_aliases,
        where="",
    ),
    "auth login": Writer(
        "stored keys",
        ("auth", "login", "--with-token"),
        holds(KEYS, KEY, "tml-7"),
        two_keys,
        stdin=f"{KEY}\n",
    ),
    "auth logout": Writer("stored keys", ("auth", "logout", "8"), holds(KEYS, "tml-7"), two_keys),
    "checkpoint": Writer(
        "metadata", _SAVE, holds_json("work/saved.json", "weights_path"), old("saved.json")
    ),
    "checkpoint (local service)": Writer(
        "metadata, state of the local service",
        _SAVE,
        holds_json("work/saved.json", "weights_path"),
        old("saved.json"),
        where="local",
    ),
    "run": Writer(
        "sampled text",
        ("run", "--base-model", MODEL, "--prompt", "x", "--max-tokens", "9", "--output", "out.txt"),
        is_new("work/out.txt"),
        old("out.txt"),
    ),
    "run batch": Writer(
        "results",
        _BATCH,
        all_rows,
        prompts,
        leaves=("work/rows.jsonl", "work/rows.batch.json", "work/rows.failed.jsonl"),
        again=("--resume",),
    ),
    "checkpoint download": Writer(
        "download",
        ("checkpoint", "download", "{path}", "--output", "adapter"),
        adapter("work/adapter"),
    ),
    "checkpoint download (over another)": Writer(
        "download",
        ("checkpoint", "download", "{path}", "--output", "adapter", "--force"),
        both(adapter("work/adapter"), holds("work/adapter/mine", "mine")),
        old_adapter,
    ),
    "checkpoint export": Writer(
        "PEFT adapter",
        ("checkpoint", "export", "{path}", "--output", "exported"),
        holds("work/exported/adapter_config.json", "target_modules"),
    ),
    "checkpoint sync": Writer(
        "download", ("checkpoint", "sync", "{run}", "all"), adapter("work/all")
    ),
    "checkpoint verify": Writer(
        "adapter configuration",
        ("checkpoint", "verify", "adapter", "--fix-config"),
        holds("work/adapter/adapter_config.json", "k_proj"),
        adapter_without_modules,
        where="",
    ),
    "session export-trace": Writer(
        "trace",
        ("session", "export-trace", "one", "--output", "trace.bin", "--force"),
        is_new("work/trace.bin"),
        old("trace.bin"),
        where="traces",
    ),
    "billing usage": Writer(
        "CSV",
        ("billing", "usage", "--since", "2d", "--csv", "usage.csv"),
        holds("work/usage.csv", ","),
        old("usage.csv"),
    ),
    "complete": Writer(
        "completion script",
        ("complete", "--shell", "fish", "--install"),
        holds("config/fish/completions/tinkex.fish", "tinkex"),
        lambda spot: spot.write("config/fish/completions/tinkex.fish", "old\n"),
        where="",
    ),
    "plugin new": Writer("skeleton", ("plugin", "new", "tinkex-mine"), skeleton, where=""),
    "local model add": Writer(
        "state of the local service",
        ("local", "model", "add", "mine", "{model}"),
        nothing,
        where="",
    ),
    "local checkpoint add": Writer(
        "state of the local service",
        ("local", "checkpoint", "add", "mine"),
        nothing,
        local_adapter,
        where="",
    ),
    "chat --log": Writer(
        "conversations",
        ("chat", "--base-model", MODEL, "--max-tokens", "2", "--log", "log.jsonl"),
        holds("work/log.jsonl", "Holmes?"),
        stdin="Holmes?\n",
        prints=True,
        leaves=("work/log.jsonl",),
    ),
    "compare": Writer(
        "results of each model, HTML page",
        (
            *("compare", "prompts.jsonl", "--base-model", MODEL, "--model-path", "{path}"),
            *("--max-tokens", "2", "--output", "compared", "--html", "page.html"),
        ),
        both(holds("work/page.html", "<html"), is_new("work/page.html")),
        both(prompts, old("page.html")),
        leaves=("work/compared/*.jsonl", "work/compared/*.batch.json"),
        again=("--resume",),
    ),
    "score --per-row": Writer(
        "scores",
        ("score", "data.jsonl", "--base-model", MODEL, "--per-row", "scores.jsonl"),
        is_new("work/scores.jsonl"),
        both(
            lambda spot: spot.write("work/data.jsonl", '{"text": "Holmes lit"}\n'),
            old("scores.jsonl"),
        ),
    ),
    "grade --per-row": Writer(
        "grades",
        ("grade", "results.jsonl", "--check", "regex:lit", "--per-row", "grades.jsonl"),
        is_new("work/grades.jsonl"),
        both(
            lambda spot: spot.write("work/results.jsonl", json.dumps(RESULT) + "\n"),
            old("grades.jsonl"),
        ),
        where="",
    ),
    "shell: > file": Writer(
        "output of a shell line",
        (),
        holds("work/list.txt", "timeout"),
        both(some_settings, old("list.txt")),
        stdin="config show > list.txt\n",
        where="",
    ),
    "run list (cache)": Writer(
        "completion cache",
        ("run", "list"),
        nothing,
        goes_on=True,
    ),
    "run list (rows)": Writer(
        "temporary file of rows",
        ("run", "list", "--limit", "3", "-f", "json"),
        nothing,
        goes_on=True,
    ),
    "run list (log)": Writer(
        "log", ("run", "list", "--log-file", "log"), nothing, goes_on=True, asked_for=True
    ),
}
