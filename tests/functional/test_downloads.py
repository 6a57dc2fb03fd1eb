"""Downloads that are interrupted in every way: nothing is lost, and nothing fetched twice."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.storage import ARCHIVES, RUN, SEPARATE, Fault, Store, content
from tests.until import idle, until

SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"
FILES = {SMALL: b'{"r": 8}', LARGE: content(3_000_000)}
HALF = 1_500_000
KINDS = {"separate": SEPARATE, **ARCHIVES}
KEPT = "What has arrived is kept"
MIB = 2**20
#: Bytes that may come twice: of blocks that were not filled when it broke off.
SLACK = 600_000


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(dict(FILES))
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def download(tinkex, store, target) -> Callable[..., list[str]]:
    """Return the command line of a download of a kind of checkpoint, or of a synchronisation."""
    tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}

    def words(kind: str, *more: str) -> list[str]:
        return ["checkpoint", "download", KINDS[kind], "--output", str(target), *more]

    return words


@pytest.fixture
def sync(tinkex, store, target, download) -> list[str]:
    return ["checkpoint", "sync", RUN, str(target)]


def stages(target: Path) -> list[Path]:
    return [path for path in target.parent.rglob(".tinkex-download-*") if path.is_dir()]


def partial(target: Path) -> int:
    """Return how many bytes of the large file, or of the archive, are here."""
    sizes = []
    for stage in stages(target):
        for place in (stage / "archive", stage / "content" / LARGE):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(place.stat().st_size)
    return sum(sizes)


def arrived(target: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in target.iterdir() if path.name != "tinkex.lock.json"
    }


def check_whole(target: Path, tinkex, files: dict[str, bytes] = FILES) -> None:
    assert arrived(target) == files
    assert stages(target) == []
    tinkex(f"checkpoint verify {target}")


def size_of(kind: str, store: Store) -> int:
    return len(store.body(kind)) if kind != "separate" else sum(map(len, store.files.values()))


def interrupted(tinkex, store, words: list[str], target: Path, number: int) -> tuple[int, str]:
    """Send *number* to a download that stands still in the middle; return code and stderr."""
    # The order of separate files is not known: the small one may be the first.
    store.faults = [Fault(hold=HALF)] * (2 if KINDS["separate"] in words else 1)
    process = tinkex.start(*words)
    until(lambda: partial(target) > HALF - SLACK and idle(process))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    store.go.set()
    store.received()
    return process.returncode, stderr


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9(kind, tinkex, store, download, target):
    interrupted(tinkex, store, download(kind), target, signal.SIGKILL)
    here = partial(target)
    assert not target.exists()
    tinkex(*download(kind))
    size = size_of(kind, store)
    assert 0 < store.received() <= size - here < size - HALF + SLACK
    check_whole(target, tinkex)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_resume(number, tinkex, store, download, target):
    code, stderr = interrupted(tinkex, store, download("separate"), target, number)
    assert code == 128 + number
    assert KEPT in stderr
    tinkex(*download("separate"))
    assert store.received() < len(FILES[LARGE]) - HALF + SLACK
    check_whole(target, tinkex)


def test_a_sync_that_is_killed(tinkex, store, sync, target):
    store.names = ["gz"]
    tinkex(*sync)
    store.names = ["gz", "tar"]
    interrupted(tinkex, store, sync, target, signal.SIGKILL)
    assert arrived(target / "sampler_weights" / "gz") == FILES
    assert "1 downloaded, 1 already present" in tinkex(*sync).stderr
    assert 0 < store.received() <= len(store.body("tar")) - HALF + SLACK
    for name in ("gz", "tar"):
        check_whole(target / "sampler_weights" / name, tinkex)
    assert (tinkex(*sync).stdout, store.received()) == ("", 0)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(cut=HALF)],
        [Fault(503), Fault(cut=HALF), Fault(503), Fault(503)],
        [Fault(cut=HALF), Fault(403)],
    ],
    ids=["cut", "outage", "expired address"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_trouble_in_flight(kind, faults, tinkex, store, download, target):
    store.files, store.faults = {LARGE: FILES[LARGE]}, list(faults)
    tinkex(*download(kind))
    assert [sent.start for sent in store.sent] == [0, HALF]
    first, second = store.sent
    assert (first.signature != second.signature) is (faults[-1].status == 403)
    assert store.received() == size_of(kind, store)
    assert arrived(target) == store.files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["network", "disk"])
def test_what_ends_a_download_keeps_the_old_files_and_the_new(
    why, kind, tinkex, store, download, target
):
    store.files = {LARGE: FILES[LARGE]}
    target.mkdir()
    (target / LARGE).write_text("old")
    words = download(kind, "--force", "--timeout", "1500")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))

    if why == "network":
        store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6, *[Fault(403)] * 4]
        done = tinkex(*words, code=1)
    else:
        done = tinkex.process(*words, preexec_fn=limit, code=1)
        assert "cannot write to" in done.stderr
    assert done.stdout == ""
    assert KEPT in done.stderr
    assert (target / LARGE).read_text() == "old"
    store.faults = []
    store.received()
    tinkex(*download(kind, "--force"))
    assert 0 < store.received() <= size_of(kind, store) - HALF + SLACK
    check_whole(target, tinkex, store.files)


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_nothing_of_another_file_is_used(kind, tinkex, store, download, target):
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6]
    tinkex(*download(kind, "--timeout", "1500"), code=1)
    store.faults = []
    store.files = {LARGE: content(len(FILES[LARGE]), seed=1)}
    tinkex(*download(kind))
    assert arrived(target) == store.files
    # Without validators the next attempt could not know whether it is another.
    store.validators = False
    store.faults = [Fault(cut=HALF)]
    done = tinkex(*download("separate", "--force"), code=1)
    assert f"{HALF} of {len(FILES[LARGE])} bytes" in done.stderr
    assert KEPT not in done.stderr
    assert stages(target) == []


def test_two_processes(tinkex, store, download, target):
    store.faults = [Fault(hold=HALF)] * 2
    process = tinkex.start(*download("separate"))
    until(lambda: partial(target) > 100_000)
    assert "by another process" in tinkex(*download("separate"), code=1).stderr
    store.go.set()
    process.communicate(timeout=60)
    assert process.returncode == 0
    check_whole(target, tinkex)


@pytest.fixture
def throttled(store):
    """Let the store have a file that is worth several connections, and hold each of them back."""
    store.files = {"adapter_config.json": b"{}", LARGE: content(48 * MIB), "z": b"last"}
    store.rate = 20 * MIB
    return store


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_throttled_file_comes_over_several_connections(kind, tinkex, throttled, download, target):
    throttled.faults = [Fault()] * 2
    throttled.faults += [Fault(503), Fault(cut=1_000_000), Fault(403), Fault(cut=0)]
    tinkex(*download(kind))
    assert throttled.faults == []
    assert len([sent for sent in throttled.sent if sent.bytes > MIB]) > 2
    assert len({sent.signature for sent in throttled.sent}) > 1
    assert throttled.received() < 1.5 * 48 * MIB  # the first connection sends on for a while
    check_whole(target, tinkex, throttled.files)


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_file_in_parts_is_resumed(kind, tinkex, throttled, download, target):
    throttled.rate = 4 * MIB
    process = tinkex.start(*download(kind))
    until(lambda: len(throttled.sent) > 7 and sum(s.bytes for s in throttled.sent) > 20 * MIB)
    process.kill()
    process.communicate(timeout=60)
    (stage,) = stages(target)
    name = "archive" if kind == "tar" else f"content/{LARGE}"
    _, _, segments = json.loads((stage / "state.json").read_text())["files"][name]
    have = sum(position - start for start, position, _ in segments)
    assert have > MIB
    assert len(segments) > 4
    throttled.rate = 0
    until(lambda: not throttled.sending)
    throttled.received()
    tinkex(*download(kind))
    assert (
        48 * MIB - have <= throttled.received() <= 48 * MIB - have + 20_000
    )  # small ones, headers
    check_whole(target, tinkex, throttled.files)


@pytest.mark.parametrize("kind", [*KINDS, "ranges"])
def test_memory_stays_flat(kind, tinkex, store, download, target):
    store.files = {LARGE: bytes(100 * 2**20)}
    if kind == "ranges":
        kind, store.rate = "separate", 40 * 2**20
    peak = tinkex.peak(*download(kind))
    assert (target / LARGE).stat().st_size == 100 * 2**20
    (target / LARGE).unlink()
    assert peak < 64 * 1024


# ---------------------------------------------------------------- several, and what is here already


def test_force_removes_what_an_earlier_download_brought(tinkex, store, download, target):
    store.files = {**FILES, "stale": b"x"}
    tinkex(*download("separate"))
    (target / "mine").write_text("mine")
    store.files = dict(FILES)
    tinkex(*download("separate", "--force"))
    assert arrived(target) == {**FILES, "mine": b"mine"}


def test_several_at_once_and_a_part_that_fails(tinkex, store, download, target):
    good = [ARCHIVES["tar"], SEPARATE]
    bad = f"tinker://{RUN}/weights/none"
    words = ["checkpoint", "download", *good, bad, "--output", str(target), "-f", "json"]
    done = tinkex(*words, code=1)
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


@pytest.mark.parametrize("kind", ["sampler", "sampler_weights"])
def test_all_of_a_run(kind, tinkex, store, download, sync, target):
    store.kind = kind  # the word for them in lists; --type takes both
    words = ["checkpoint", "download", "--run-id", RUN, "--type", kind, "--output", str(target)]
    lines = tinkex(*words).stdout.splitlines()
    gz = target / "sampler_weights" / "gz"
    assert f"Downloaded to {gz}" in lines
    assert arrived(gz) == FILES
    # The same again fetches nothing, nor does a sync; what is there in part is fetched.
    store.received()
    done = tinkex(*words)
    assert (done.stdout, store.received()) == ("", 0)
    assert f"0 downloaded, {len(lines)} already present" in done.stderr
    assert tinkex(*sync).stdout == ""
    (gz / SMALL).unlink()
    rows = tinkex(*words, "-f", "json").rows
    assert [row["directory"] for row in rows if row["files"] is not None] == [str(gz)]
    assert arrived(gz) == FILES
    store.received()
    tinkex(*words, "--force")
    assert store.received() > len(lines) * len(FILES[SMALL])
    line = f"checkpoint download --run-id {RUN} --type training -f json"
    assert tinkex(line, code=1).stdout == ""


@pytest.mark.parametrize("there", [True, False])
def test_curl_touches_nothing(there, tinkex, store, download, sync, target):
    if there:
        target.mkdir()
    everything = {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")}
    both = ["checkpoint", "download", KINDS["separate"], KINDS["tar"], "-o", str(target)]
    run = ["checkpoint", "download", "--run-id", RUN, "-o", str(target)]
    for words in (*map(download, KINDS), both, run, sync):
        assert tinkex(*words, "--curl").stdout.startswith("curl ")
    assert {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")} == everything
    assert store.received() == 0


def test_verify(tinkex, store, download, target):
    tinkex(*download("tar"))
    (target / "mine").write_text("mine")
    assert f"extra\t{target / 'mine'}" in tinkex(f"checkpoint verify {target}").stdout
    tinkex(f"checkpoint verify {target} --strict", code=1)
    with (target / LARGE).open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    (target / SMALL).unlink()
    done = tinkex(f"checkpoint verify {target} -f json", code=1)
    assert {Path(row["file"]).name: row["status"] for row in done.rows} == {
        SMALL: "missing",
        LARGE: "changed",
        "mine": "extra",
    }
    message = json.loads(done.stderr)["error"]["message"]
    assert message.endswith("2 of 3 files differ from what was downloaded")


@pytest.mark.parametrize("what", ["nothing", "file", "empty", "damaged"])
def test_verify_of_what_is_no_download(what, tinkex, tmp_path):
    place = tmp_path / "place"
    if what == "file":
        place.write_text("x")
    elif what != "nothing":
        place.mkdir()
    if what == "damaged":
        (place / "tinkex.lock.json").write_text("{")
    done = tinkex(f"checkpoint verify {place}", code=1)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2


def test_sync_fetches_what_is_new(tinkex, store, sync, target):
    store.names = ["tar"]
    assert "tinker://" in tinkex(*sync).stdout
    (target / "sampler_weights" / "tar" / SMALL).unlink()
    store.names = ["tar", "gz"]
    rows = tinkex(*sync, "-f", "json").rows
    assert [row["status"] for row in rows] == ["fetched", "fetched"]
    assert arrived(target / "sampler_weights" / "tar") == FILES
    (target / "sampler_weights" / "gz" / "tinkex.lock.json").unlink()
    done = tinkex(*sync, "-f", "json", code=1)
    assert [row["status"] for row in done.rows] == ["present", "failed"]
    assert tinkex(*sync, "--watch", "-f", "json", code=1).stdout == ""


def test_sync_goes_on_after_lost_connections(tinkex, store, sync, target):
    store.names = ["tar"]
    process = tinkex.start(*sync, "--watch", "--interval", "1s")
    until((target / "sampler_weights" / "tar" / LARGE).exists)
    store.down = True
    until(lambda: store.cut_off)
    store.names = ["tar", "gz"]
    store.down = False
    until((target / "sampler_weights" / "gz" / LARGE).exists)
    until(lambda: idle(process))
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout.count("Fetched ") >= 1
    assert stderr.endswith("Checkpoint sync interrupted.\n")
