"""Downloads, alone and many, that meet trouble: nothing is lost, and nothing fetched twice."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from tests.functional.storage import ARCHIVES, RUN, SEPARATE, Fault, Store, content, storing
from tests.until import until
from tests.weights import HEADER, weights
from tinkex.api.transfer.staging import log_of


@lru_cache(3)
def large(size: int, seed: int = 0) -> bytes:
    """Return a file of weights of *size* bytes."""
    return weights(content(size - HEADER, seed))


SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"
FILES = {SMALL: b'{"r": 8}', LARGE: large(3_000_000)}
HALF = 1_500_000
MIB = 2**20
#: Bytes that may come twice: of blocks that were not filled when it broke off.
SLACK = 600_000
KINDS = {"separate": SEPARATE, **ARCHIVES}
TWO_KINDS = ["separate", "tar"]
KEPT = "is kept. To resume it, run the same"


@pytest.fixture
def store(tinkex) -> Iterator[Store]:
    with storing(dict(FILES)) as store:
        tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}
        yield store


@pytest.fixture
def download(store, target) -> Callable[..., list[str]]:
    """Return the command line of a download of a kind of checkpoint."""
    return lambda kind, *more: ["checkpoint", "download", KINDS[kind], "-o", str(target), *more]


def size(store: Store, kind: str) -> int:
    names = store.files if kind == "separate" else [kind]
    return sum(len(store.body(name)) for name in names)


def stages(target: Path) -> list[Path]:
    return [place for place in target.parent.rglob(".tinkex-download-*") if place.is_dir()]


def partial(target: Path) -> int:
    """Return how many bytes of the large file, or of the archive, are here."""
    try:
        archives = list(target.parent.rglob(".tinkex-*/archive"))
        places = archives or list(target.parent.rglob(f"content/{LARGE}"))
        return sum(path.stat().st_size for path in places)
    except FileNotFoundError:  # it begins, or ends, just now
        return 0


def arrived(target: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in target.iterdir() if path.name != "tinkex.lock.json"
    }


def check_whole(target: Path, tinkex, store: Store) -> None:
    assert arrived(target) == store.files
    assert stages(target) == []
    tinkex(f"checkpoint verify {target}")


def limit_files() -> None:
    """Let no file of this process grow beyond :data:`HALF`, as if the disk were full then."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))


def stopped(tinkex, store: Store, target: Path, words: list[str], number: int) -> str:
    """Signal a download that has half of the large file; return what it said."""
    store.faults = [Fault(hold=HALF)] * 2
    process = tinkex.start(*words)
    until(lambda: partial(target) > HALF - SLACK)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert not target.exists() or number != signal.SIGKILL
    store.faults = []
    store.go.set()
    return stderr


# ---------------------------------------------------------------- interrupted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_what_was_killed_or_interrupted_is_resumed(number, kind, tinkex, store, download, target):
    stderr = stopped(tinkex, store, target, download(kind), number)
    assert (KEPT in stderr) is (number != signal.SIGKILL)
    here = partial(target)
    store.received()
    tinkex(*download(kind))
    assert 0 < store.received() <= size(store, kind) - here
    check_whole(target, tinkex, store)


@pytest.mark.kills  # a real stop, by the clock
@pytest.mark.parametrize("kind", TWO_KINDS)
def test_ctrl_z_for_longer_than_the_timeout_fails_no_download(
    kind, tinkex, store, download, target
):
    store.faults = [Fault(hold=HALF)] * (2 if kind == "separate" else 1)
    process = tinkex.start(*download(kind, "--timeout", "2000"))
    until(lambda: partial(target) > HALF - SLACK)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert store.received() < size(store, kind) + SLACK
    check_whole(target, tinkex, store)


def test_a_synchronisation_that_was_killed_is_resumed(tinkex, store, target):
    words = ["checkpoint", "sync", RUN, str(target)]
    store.names = ["gz"]
    tinkex(*words)
    store.names = ["gz", "tar"]
    old, new = (target / "sampler_weights" / name for name in store.names)
    stopped(tinkex, store, new, words, signal.SIGKILL)
    assert arrived(old) == FILES
    store.received()
    assert "1 downloaded, 1 already present" in tinkex(*words).stderr
    assert 0 < store.received() <= size(store, "tar") - HALF + SLACK
    check_whole(new, tinkex, store)
    assert (tinkex(*words).stdout, store.received()) == ("", 0)


#: What a download waits for, or mends, without a word.
TROUBLE = {
    "a cut": [Fault(cut=HALF)],
    "an outage": [Fault(503), Fault(cut=HALF), Fault(503), Fault(503)],
    "an expired address": [Fault(cut=HALF), Fault(403)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_in_the_middle_costs_no_byte(trouble, kind, tinkex, store, download, target, naps):
    store.files = {LARGE: FILES[LARGE]}
    store.faults = list(TROUBLE[trouble])
    tinkex(*download(kind))
    assert [sent.start for sent in store.sent] == [0, HALF]
    first, second = store.sent
    assert trouble != "an expired address" or first.signature != second.signature
    assert store.received() == size(store, kind)
    check_whole(target, tinkex, store)


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_a_network_that_stays_away(kind, tinkex, store, download, target, naps):
    target.mkdir()
    (target / LARGE).write_text("old")
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6, *[Fault(403)] * 4]
    words = download(kind, "--force")
    assert KEPT in tinkex(*words, code=1).stderr
    assert (target / LARGE).read_text() == "old"
    store.faults = []
    store.received()
    tinkex(*words)
    missing = size(store, kind) - HALF
    assert missing <= store.received() <= missing + (SLACK if kind == "tar" else 0)
    check_whole(target, tinkex, store)


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_another_file_of_the_same_name_is_not_mixed_in(kind, tinkex, store, download, target, naps):
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6]
    tinkex(*download(kind), code=1)
    store.faults = []
    store.files = {LARGE: large(3_000_000, seed=1)}
    tinkex(*download(kind))
    check_whole(target, tinkex, store)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_target_whole(kind, tinkex, store, download, target):
    target.mkdir()
    (target / LARGE).write_text("old")
    done = tinkex.process(*download(kind, "--force"), preexec_fn=limit_files, code=1)
    assert done.stdout == ""
    assert "cannot write to" in done.stderr
    assert KEPT in done.stderr
    assert (target / LARGE).read_text() == "old"
    store.received()
    tinkex(*download(kind, "--force"))
    assert store.received() < size(store, kind) - HALF + 20_000
    check_whole(target, tinkex, store)


def test_two_downloads_into_one_place_do_not_mix(tinkex, store, download, target):
    store.faults = [Fault(hold=HALF)] * 2
    process = tinkex.start(*download("separate"))
    until(lambda: partial(target) > 100_000)
    assert "another process is already" in tinkex(*download("separate"), code=1).stderr
    store.go.set()
    process.communicate(timeout=60)
    assert process.returncode == 0
    check_whole(target, tinkex, store)


# ---------------------------------------------------------------- several connections


@pytest.fixture
def throttled(store):
    """Let the store have a file that is worth several connections, and hold each of them back."""
    store.files = {SMALL: b"{}", LARGE: large(48 * MIB), "z": b"last"}
    store.rate = 20 * MIB
    return store


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_a_throttled_file_comes_over_several_connections(kind, tinkex, throttled, download, target):
    tinkex(*download(kind))
    assert len([sent for sent in throttled.sent if sent.bytes > MIB]) > 2
    check_whole(target, tinkex, throttled)


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_a_file_in_ranges_is_resumed(kind, tinkex, throttled, download, target):
    throttled.rate = 4 * MIB
    process = tinkex.start(*download(kind))
    until(lambda: len(throttled.sent) > 7 and sum(s.bytes for s in throttled.sent) > 20 * MIB)
    process.kill()
    process.communicate(timeout=60)
    (stage,) = stages(target)
    name = "archive" if kind == "tar" else f"content/{LARGE}"
    state = log_of(stage.name).read()
    assert state is not None
    have = state.files[name].received
    assert have > MIB
    assert len(state.files[name].segments) > 4
    throttled.rate = 0
    until(lambda: not throttled.sending)
    throttled.received()
    tinkex(*download(kind))
    rest = 48 * MIB - have
    assert rest <= throttled.received() <= rest + 20_000  # the small ones, headers
    check_whole(target, tinkex, throttled)


def open_files(number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_with_few_open_files_fewer_connections_are_made(kind, tinkex, throttled, download, target):
    tinkex.process(*download(kind), preexec_fn=open_files(30))
    check_whole(target, tinkex, throttled)


def test_with_few_open_files_fewer_checkpoints_are_fetched_at_once(tinkex, store, target):
    store.names = [f"{n}" for n in range(8)]
    words = ["checkpoint", "download", "--run-id", RUN, "--output", str(target), "-f", "json"]
    done = tinkex.process(*words, preexec_fn=open_files(48))
    assert len(json.loads(done.stdout)) == 8
    assert len([place for place in target.rglob(LARGE) if place.stat().st_size == 3_000_000]) == 8


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_with_too_few_open_files_a_sentence_says_how_to_go_on(
    kind, tinkex, throttled, download, target
):
    # Enough for the staging directory, and too few for two connections.
    done = tinkex.process(*download(kind), preexec_fn=open_files(13), code=1)
    assert done.stderr.splitlines()[0].endswith(": too many open files")
    assert KEPT in done.stderr
    assert "ulimit -n 4096" in done.stderr
    throttled.received()
    tinkex(*download(kind))
    # Of the archive, nothing had arrived: there were too few files for its first connection.
    assert kind == "tar" or throttled.received() < size(throttled, kind)
    check_whole(target, tinkex, throttled)


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_trouble_in_ranges_is_mended_in_flight(kind, tinkex, throttled, download, target):
    throttled.faults = [Fault()] * (4 if kind == "separate" else 2)
    throttled.faults += [Fault(503), Fault(cut=1_000_000), Fault(403), Fault(cut=0)]
    tinkex(*download(kind))
    assert throttled.faults == []
    assert len({sent.signature for sent in throttled.sent}) > 1
    assert throttled.received() < 1.5 * 48 * MIB  # the first connection sends on for a while
    check_whole(target, tinkex, throttled)


@pytest.mark.parametrize("kind", [*KINDS, "ranges"])
def test_memory_stays_flat(kind, tinkex, store, download, target):
    store.files = {LARGE: weights(bytes(70 * MIB - HEADER))}
    if kind == "ranges":
        kind, store.rate = "separate", 40 * MIB
    peak = tinkex.peak(*download(kind))
    assert (target / LARGE).stat().st_size == 70 * MIB
    (target / LARGE).unlink()
    assert peak < 64 * 1024


# ---------------------------------------------------------------- many


def test_force_removes_what_an_earlier_download_brought(tinkex, store, download, target):
    store.files = {**FILES, "stale": b"x"}
    tinkex(*download("separate"))
    (target / "mine").write_text("mine")
    store.files = dict(FILES)
    tinkex(*download("separate", "--force"))
    assert arrived(target) == {**FILES, "mine": b"mine"}


def test_several_at_once_and_a_part_that_fails(tinkex, store, target):
    good, bad = [ARCHIVES["tar"], SEPARATE], f"tinker://{RUN}/weights/none"
    done = tinkex("checkpoint download", *good, bad, "--output", target, "-f", "json", code=1)
    rows = {row["tinker_path"]: row for row in done.rows}
    assert list(rows) == [*good, bad]
    assert rows[bad]["error"]
    assert "1 of 3 checkpoints" in done.stderr
    for path in good:
        directory = target / path.removeprefix("tinker://")
        assert rows[path]["directory"] == str(directory)
        assert arrived(directory) == FILES
    verified = tinkex(f"checkpoint verify {target} -f json").rows
    assert [row["status"] for row in verified] == ["ok"] * 4


def test_all_of_a_run(tinkex, store, target):
    words = ["checkpoint", "download", "--run-id", RUN, "--output", str(target)]
    lines = tinkex(*words).stdout.splitlines()
    one = target / "sampler_weights" / "gz"
    assert f"Downloaded to {one}" in lines
    assert arrived(one) == FILES
    # The same again fetches nothing, nor does a sync; what is there in part is fetched.
    store.received()
    done = tinkex(*words)
    assert (done.stdout, store.received()) == ("", 0)
    assert f"0 downloaded, {len(lines)} already present" in done.stderr
    assert tinkex(f"checkpoint sync {RUN} {target}").stdout == ""
    (one / SMALL).unlink()
    rows = tinkex(*words, "-f", "json").rows
    assert [row["directory"] for row in rows if row["files"] is not None] == [str(one)]
    assert arrived(one) == FILES
    store.received()
    tinkex(*words, "--force")
    assert store.received() > len(lines) * len(FILES[SMALL])
    assert tinkex(f"checkpoint download --run-id {RUN} --type training", code=1).stdout == ""


@pytest.mark.parametrize("exists", [True, False])
def test_curl_touches_nothing(exists, tinkex, store, target):
    if exists:
        target.mkdir()
    before = {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")}
    wanted = ["-o", str(target), "--curl"]
    for words in ([SEPARATE], [ARCHIVES["tar"]], [*KINDS.values()], ["--run-id", RUN]):
        assert tinkex("checkpoint download", *words, *wanted).stdout.startswith("curl ")
    assert tinkex(f"checkpoint sync {RUN} {target} --curl").stdout.startswith("curl ")
    assert {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")} == before
    assert store.received() == 0


def test_verify(tinkex, download, target):
    tinkex(*download("tar"))
    (target / "mine").write_text("mine")
    assert f"extra\t{target / 'mine'}" in tinkex(f"checkpoint verify {target}").stdout
    done = tinkex(f"checkpoint verify {target} --strict", code=1)
    assert done.stderr.endswith("Hint: Remove the extra files, or omit --strict.\n")
    with (target / LARGE).open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    (target / SMALL).unlink()
    done = tinkex(f"checkpoint verify {target} -f json", code=1)
    found = {Path(row["file"]).name: row["status"] for row in done.rows}
    assert found == {SMALL: "missing", LARGE: "changed", "mine": "extra"}
    assert "2 of 3 files failed verification: mismatch with the manifest" in done.stderr


def test_sync_fetches_what_is_new(tinkex, store, target):
    words = ["checkpoint", "sync", RUN, str(target)]
    place = target / "sampler_weights"
    store.names = ["tar"]
    assert "tinker://" in tinkex(*words).stdout
    (place / "tar" / SMALL).unlink()
    store.names = ["tar", "gz"]
    rows = tinkex(*words, "-f", "json").rows
    assert [row["status"] for row in rows] == ["fetched", "fetched"]
    assert arrived(place / "tar") == FILES
    (place / "gz" / "tinkex.lock.json").unlink()
    done = tinkex(*words, "-f", "json", code=1)
    assert [row["status"] for row in done.rows] == ["present", "failed"]
    assert "Move the existing files away" in done.stderr  # there is no --force
    assert tinkex(*words, "--watch", "-f", "json", code=1).stdout == ""


def test_sync_outlives_lost_connections(tinkex, store, target):
    place = target / "sampler_weights"
    store.names = ["tar"]
    process = tinkex.start(f"checkpoint sync {RUN} {target} --watch --interval 1s")
    until((place / "tar" / LARGE).exists)
    store.down = True
    assert store.refused.wait(60)
    store.names, store.down = ["tar", "gz"], False
    until((place / "gz" / LARGE).exists)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Downloaded " in stdout
    assert stderr.endswith("Checkpoint sync interrupted.\n")
