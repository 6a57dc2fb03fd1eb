"""Commands that are killed, interrupted or ended at any moment: what was there stays readable.

``--kills N`` says how often each is killed; every moment is drawn anew, from a seed that is shown.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.functional.conftest import KEY, MODEL

pytestmark = pytest.mark.kills
#: Prompts of the batch.
ROWS = 12
PROGRAM = Path(sys.executable).parent / "tinkex"


@dataclass
class Place:
    """Where a victim works: its directory, the service, and a checkpoint on it."""

    directory: Path
    url: str
    path: str

    def words(self, *argv: str) -> list[str]:
        run = self.path.removeprefix("tinker://").split("/")[0]
        values = {"{path}": self.path, "{model}": MODEL, "{run}": run}
        return [str(PROGRAM), *(values.get(word, word) for word in argv)]

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.directory)
        return {
            **os.environ,
            "HOME": home,
            "XDG_CONFIG_HOME": f"{home}/config",
            "TINKEX_LOCAL_HOME": home,
            "TINKER_BASE_URL": self.url,
            "TINKER_API_KEY": KEY,
        }


def saved_metadata(place: Place) -> None:
    """The metadata is that of before or that of after."""
    file = place.directory / "saved.json"
    if file.exists():
        metadata = json.loads(file.read_text())
        assert metadata == {"old": True} or metadata["weights_path"].startswith("tinker://")


def downloaded(place: Place) -> None:
    """The directory is not there, that of before, or whole."""
    directory = place.directory / "adapter"
    found = directory.iterdir() if directory.exists() else ()
    names = {path.name for path in found if not path.name.startswith(".tinkex-download-")}
    if names and names != {"old"}:
        assert {"adapter_model.safetensors", "adapter_config.json", "tinkex.lock.json"} <= names
        lock = json.loads((directory / "tinkex.lock.json").read_text())
        assert lock["tinker_path"] == place.path
        json.loads((directory / "adapter_config.json").read_text())


def downloaded_or_unloadable(place: Place) -> None:
    """The directory is as above, or no adapter for anybody, until the same is run again."""
    directory = place.directory / "adapter"
    if directory.exists() and not (directory / "tinkex.lock.json").exists():
        names = {path.name for path in directory.iterdir()}
        if names & {"adapter_model.safetensors", "adapter_config.json"}:
            assert list(directory.glob(".tinkex-download-*/state.json"))
            assert "adapter_config.json" not in names or "adapter_model.safetensors" in names
            return
    downloaded(place)


def downloaded_whole(place: Place) -> None:
    downloaded(place)
    assert (place.directory / "adapter" / "tinkex.lock.json").exists()
    assert not list(place.directory.rglob(".tinkex-download-*"))


def keep_old_metadata(place: Place) -> None:
    (place.directory / "saved.json").write_text('{"old": true}')


def keep_old_adapter(place: Place) -> None:
    (place.directory / "adapter").mkdir()
    (place.directory / "adapter" / "old").touch()


def nothing(place: Place) -> None:
    """There is nothing to prepare."""


def keep_prompts(place: Place) -> None:
    rows = (json.dumps({"prompt": f"Watson {number}"}) for number in range(ROWS))
    (place.directory / "prompts.jsonl").write_text("\n".join(rows) + "\n")


def sampled(place: Place) -> None:
    """Every row that is there is whole, and there once."""
    file = place.directory / "rows.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    rows = [json.loads(line) for line in lines]
    numbers = [int(row["id"]) for row in rows]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(1, ROWS + 1))


def sampled_all(place: Place) -> None:
    sampled(place)
    assert len((place.directory / "rows.jsonl").read_text().splitlines()) == ROWS


def keep_settings(place: Place) -> None:
    file = place.directory / "config" / "tinkex" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# mine\ndefaults:\n  timeout: 30s\n")


def configured(place: Place) -> None:
    """The file is that of before or that of after; nothing of it is lost."""
    text = (place.directory / "config" / "tinkex" / "config.yaml").read_text()
    assert text.startswith("# mine\n")
    assert text.count("timeout: 30s") == 1
    assert text.count("timeout: 60s") <= 1


def logged_in(place: Place) -> None:
    """A file with the key is whole, and nobody else may read it."""
    for file in (file for file in place.directory.rglob("*") if file.is_file()):
        if KEY in (text := file.read_text()):
            assert file.stat().st_mode & 0o077 == 0, file
            assert text.endswith("\n") or json.loads(text), file


def synced(place: Place) -> None:
    """Each checkpoint is not there, or whole."""
    for lock in (place.directory / "all").rglob("tinkex.lock.json"):
        if ".tinkex-download-" not in str(lock):
            names = {path.name for path in lock.parent.iterdir()}
            assert {"adapter_model.safetensors", "adapter_config.json"} <= names
            json.loads(lock.read_text())


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    :ivar before: prepares its directory.
    :ivar check: raises if what is there afterwards is neither the state before nor that after.
    :ivar killed: the same after a kill or a signal, if the same command has to finish the work.
    """

    argv: tuple[str, ...]
    check: Callable[[Place], None]
    before: Callable[[Place], None] = nothing
    #: What it writes and will not write over.
    once: str = ""
    stdin: str = ""
    #: It is to find no key in its environment.
    keyless: bool = False
    #: Stand behind the words when the same is run again.
    again: tuple[str, ...] = ()
    #: More that holds when it has run to its end.
    finished: Callable[[Place], None] = nothing
    killed: Callable[[Place], None] | None = None


VICTIMS = {
    "save": Victim(
        ("checkpoint", "--base-model", "{model}", "--rank", "2", "--output", "saved.json"),
        saved_metadata,
        keep_old_metadata,
    ),
    "download": Victim(
        ("checkpoint", "download", "{path}", "--output", "adapter"),
        downloaded,
        once="adapter",
        finished=downloaded_whole,
    ),
    "download over another": Victim(
        ("checkpoint", "download", "{path}", "--output", "adapter", "--force"),
        downloaded,
        keep_old_adapter,
        finished=downloaded_whole,
        killed=downloaded_or_unloadable,
    ),
    "sync": Victim(("checkpoint", "sync", "{run}", "all"), synced),
    "batch": Victim(
        (
            *("run", "batch", "prompts.jsonl", "--base-model", "{model}", "--max-tokens", "2"),
            *("--concurrency", "4", "--output", "rows.jsonl"),
        ),
        sampled,
        keep_prompts,
        again=("--resume",),
        finished=sampled_all,
    ),
    "config set": Victim(("config", "set", "timeout", "60s"), configured, keep_settings),
    "auth login": Victim(
        ("auth", "login", "--with-token"), logged_in, stdin=f"{KEY}\n", keyless=True
    ),
}


@pytest.fixture(scope="module")
def checkpoint(service, tmp_path_factory) -> str:
    """Save a checkpoint on the service, once."""
    directory = tmp_path_factory.mktemp("kills")
    place = Place(directory, service.url, "")
    save = ("checkpoint", "--base-model", MODEL, "--rank", "8", "--output", "saved.json")
    done = subprocess.run(
        place.words(*save),
        cwd=directory,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (done.stderr, (service.home.parent / "stderr").read_text()[-2000:])
    return str(json.loads((directory / "saved.json").read_text())["weights_path"])


@pytest.fixture
def places(service, checkpoint, tmp_path) -> Iterator[Callable[[Victim], Place]]:
    """Return a function that makes a place for one try."""
    count = 0

    def make(victim: Victim) -> Place:
        nonlocal count
        count += 1
        place = Place(tmp_path / str(count), service.url, checkpoint)
        place.directory.mkdir()
        victim.before(place)
        return place

    return make


def start(victim: Victim, place: Place, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        place.words(*victim.argv, *more),
        cwd=place.directory,
        env={
            name: value
            for name, value in place.environment.items()
            if not (victim.keyless and name == "TINKER_API_KEY")
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(victim.stdin)  # little enough for the pipe to hold
    process.stdin.close()
    process.stdin = None
    return process


def running(process: subprocess.Popen[str]) -> None:
    """Wait until the program itself runs: before, a signal does to Python what Python wants.

    Its main function is under way when it catches SIGTERM.
    """
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def whole_run(victim: Victim, place: Place, *more: str) -> tuple[float, int]:
    """Run *victim* undisturbed; return how many seconds it took, and how many lines it printed."""
    began = time.monotonic()
    process = start(victim, place, *more)
    output = process.communicate(timeout=60)
    assert process.returncode == 0, output
    victim.check(place)
    victim.finished(place)
    return time.monotonic() - began, output[0].count("\n")


@pytest.mark.parametrize("name", VICTIMS)
def test_a_kill_at_any_moment_leaves_the_state_before_or_after(
    name, places, request, record_property
):
    victim = VICTIMS[name]
    lasts, _ = whole_run(victim, places(victim))
    chance = random.Random(seed := random.randrange(10**6))
    kills = request.config.getoption("--kills")
    for _ in range(kills):
        place = places(victim)
        process = start(victim, place)
        time.sleep(chance.uniform(0, lasts * 1.1))
        process.kill()
        process.communicate(timeout=60)
        try:
            (victim.killed or victim.check)(place)
            if not victim.once or not (place.directory / victim.once).exists():
                whole_run(victim, place, *victim.again)  # the same again succeeds
        except AssertionError as error:
            raise AssertionError(f"with seed {seed}") from error
    record_property("kills", f"{name}: {kills}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", VICTIMS)
def test_a_signal_at_any_moment_ends_it(name, number, places, request, record_property):
    victim = VICTIMS[name]
    lasts, lines = whole_run(victim, places(victim))
    chance = random.Random(seed := random.randrange(10**6))
    count = max(3, request.config.getoption("--kills") // 4)
    for _ in range(count):
        place = places(victim)
        process = start(victim, place)
        running(process)
        time.sleep(chance.uniform(0, lasts))
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + number, -number), (seed, stderr)
        assert "Traceback" not in stderr or process.returncode == -number, (seed, stderr)
        (victim.killed or victim.check)(place)
        # A result that has been printed stays, whatever comes after it; a part of one never is.
        assert stdout.count("\n") in ((0, lines) if process.returncode else (lines,)), (
            seed,
            stdout,
        )
        assert stdout == "" or stdout.endswith("\n"), (seed, stdout)
    record_property("signals", f"{name}: {count}")
