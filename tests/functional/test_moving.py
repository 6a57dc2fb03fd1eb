"""Downloads that are interrupted in every way: nothing is lost, and nothing fetched twice."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.storage import ARCHIVES, RUN, SEPARATE, Fault, Store, content
from tests.until import until

SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"
FILES = {SMALL: b'{"r": 8}', LARGE: content(3_000_000)}
HALF = 1_500_000
KINDS = {"separate": SEPARATE, **ARCHIVES}
KEPT = "What has arrived is kept"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(dict(FILES))
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def download(tinkex, store, target) -> Callable[..., list[str | Path]]:
    """Return the command line of a download of a kind of checkpoint."""
    tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}

    def words(kind: str, *more: str) -> list[str]:
        return ["checkpoint", "download", KINDS[kind], "--output", str(target), *more]

    return words


def stages(target: Path) -> list[Path]:
    places = [*target.parent.glob(".tinkex-download-*"), *target.glob(".tinkex-download-*")]
    return [place for place in places if place.is_dir()]


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


def check_whole(target: Path, tinkex) -> None:
    assert arrived(target) == FILES
    assert stages(target) == []
    tinkex(f"checkpoint verify {target}")


def held(kind: str) -> list[Fault]:
    """Return the faults that let the large file, or the archive, stop in its middle."""
    if kind == "separate":  # the order of the files is not known
        return [Fault(hold=HALF), Fault(hold=HALF)]
    return [Fault(hold=HALF)]


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9(kind, tinkex, store, download, target):
    store.faults = held(kind)
    process = tinkex.start(*download(kind))
    until(lambda: partial(target) > HALF - 600_000)
    time.sleep(0.2)
    process.kill()
    process.communicate()
    store.go.set()
    here = partial(target)
    assert not target.exists()
    store.received()
    tinkex(*download(kind))
    size = len(store.body(kind)) if kind != "separate" else sum(map(len, FILES.values()))
    count = store.received()
    assert 0 < count <= size - here < size - HALF + 600_000
    check_whole(target, tinkex)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_go_on(number, tinkex, store, download, target):
    store.faults = held("separate")
    process = tinkex.start(*download("separate"))
    until(lambda: partial(target) > HALF - 300_000)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert KEPT in stderr
    store.go.set()
    store.received()
    tinkex(*download("separate"))
    assert store.received() < len(FILES[LARGE]) - HALF + 300_000
    check_whole(target, tinkex)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_mended_in_flight(kind, tinkex, store, download, target):
    store.faults = [Fault(cut=HALF)] * 2 if kind == "separate" else [Fault(cut=HALF)]
    tinkex(*download(kind))
    starts = [sent.start for sent in store.sent if sent.start]
    assert starts[0] == HALF
    size = len(store.body(kind)) if kind != "separate" else sum(map(len, FILES.values()))
    assert store.received() == size
    check_whole(target, tinkex)


@pytest.mark.parametrize("kind", KINDS)
def test_an_outage_is_waited_for(kind, tinkex, store, download, target):
    store.names = []
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(503), Fault(cut=HALF), Fault(503), Fault(503)]
    tinkex(*download(kind))
    size = len(store.body(kind if kind != "separate" else LARGE))
    assert store.received() == size
    assert arrived(target) == store.files


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_that_runs_out_is_renewed_in_flight(kind, tinkex, store, download, target):
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), Fault(403)]
    tinkex(*download(kind))
    assert [sent.start for sent in store.sent] == [0, HALF]
    first, second = store.sent
    assert first.signature != second.signature
    assert arrived(target) == store.files


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_network_that_stays_away(kind, tinkex, store, download, target):
    target.mkdir()
    (target / LARGE).write_text("old")
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6, *[Fault(403)] * 4]
    words = download(kind, "--force", "--timeout", "1500")
    done = tinkex(*words, code=1)
    assert KEPT in done.stderr
    assert (target / LARGE).read_text() == "old"
    store.faults = []
    store.received()
    tinkex(*words)
    missing = len(store.body(kind if kind == "tar" else LARGE)) - HALF
    # Of a block that was not yet filled, the beginning comes once more.
    assert missing <= store.received() <= missing + (2 * 256 * 1024 if kind == "tar" else 0)
    assert arrived(target) == store.files
    assert stages(target) == []


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_full_disk(kind, tinkex, store, download, target):
    target.mkdir()
    (target / LARGE).write_text("old")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))

    done = tinkex.process(*download(kind, "--force"), preexec_fn=limit, code=1)
    assert done.stdout == ""
    assert "cannot write to" in done.stderr
    assert KEPT in done.stderr
    assert (target / LARGE).read_text() == "old"
    store.received()
    tinkex(*download(kind, "--force"))
    assert store.sent[-1].start >= HALF
    assert store.received() < len(FILES[LARGE]) - HALF + 20_000
    check_whole(target, tinkex)


@pytest.mark.parametrize("kept", [40, 3000, 120_000])
@pytest.mark.parametrize("lie", ["no length", "short length"])
def test_weights_that_lost_their_end_unseen_are_refused(lie, kept, tinkex, store, download, target):
    tensors = {"__metadata__": {"format": "pt"}}
    for number in range(50):
        span = [number * 2000, number * 2000 + 2000]
        tensors[f"layer.{number}"] = {"dtype": "F16", "shape": [1000], "data_offsets": span}
    header = json.dumps(tensors).encode()
    whole = len(header).to_bytes(8, "little") + header + content(100_000)
    store.files = {SMALL: b"{}", LARGE: whole}
    tinkex(*download("separate"))
    target.rename(target.with_name("whole"))
    if lie == "no length":
        store.lengths = False
    store.files = {SMALL: b"{}", LARGE: whole[:kept] if kept < len(whole) else whole + b"more"}
    done = tinkex(*download("separate"), code=1)
    assert f"{LARGE} came with {len(store.files[LARGE])} bytes, and is " in done.stderr
    assert "by its own header" in done.stderr
    assert not target.exists()
    assert stages(target) == []


def test_without_validators_nothing_is_guessed(tinkex, store, download, target):
    store.validators = False
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF)]
    done = tinkex(*download("separate"), code=1)
    assert f"{HALF} of {len(FILES[LARGE])} bytes" in done.stderr
    assert KEPT not in done.stderr
    assert stages(target) == []
    assert not target.exists()


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_another_file_of_the_same_name_is_fetched_from_its_beginning(
    kind, tinkex, store, download, target
):
    store.files = {LARGE: FILES[LARGE]}
    store.faults = [Fault(cut=HALF), *[Fault(cut=0)] * 6]
    tinkex(*download(kind, "--timeout", "1500"), code=1)
    store.faults = []
    store.files = {LARGE: content(len(FILES[LARGE]), seed=1)}
    tinkex(*download(kind))
    assert arrived(target) == store.files


def test_two_processes(tinkex, store, download, target):
    store.faults = held("separate")
    process = tinkex.start(*download("separate"))
    until(lambda: partial(target) > 100_000)
    done = tinkex(*download("separate"), code=1)
    assert "by another process" in done.stderr
    store.go.set()
    process.communicate(timeout=60)
    assert process.returncode == 0
    check_whole(target, tinkex)


MIB = 2**20


@pytest.fixture
def throttled(store):
    """Let the store have a file that is worth several connections, and hold each of them back."""
    store.files = {"adapter_config.json": b"{}", LARGE: content(48 * MIB), "z": b"last"}
    store.rate = 20 * MIB
    return store


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_throttled_file_comes_over_several_connections(kind, tinkex, throttled, download, target):
    tinkex(*download(kind))
    # The connection that brings the archive sends on for a while after it was left.
    large = [sent for sent in throttled.sent if sent.bytes > MIB]
    assert len([sent for sent in large if kind == "separate" or sent.start]) > 2
    assert arrived(target) == throttled.files
    tinkex(f"checkpoint verify {target}")


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_file_in_parts_is_gone_on_with(kind, tinkex, throttled, download, target):
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
    time.sleep(0.3)
    throttled.received()
    tinkex(*download(kind))
    rest = 48 * MIB - have
    assert rest <= throttled.received() <= rest + 20_000  # the small ones, headers
    assert arrived(target) == throttled.files
    tinkex(f"checkpoint verify {target}")


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_a_throttled_file_that_is_gone_on_with_comes_over_several_connections(
    kind, tinkex, throttled, download, target
):
    throttled.rate = 4 * MIB
    process = tinkex.start(*download(kind))
    until(lambda: partial(target) > MIB)
    process.kill()
    process.communicate()
    assert partial(target) < 8 * MIB
    throttled.received()
    throttled.rate = 20 * MIB
    tinkex(*download(kind))
    assert len([sent for sent in throttled.sent if sent.bytes > MIB]) > 2
    assert arrived(target) == throttled.files
    tinkex(f"checkpoint verify {target}")


@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_trouble_in_ranges_is_mended_in_flight(kind, tinkex, throttled, download, target):
    throttled.faults = [Fault()] * (4 if kind == "separate" else 2)
    throttled.faults += [Fault(503), Fault(cut=1_000_000), Fault(403), Fault(cut=0)]
    tinkex(*download(kind))
    assert throttled.faults == []
    assert len({sent.signature for sent in throttled.sent}) > 1
    assert throttled.received() < 1.5 * 48 * MIB  # the first connection sends on for a while
    assert arrived(target) == throttled.files
    tinkex(f"checkpoint verify {target}")


def test_an_archive_that_changes_before_its_large_file_is_not_mixed(
    tinkex, throttled, download, target
):
    throttled.rate = 4 * MIB
    process = tinkex.start(*download("tar"))
    until(lambda: partial(target) > MIB)
    process.kill()
    process.communicate()
    throttled.files = {**throttled.files, LARGE: content(48 * MIB, seed=1)}
    throttled.rate = 0
    tinkex(*download("tar"))
    assert arrived(target) == throttled.files


def test_a_large_file_that_an_archive_has_twice_is_refused(tinkex, throttled, download, target):
    throttled.rate = 0
    throttled.again = (LARGE,)
    done = tinkex(*download("tar"), code=1)
    assert "twice" in done.stderr
    assert not target.exists()


def test_force_removes_what_an_earlier_download_brought(tinkex, store, download, target):
    store.files = {**FILES, "stale": b"x"}
    tinkex(*download("separate"))
    (target / "mine").write_text("mine")
    store.files = dict(FILES)
    tinkex(*download("separate", "--force"))
    assert arrived(target) == {**FILES, "mine": b"mine"}


@pytest.mark.parametrize("kind", [*KINDS, "ranges"])
def test_memory_stays_flat(kind, tinkex, store, download, target):
    store.files = {LARGE: bytes(100 * 2**20)}
    if kind == "ranges":
        kind, store.rate = "separate", 40 * 2**20
    peak = tinkex.peak(*download(kind))
    assert (target / LARGE).stat().st_size == 100 * 2**20
    (target / LARGE).unlink()
    assert peak < 64 * 1024


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
def test_all_of_a_run(kind, tinkex, store, download, target):
    store.kind = kind
    words = ["checkpoint", "download", "--run-id", RUN, "--output", str(target)]
    lines = tinkex(*words).stdout.splitlines()
    assert f"Downloaded to {target / 'sampler_weights' / 'gz'}" in lines
    assert arrived(target / "sampler_weights" / "gz") == FILES
    # The same again fetches nothing, nor does a sync; what is there in part is fetched.
    store.received()
    done = tinkex(*words)
    assert (done.stdout, store.received()) == ("", 0)
    assert f"0 downloaded, {len(lines)} already present" in done.stderr
    assert tinkex(f"checkpoint sync {RUN} {target}").stdout == ""
    (target / "sampler_weights" / "gz" / SMALL).unlink()
    rows = tinkex(*words, "-f", "json").rows
    assert [row["directory"] for row in rows if row["files"] is not None] == [
        str(target / "sampler_weights" / "gz")
    ]
    assert arrived(target / "sampler_weights" / "gz") == FILES
    store.received()
    tinkex(*words, "--force")
    assert store.received() > len(lines) * len(FILES[SMALL])
    done = tinkex(f"checkpoint download --run-id {RUN} --type training -f json", code=1)
    assert done.stdout == ""


@pytest.mark.parametrize("word", ["sampler", "sampler_weights"])
def test_a_type_is_called_as_in_paths_or_as_in_lists(word, tinkex, store, download, target):
    words = ["--type", word, "-f", "json"]
    downloaded = tinkex(f"checkpoint download --run-id {RUN} --output {target}", *words).rows
    assert downloaded
    assert all("/sampler_weights/" in row["tinker_path"] for row in downloaded)
    synced = tinkex(f"checkpoint sync {RUN} {target}", *words).rows
    assert [row["tinker_path"] for row in synced] == [row["tinker_path"] for row in downloaded]


@pytest.mark.parametrize("there", [True, False])
def test_curl_touches_nothing(there, tinkex, store, download, target):
    if there:
        target.mkdir()
    everything = {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")}
    for kind in KINDS:
        assert tinkex(*download(kind, "--curl")).stdout.startswith("curl ")
    both = ["checkpoint", "download", KINDS["separate"], KINDS["tar"], "-o", str(target)]
    assert tinkex(*both, "--curl").stdout.startswith("curl ")
    for words in (["download", "--run-id", RUN, "-o"], ["sync", RUN]):
        assert tinkex("checkpoint", *words, str(target), "--curl").stdout.startswith("curl ")
    assert {path: path.stat().st_mtime_ns for path in target.parent.rglob("*")} == everything
    assert store.received() == 0


def test_verify(tinkex, store, download, target):
    tinkex(*download("tar"))
    (target / "mine").write_text("mine")
    done = tinkex(f"checkpoint verify {target}")
    assert f"extra\t{target / 'mine'}" in done.stdout
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
    assert json.loads(done.stderr)["error"]["message"].endswith(
        "2 of 3 files differ from what was downloaded"
    )


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


def test_sync_fetches_what_is_new(tinkex, store, download, target):
    words = ["checkpoint", "sync", RUN, str(target)]
    store.names = ["tar"]
    assert "tinker://" in tinkex(*words).stdout
    assert store.received() > 0
    done = tinkex(*words)
    assert (done.stdout, store.received()) == ("", 0)
    assert "0 downloaded, 1 already present" in done.stderr
    (target / "sampler_weights" / "tar" / SMALL).unlink()
    store.names = ["tar", "gz"]
    rows = tinkex(*words, "-f", "json").rows
    assert [row["status"] for row in rows] == ["fetched", "fetched"]
    assert arrived(target / "sampler_weights" / "tar") == FILES
    (target / "sampler_weights" / "gz" / "tinkex.lock.json").unlink()
    done = tinkex(*words, "-f", "json", code=1)
    assert [row["status"] for row in done.rows] == ["present", "failed"]
    assert tinkex(*words, "--watch", "-f", "json", code=1).stdout == ""


def test_sync_goes_on_after_lost_connections(tinkex, store, download, target):
    store.names = ["tar"]
    process = tinkex.start(f"checkpoint sync {RUN} {target} --watch --interval 1s")
    until((target / "sampler_weights" / "tar" / LARGE).exists)
    store.down = True
    time.sleep(1.5)  # longer than the interval: a look falls into it
    store.names = ["tar", "gz"]
    store.down = False
    until((target / "sampler_weights" / "gz" / LARGE).exists)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout.count("Fetched ") >= 1
    assert stderr.endswith("Checkpoint sync interrupted.\n")
