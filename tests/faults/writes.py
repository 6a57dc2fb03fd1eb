"""Everything that tinkex writes, as the matrix of full and forbidden disks tries it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.functional.conftest import KEY, MODEL

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
            and not any(part.startswith(".tinkex-download-") for part in path.parts)
            and not name.endswith(".lock")
        }


#: Not part of what a person has: of one process, or of the service (whose state has its own check).
_PASSING = ("tmp/", "cache/", "local/", "filler")


@dataclass(frozen=True)
class Writer:
    """A command line that writes.

    :ivar what: what it writes, for the table.
    :ivar words: the command line, run in ``work``; ``{path}`` and ``{run}`` are a checkpoint and
        its run on the service.
    :ivar before: makes what was there before.
    :ivar after: raises unless all that the command is to write is there.
    :ivar goes_on: it succeeds all the same: what it cannot write serves only its own speed.
    :ivar asked_for: yet it was asked for: if the file cannot even be opened, that is told.
    :ivar prints: it has printed its result before it writes.
    :ivar where: the address of the server, or none of its own.
    :ivar leaves: names of files that it may leave behind when it fails, whole as far as they go.
    :ivar again: stand behind the words when it is run anew.
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


CONFIG = "config/tinkex/config.yaml"
KEYS = "home/.tinker/credentials.json"


def some_settings(spot: Spot) -> None:
    spot.write(CONFIG, "# mine\nprofiles:\n  work: {timeout: 30s}\n  other: {timeout: 10s}\n")


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
    "config unset": Writer(
        "configuration file",
        ("config", "unset", "--profile", "work", "timeout"),
        holds(CONFIG, "# mine", "10s"),
        some_settings,
    ),
    "profile add": Writer(
        "configuration file",
        ("profile", "add", "new", "--base-url", "https://tinker.example"),
        holds(CONFIG, "# mine", "30s", "tinker.example"),
        some_settings,
        where="",
    ),
    "profile use": Writer(
        "configuration file",
        ("profile", "use", "work"),
        holds(CONFIG, "profile: work"),
        some_settings,
    ),
    "profile remove": Writer(
        "configuration file",
        ("profile", "remove", "other", "--yes"),
        holds(CONFIG, "# mine", "30s"),
        some_settings,
    ),
    "auth login": Writer(
        "stored keys",
        ("auth", "login", "--with-token"),
        holds(KEYS, KEY, "tml-7"),
        two_keys,
        stdin=f"{KEY}\n",
    ),
    "auth switch": Writer(
        "stored keys", ("auth", "switch", "8"), holds(KEYS, '"default": "8"'), two_keys
    ),
    "auth logout": Writer("stored keys", ("auth", "logout", "8"), holds(KEYS, "tml-7"), two_keys),
    "checkpoint": Writer(
        "metadata", _SAVE, holds_json("work/saved.json", "weights_path"), old("saved.json")
    ),
    "checkpoint (local service)": Writer(
        "metadata, and the state of the embedded service",
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
        "results of many prompts",
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
    "checkpoint sync": Writer(
        "download", ("checkpoint", "sync", "{run}", "all"), adapter("work/all")
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
    "billing storage": Writer(
        "CSV",
        ("billing", "storage", "--csv", "storage.csv"),
        holds("work/storage.csv", ","),
        old("storage.csv"),
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
        "state of the embedded service",
        ("local", "model", "add", "mine", "{model}"),
        nothing,
        where="",
    ),
    "shell: > file": Writer(
        "output of a line of the shell",
        (),
        holds("work/list.txt", "timeout"),
        both(some_settings, old("list.txt")),
        stdin="config show > list.txt\n",
        where="",
    ),
    "run list (caches)": Writer(
        "caches of completion and of what servers lack",
        ("run", "list"),
        nothing,
        goes_on=True,
    ),
    "run list (rows)": Writer(
        "rows before they are shown",
        ("run", "list", "--limit", "3", "-f", "json"),
        nothing,
        goes_on=True,
    ),
    "run list (log)": Writer(
        "log", ("run", "list", "--log-file", "log"), nothing, goes_on=True, asked_for=True
    ),
}
