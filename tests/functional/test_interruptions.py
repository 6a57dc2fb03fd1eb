"""What interrupts a synchronisation, an archive or a batch: nothing is lost, and it goes on.

``test_moving`` has the same for single downloads, and ``test_batch`` what kills a batch or fills its disk.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.gate import Gate
from tests.functional.storage import ARCHIVES, RUN, Fault, Store
from tests.functional.test_batch import TO_FILE, indexes, stub, token_rows, wait_for_lines
from tests.functional.test_moving import FILES, HALF, KEPT, LARGE, arrived, stages
from tests.until import until

#: Names of the checkpoint that is here already, and of the one that comes.
OLD, NEW = "gz", "tar"
#: Bytes that may come twice: of a block that was not filled when it broke off.
SLACK = 2 * 256 * 1024


def limit_files() -> None:
    """Let no file of this process grow beyond :data:`HALF`, as if the disk were full then."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))


@pytest.fixture
def store() -> Iterator[Store]:
    """Serve a run with a checkpoint; see :func:`sync` for the second."""
    store = Store(dict(FILES), names=[OLD])
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def sync(tinkex, store, target) -> list[str]:
    """Fetch the run's first checkpoint, let it have another, and return what fetches that."""
    tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}
    words = ["checkpoint", "sync", RUN, str(target)]
    tinkex(*words)
    store.received()
    store.names = [OLD, NEW]
    return words


@pytest.fixture
def whole(tinkex, store, target, sync) -> Callable[[], None]:
    """Return a check that both checkpoints are here, and nothing is left to fetch."""

    def check() -> None:
        for name in (OLD, NEW):
            assert arrived(target / "sampler_weights" / name) == FILES
        assert not list(target.rglob(".tinkex-*"))
        tinkex(f"checkpoint verify {target}")
        store.received()
        assert (tinkex(*sync).stdout, store.received()) == ("", 0)

    return check


@pytest.fixture
def goes_on(tinkex, store, target, sync, whole) -> Callable[[], None]:
    """Return a check that the same fetches what is missing, and not what is here already."""

    def check() -> None:
        assert not new_checkpoint(target).exists()
        assert arrived(target / "sampler_weights" / OLD) == FILES
        store.faults = []
        store.received()
        done = tinkex(*sync)
        assert "1 downloaded, 1 already present" in done.stderr
        assert 0 < store.received() <= len(store.body(NEW)) - HALF + SLACK
        whole()

    return check


def new_checkpoint(target: Path) -> Path:
    return target / "sampler_weights" / NEW


def here(target: Path) -> int:
    """Return how many bytes of the new checkpoint's archive are here."""
    return sum(path.stat().st_size for path in target.rglob(".tinkex-*/archive"))


# ---------------------------------------------------------------- a synchronisation


def test_sync_that_is_killed_goes_on(tinkex, store, target, sync, goes_on):
    store.faults = [Fault(hold=HALF)]
    process = tinkex.start(*sync)
    until(lambda: any(sent.bytes >= HALF for sent in store.sent))
    until(lambda: here(target) > HALF - SLACK)
    process.kill()
    process.communicate()
    store.go.set()
    goes_on()


def test_sync_mends_trouble_in_flight(tinkex, store, sync, whole):
    store.faults = [Fault(403), Fault(503), Fault(cut=HALF), Fault(403), Fault(cut=HALF // 4)]
    tinkex(*sync)
    assert len({sent.signature for sent in store.sent}) > 1
    assert store.received() == len(store.body(NEW))
    whole()


def test_sync_goes_on_when_the_network_is_back(tinkex, store, target, sync, goes_on):
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 20]
    done = tinkex(*sync, "--timeout", "1500", code=1)
    assert "Not downloaded: " in done.stderr
    assert KEPT in done.stderr
    goes_on()


def test_sync_on_a_full_disk_goes_on(tinkex, store, target, sync, goes_on):
    stderr = tinkex.process(*sync, preexec_fn=limit_files, code=1).stderr
    assert "Not downloaded: " in stderr
    assert "cannot write to" in stderr
    assert KEPT in stderr
    goes_on()


# ---------------------------------------------------------------- a packed archive


def test_a_packed_archive_on_a_full_disk(tinkex, store, target):
    tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}
    words = ["checkpoint", "download", ARCHIVES["tar.gz"], "--output", str(target), "--force"]
    target.mkdir()
    (target / LARGE).write_text("old")
    done = tinkex.process(*words, preexec_fn=limit_files, code=1)
    assert done.stdout == ""
    assert "cannot write to" in done.stderr
    assert (target / LARGE).read_text() == "old"
    tinkex(*words)
    assert arrived(target) == FILES
    assert stages(target) == []
    tinkex(f"checkpoint verify {target}")


# ---------------------------------------------------------------- a batch

ROWS = 400


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[tuple]:
    """Yield a program whose samples come through a gate, and the gate."""
    token_rows(tmp_path / "in.jsonl", ROWS)
    with stub("--hold", "20") as program, Gate(program.environment["TINKER_BASE_URL"]) as gate:
        program.environment["TINKER_BASE_URL"] = gate.url
        yield program, gate


def interrupted_batch(batch: tuple, place: Path, act: Callable[[Gate], None], seconds: float):
    """Let *act* trouble a batch in its middle for some *seconds*; return the finished process."""
    program, gate = batch
    process = program.start(f"{TO_FILE} --concurrency 8", cwd=place)
    wait_for_lines(place / "out.jsonl", 60)
    act(gate)
    time.sleep(seconds)
    assert gate.turned_away
    if seconds:
        gate.mend()
    stdout, stderr = process.communicate(timeout=120)
    assert stdout == ""
    return process.returncode, stderr


def refuse(status: int) -> Callable[[Gate], None]:
    def act(gate: Gate) -> None:
        gate.status = status
        until(lambda: gate.turned_away)

    return act


@pytest.mark.parametrize("act", [Gate.cut, refuse(503)], ids=["cut", "503"])
def test_a_batch_outlives_a_moment_without_the_service(batch, tmp_path, act):
    code, stderr = interrupted_batch(batch, tmp_path, act, 1.0)
    assert (code, f"{ROWS} of {ROWS} rows sampled" in stderr) == (0, True), stderr
    assert sorted(indexes(tmp_path / "out.jsonl")) == list(range(ROWS))


def test_a_batch_whose_key_has_run_out_goes_on_with_another(batch, tmp_path):
    code, stderr = interrupted_batch(batch, tmp_path, refuse(401), 0)
    before = (tmp_path / "out.jsonl").read_text().splitlines()
    assert code == 1
    assert 60 <= len(before) < ROWS
    assert "To resume:" in stderr
    program, gate = batch
    gate.mend()
    done = program(f"{TO_FILE} --resume", cwd=tmp_path)
    assert f"{len(before)} done before" in done.stderr
    assert (tmp_path / "out.jsonl").read_text().splitlines()[: len(before)] == before
    assert sorted(indexes(tmp_path / "out.jsonl")) == list(range(ROWS))
    assert not (tmp_path / "out.failed.jsonl").exists()
