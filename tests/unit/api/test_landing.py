"""A commit of a landing that is interrupted or killed at any step: no directory holds a mixture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.api import commit_killed as driver
from tinkex.api import verify
from tinkex.api.transfer import manifest, placing
from tinkex.api.transfer.stage import Stage, journal_of, place_of
from tinkex.api.transfer.staging import Landing, finish
from tinkex.api.transfer.uncut import Uncut
from tinkex.exceptions import InvalidResponse, LocalError

NEW, OLD = driver.FILES["new"], driver.FILES["old"]
MINE = {"mine": "mine"}
BEFORE = {"nothing": {}, "foreign": MINE, "another": {**OLD, **MINE}}


def stages(target: Path) -> list[Path]:
    return [*target.parent.glob(".tinkex-download-*"), *target.glob(".tinkex-download-*")]


@pytest.mark.parametrize("scenario", BEFORE)
def test_a_commit_killed_at_any_step_leaves_no_mixture_and_is_finished(scenario, tmp_path):
    done = subprocess.run(
        [sys.executable, driver.__file__, str(tmp_path), scenario],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    mine = {} if scenario == "nothing" else MINE
    before = {"files": BEFORE[scenario], "lock": str(driver.OLD) if scenario == "another" else None}
    after = {"files": {**NEW, **mine}, "lock": str(driver.NEW)}
    seen = []
    for step in steps:
        left = {name: step["left"][name] for name in ("files", "lock")}
        if left == before:
            seen.append("old")
        elif left == after:
            seen.append("new")
        else:  # nothing takes it for an adapter, and the work goes on
            seen.append("marked")
            assert left["lock"] is None
            if "adapter_config.json" in left["files"]:  # only the note has gone, or is to come
                assert left["files"] in (before["files"], after["files"])
            assert step["left"]["marked"] == [str(driver.NEW)]
        assert bool(step["after"]) == bool(step["left"]["marked"])
        for end in step["after"]:
            assert end == {**after, "marked": []}
    assert seen == sorted(seen, key=["old", "marked", "new"].index)
    assert {"old", "new"} <= set(seen)
    assert ("marked" in seen) == (scenario != "nothing")
    assert len(seen) > (3 if scenario == "nothing" else 10)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "work" / "target"
    driver.prepare(target, "another")
    return target


@pytest.mark.parametrize("scenario", BEFORE)
def test_ctrl_c_at_any_step_comes_when_all_is_done(scenario, target, monkeypatch):
    left = [-1]

    def heard(real):
        def interrupted(*args, **options):
            thread = threading.current_thread()
            if thread.daemon or thread is threading.main_thread():
                return real(*args, **options)  # nothing is moved yet
            left[0] -= 1
            if left[0] == 0:
                # The main thread gets it, as it does from a terminal, while this one goes on.
                os.kill(os.getpid(), signal.SIGINT)
            return real(*args, **options)

        return interrupted

    for name in ("replace", "rename", "unlink", "rmdir", "fsync"):
        monkeypatch.setattr(os, name, heard(getattr(os, name)))
    for step in range(1, 100):
        driver.prepare(target, scenario)
        left[0] = -1
        try:
            driver.download(target, lambda: left.__setitem__(0, step))  # noqa: B023
        except KeyboardInterrupt:
            assert left[0] <= 0
        else:
            assert left[0] > 0
            break
        found = driver.state(target)
        assert found["files"] == {**NEW, **({} if scenario == "nothing" else MINE)}
        assert found["lock"] == str(driver.NEW)
        assert stages(target) == []
    assert step > 3


def test_ctrl_c_before_the_work_begins_calls_it_off(target, monkeypatch):
    begun = threading.Event()

    def late(self):
        begun.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", late)
    with pytest.raises(KeyboardInterrupt):
        driver.download(target, lambda: None)
    assert begun.is_set()
    found = driver.state(target)
    assert (found["files"], found["lock"]) == ({**OLD, **MINE}, str(driver.OLD))


def test_two_checkpoints_that_are_moved_to_one_place_leave_no_mixture(target, monkeypatch):
    def other() -> None:
        with Landing(driver.OLD, target, force=True) as landing:
            landing.commit(driver.fill(landing.stage.content, driver.OLD))

    thread = threading.Thread(target=other)
    real = os.replace

    def replace(source, goal):
        if str(goal) == str(target / "adapter_config.json") and not thread.ident:
            thread.start()  # when the other files of this one are in place
            thread.join(1)
        return real(source, goal)

    monkeypatch.setattr(os, "replace", replace)
    driver.download(target, lambda: None)
    thread.join()
    found = driver.state(target)
    assert (found["files"], found["lock"]) == ({**OLD, **MINE}, str(driver.OLD))
    assert stages(target) == []


def test_work_called_off_never_begins():
    done = []
    work = Uncut(lambda: done.append(True))
    work.settle()
    work.settle()  # who gives up may ask more than once
    work._work()
    assert done == []


def test_a_move_that_fails_is_finished_by_the_next(target, monkeypatch):
    real = os.replace

    def full(source, goal, **options):
        if str(goal).endswith("safetensors"):
            raise OSError(28, "No space left on device", str(goal))
        return real(source, goal, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(LocalError, match="no space left") as caught:
            driver.download(target, lambda: None)
    assert "the same command goes on from there" in (caught.value.hint or "")
    [row] = verify(target)
    assert (row.status, row.tinker_path, row.file) == ("unfinished", str(driver.NEW), target)
    assert [one.status for one in verify(target.parent)] == ["unfinished"]
    assert finish(target) == [str(driver.NEW)]
    assert driver.state(target)["files"] == {**NEW, **MINE}
    assert {one.status for one in verify(target)} == {"ok", "extra"}
    assert stages(target) == []


def test_a_move_that_another_process_is_at_is_left_to_it(target, tmp_path):
    stage = Stage(place_of(target, driver.NEW, target), driver.NEW)
    placing.note(stage, [Path("x")], [])
    with pytest.raises(LocalError, match="by another process"):
        finish(target)
    stage.close(keep=False)
    assert finish(target) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"files": ["../../stolen"], "old": []},
        {"files": [], "old": ["../../kept"]},
        {"files": ["/etc/x"], "old": []},
        {"files": [7], "old": []},
        {"files": []},
        [],
    ],
)
def test_a_journal_that_leads_elsewhere_is_no_journal(entry, target):
    kept = target.parent.parent / "kept"
    kept.touch()
    root = place_of(target, driver.NEW, target)
    (root / "content").mkdir(parents=True)
    journal = {"version": 1, "tinker_path": str(driver.NEW), "placing": entry}
    (root / "journal.json").write_text(json.dumps(journal))
    assert finish(target) == []
    assert kept.exists()


def test_files_that_pose_as_a_stage_are_refused(target):
    with (
        Landing(driver.NEW, target, force=True) as landing,
        pytest.raises(InvalidResponse, match="unsafe"),
    ):
        landing.admit(Path(".tinkex-download-0/journal.json"))


def test_a_download_that_was_half_moved_needs_no_network(client, server, target):
    stage = Stage(place_of(target, driver.NEW, target), driver.NEW)
    placing.note(stage, driver.fill(stage.content, driver.NEW), [Path("old.bin")])
    (target / manifest.NAME).unlink()
    (target / "more").mkdir()
    stage.close(keep=True)
    done = client.checkpoints.download(str(driver.NEW), target)
    assert [name for name, _ in done.files] == sorted(NEW)
    assert done.bytes == sum(map(len, NEW.values()))
    assert driver.state(target)["files"] == {**NEW, **MINE}
    assert not server.seen


def test_what_is_forgotten_is_not_found_by_the_next_process(tmp_path):
    stage = Stage(tmp_path / "stage", driver.NEW)
    with stage.changing(at_once=True) as journal:
        journal["archive"] = {"member": ["f", 512, 1]}
    stage.clear()
    assert journal_of(stage.root) == {"version": 1, "tinker_path": str(driver.NEW)}
    stage.close(keep=False)
