"""The staging directory: nothing found on the disk is trusted, and no target holds a mixture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.unit.api.transfer import install_killed as driver
from tests.unit.api.transfer.test_download import FILES, PLACE, SAMPLER, arrived, offer, tar
from tinkex.api import verify
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import archive, manifest, staging
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.progress import Cancelled
from tinkex.api.transfer.staging import PREFIX, StagingDirectory, name_of
from tinkex.api.transfer.state import PartialFile, Segment
from tinkex.exceptions import InvalidResponse, LocalError, NotFound, NotOffered, Unauthorized

NEW, OLD = driver.FILES["new"], driver.FILES["old"]
MINE = {"mine": "mine"}
BEFORE = {"nothing": {}, "foreign": MINE, "another": {**OLD, **MINE}}
OTHER_USER = 4711
PATH = TinkerPath.from_string(SAMPLER)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def stages(target: Path) -> list[Path]:
    return [*target.parent.glob(f"{PREFIX}*"), *target.glob(f"{PREFIX}*")]


@contextmanager
def interrupted(staging: StagingDirectory) -> Iterator[StagingDirectory]:
    """Enter *staging*, and leave it as Ctrl-C does."""
    with pytest.raises(KeyboardInterrupt), staging:  # noqa: PT012
        yield staging
        raise KeyboardInterrupt


def contents(directory: Path) -> dict[str, str | bytes]:
    """Return all that is in *directory*: files with their content, links with where they lead."""
    return {
        str(path.relative_to(directory)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@contextmanager
def refused(root: Path, words: str = "not one of your partial downloads") -> Iterator[None]:
    """Expect an error that names *root* and says what helps."""
    with pytest.raises(LocalError, match=words) as caught:
        yield
    assert str(root) in str(caught.value)
    assert "Delete it" in (caught.value.hint or "")


# What others have planted ----------------------------------------------------------------------


@pytest.fixture
def treasure(tmp_path: Path) -> Iterator[Path]:
    """A home directory that no download may touch: every test that uses it checks that."""
    treasure = tmp_path / "home"
    for name in (".bashrc", "documents/thesis", "file", "archive", "content/more/file"):
        (treasure / name).parent.mkdir(parents=True, exist_ok=True)
        (treasure / name).write_text("mine")
    before = contents(treasure)
    yield treasure
    assert contents(treasure) == before


@pytest.fixture(params=["404", "200"])
def answering(request, server) -> str:
    """Let the server have the checkpoint, or not."""
    if request.param == "200":
        offer(server, tar(FILES))
    else:
        gone = server.reply({"detail": "Checkpoint not found: final"}, 404)
        for place in ("sampler_weights/final", "final"):
            server.on("GET", f"{PLACE}/{place}/archive", gone)
    return request.param


def planted(root: Path, treasure: Path) -> None:
    """Make a directory of the form that downloads had, which leads to the treasure."""
    moves = {"files": ["loot/.bashrc"], "old": ["loot/documents/thesis", "loot/.bashrc"]}
    journal = {"version": 1, "tinker_path": SAMPLER, "placing": moves, "files": {}}
    (root / "content" / "loot").mkdir(parents=True)
    (root / "content" / "loot" / ".bashrc").write_text("evil")
    (root / "archive").symlink_to(treasure)
    (root / "journal.json").write_text(json.dumps(journal))
    (root / "state.json").write_text(json.dumps(journal))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["any", "right"])
def test_a_cloned_repository_cannot_have_files_moved_or_deleted(
    name, force, answering, client, target, treasure
):
    target.mkdir()
    (target / "loot").symlink_to(treasure)
    root = target / (name_of(PATH, target) if name == "right" else f"{PREFIX}0123456789ab")
    planted(root, treasure)
    if name == "right":
        with refused(root):
            client.checkpoints.download(SAMPLER, target, force=force)
    elif answering == "404":
        with pytest.raises(NotFound):
            client.checkpoints.download(SAMPLER, target, force=force)
    else:
        client.checkpoints.download(SAMPLER, target, force=force)
        assert (target / "adapter_config.json").exists()
    assert (root / "journal.json").exists()


@as_root
@pytest.mark.parametrize("plant", ["directory", "link"])
def test_another_user_of_a_shared_directory_cannot_have_files_deleted(
    plant, answering, client, tmp_path, treasure
):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    target = shared / "target"
    root = shared / name_of(PATH, target)
    if plant == "link":
        root.symlink_to(treasure)
    else:
        root.mkdir(mode=0o700)
        (root / "content").symlink_to(treasure)
        (root / "archive").symlink_to(treasure)
        for path in (root / "content", root / "archive"):
            os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)
    os.chown(root, OTHER_USER, OTHER_USER, follow_symlinks=False)
    with refused(root, r"another user|symbolic link"):
        client.checkpoints.download(SAMPLER, target)
    assert os.path.lexists(root)
    assert not target.exists()


def own(root: Path, treasure: Path) -> None:
    """Make a staging directory as a download leaves it."""
    root.mkdir(mode=0o700)
    (root / "content").mkdir()
    (root / "lock").touch()
    record(root)


def record(root: Path, *lines: object, **head: object) -> None:
    """Write the state of *root* to where only this user can."""
    found = root.stat()
    known = {"version": 3, "directory": [found.st_dev, found.st_ino], "copy": None}
    place = staging.log_of(root.name).path
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(line) + "\n" for line in (known | head, *lines)))


def links_to_own(root: Path, treasure: Path) -> None:
    own(root.with_name("elsewhere"), treasure)
    root.symlink_to("elsewhere")


def replace(path: Path, goal: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to(goal)


#: What is done to a staging directory of this user; ``None``: something else has its name.
PLANTED = {
    "symbolic link": lambda root, home: (root / "content" / "a").symlink_to(home / ".bashrc"),
    "linked directory": lambda root, home: replace(root / "content", home),
    "linked lock": lambda root, home: replace(root / "lock", home / ".bashrc"),
    "hard link": lambda root, home: (root / "content" / "a").hardlink_to(home / ".bashrc"),
    "pipe": lambda root, home: os.mkfifo(root / "content" / "a"),
    "open": lambda root, home: root.chmod(0o777),
    "readable": lambda root, home: root.chmod(0o755),
    "foreign": lambda root, home: os.chown(root, OTHER_USER, -1),
    "foreign content": lambda root, home: os.chown(root / "content", OTHER_USER, -1),
    "file": None,
    "link": None,
}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", PLANTED)
def test_a_staging_directory_that_is_not_ours_is_refused(
    name, there, server, client, target, treasure
):
    if name.startswith("foreign") and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    if there:
        target.mkdir()
    root = (target if there else target.parent) / name_of(PATH, target)
    if plant := PLANTED[name]:
        own(root, treasure)
        plant(root, treasure)
    elif name == "file":
        root.write_text("x")
    else:
        links_to_own(root, treasure)
    before = contents(target.parent)
    offer(server, tar(FILES))
    with refused(root):
        client.checkpoints.download(SAMPLER, target, force=True)
    assert contents(target.parent) == before
    assert not server.seen


@pytest.mark.parametrize("copy", [None, "tinker://other/external_weights/download"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_private_directory_that_no_download_of_this_user_has_created_is_refused(
    version, copy, server, client, target, treasure
):
    """As ``tar``, or ``git clone`` with a strict umask, makes one."""
    root = target.parent / name_of(PATH, target)
    root.mkdir(mode=0o700)
    (root / "archive").write_bytes(tar({**FILES, "modeling.py": b"evil"}))
    found = root.stat()
    files = {"archive": [found.st_size, '"1"', [[0, found.st_size, found.st_size]]]}
    state = {"version": version, "directory": [found.st_dev, found.st_ino], "copy": copy}
    (root / "state.json").write_text(json.dumps({**state, "files": files}))
    offer(server, tar(FILES))
    with refused(root, "it contains files of unknown origin"):
        client.checkpoints.download(SAMPLER, target, force=True)
    assert not server.seen


@pytest.mark.parametrize(
    "line",
    [
        {"copy": 7},
        ["../../home/.bashrc", 9, "x", [[0, 4, 9]]],
        ["/etc/passwd", 9, "x", [[0, 4, 9]]],
        *(["archive", 5], 5),
        ["archive", 9, "x", [[0, 10, 9]]],
        ["archive", 9, "x", [[-1, 4, 9]]],
        ["archive", 9, "x", [[0, 1.5, 9]]],
        ["archive", 9, None, [[0, 4, 9]]],
    ],
)
def test_a_state_that_no_download_writes_is_forgotten(line, server, client, target, treasure):
    root = target.parent / name_of(PATH, target)
    own(root, treasure)
    record(root, line)
    (root / "content" / "stale").touch()
    offer(server, tar(FILES))
    client.checkpoints.download(SAMPLER, target)
    assert arrived(target) == FILES
    assert stages(target) == []


def test_only_a_copy_that_a_download_has_made_is_deleted_after_it(server, client, target, treasure):
    path = "tinker://r:train:0/weights/final"
    root = target.parent / name_of(TinkerPath.from_string(path), target)
    own(root, treasure)
    copy = "tinker://r:train:0/external_weights/precious"
    record(root, copy=copy)
    with pytest.raises(NotOffered):
        client.checkpoints.download(path, target)
    assert {seen.method for seen in server.seen} <= {"GET", "POST"}
    assert not any("precious" in seen.path for seen in server.seen)


@pytest.mark.parametrize("there", [True, False])
def test_where_no_directory_is_private_a_download_starts_over_each_time(
    there, server, client, target, treasure, monkeypatch
):
    """As on exFAT, CIFS and some mounts of containers: all is another's, or open to all."""
    if there:
        target.mkdir()
    monkeypatch.setattr(staging, "why_not_private", lambda root: "it belongs to another user")
    home = target if there else target.parent
    path = "tinker://r:train:0/external_weights/final"
    root = home / name_of(TinkerPath.from_string(path), target)
    planted(root, treasure)
    before = contents(root)
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nETag: "1"\r\n\r\n'
    cut, refused = server.reply(raw=head + bytes(200_000)), server.reply(None, 401)
    urls = {"file": f"{server.url}/file"}
    server.on("GET", f"{PLACE}/external_weights/final/external_weights_urls", {"urls": urls})
    server.on("GET", "/file", cut, refused)
    with pytest.raises(Unauthorized) as caught:
        client.checkpoints.download(path, target)
    assert "is not kept" in (caught.value.hint or "")
    assert stages(target) == [root]
    server.on("GET", "/file", server.reply(bytes(300_000)))
    client.checkpoints.download(path, target)
    assert contents(root) == before
    shutil.rmtree(root)
    assert arrived(target) == {"file": bytes(300_000)}
    assert stages(target) == []


def test_what_is_installed_has_the_modes_of_the_umask(server, client, target):
    offer(server, tar({**FILES, "deep/er/file": b"x"}))
    before = os.umask(0o027)
    try:
        client.checkpoints.download(SAMPLER, target)
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in [target, *target.rglob("*")]}
    assert set(modes.values()) == {0o750, 0o640}
    assert all(path.is_dir() == (mode == 0o750) for path, mode in modes.items())


# Links that are swapped in ---------------------------------------------------------------------


@pytest.fixture
def while_it_runs(server) -> Callable[[Callable[[], None]], None]:
    """Return a function that lets something happen when the archive is asked for."""

    def arrange(act: Callable[[], None]) -> None:
        offer(server, None)

        def answer(seen):
            act()
            return server.reply(tar({**FILES, "more/file": b"new"}))

        server.on("GET", "/files/a.tar", answer)

    return arrange


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_directory_in_the_target_that_is_a_link_is_not_followed(
    when, client, target, treasure, while_it_runs
):
    target.mkdir()

    def swap() -> None:
        (target / "more").symlink_to(treasure)

    if when == "before":
        swap()
    while_it_runs(swap if when == "during" else lambda: None)
    with pytest.raises(LocalError, match="more is a symbolic link"):
        client.checkpoints.download(SAMPLER, target, force=True)
    assert set(arrived(target)) == set()


@pytest.mark.parametrize("there", [True, False])
def test_a_staging_directory_that_becomes_a_link_is_not_followed(
    there, client, target, treasure, while_it_runs
):
    if there:
        target.mkdir()

    def swap() -> None:
        (root,) = stages(target)
        root.rename(target.parent / "moved")
        root.symlink_to(treasure)

    while_it_runs(swap)
    client.checkpoints.download(SAMPLER, target)
    assert arrived(target) == {**FILES, "more/file": b"new"}


@pytest.mark.parametrize("there", [True, False])
def test_a_target_that_becomes_a_link_is_not_followed(
    there, client, target, treasure, while_it_runs
):
    moved = target.parent / "moved"
    if there:
        target.mkdir()

    def swap() -> None:
        if there:
            target.rename(moved)
        target.symlink_to(treasure)

    while_it_runs(swap)
    if there:  # what was the target in the beginning still is
        client.checkpoints.download(SAMPLER, target)
        assert arrived(moved) == {**FILES, "more/file": b"new"}
    else:
        with pytest.raises(LocalError, match="created during the download"):
            client.checkpoints.download(SAMPLER, target)


def test_files_that_are_links_are_replaced_themselves(server, client, target, treasure):
    target.mkdir()
    offer(server, tar(FILES))
    (target / "adapter_config.json").symlink_to(treasure / ".bashrc")
    with pytest.raises(LocalError, match="already exists"):
        client.checkpoints.download(SAMPLER, target)
    client.checkpoints.download(SAMPLER, target, force=True)
    assert arrived(target) == FILES


@pytest.mark.parametrize(
    "name", ["../home/.bashrc", "{treasure}/.bashrc", "loot/.bashrc", "loot/documents/thesis"]
)
def test_force_removes_nothing_outside_of_the_target(name, server, client, target, treasure):
    target.mkdir()
    (target / "loot").symlink_to(treasure)
    files = [{"name": name.format(treasure=treasure), "size_bytes": 4, "sha256": None}]
    note = {"version": 1, "tinker_path": SAMPLER, "files": files}
    (target / manifest.NAME).write_text(json.dumps(note))
    offer(server, tar(FILES))
    client.checkpoints.download(SAMPLER, target, force=True)
    assert (target / "adapter_config.json").exists()


def test_a_lock_file_that_is_a_link_names_nothing_to_remove(server, client, target, tmp_path):
    target.mkdir()
    (target / "old").write_text("mine")
    files = [{"name": "old", "size_bytes": 4, "sha256": None}]
    elsewhere = tmp_path / "note"
    elsewhere.write_text(json.dumps({"version": 1, "tinker_path": SAMPLER, "files": files}))
    (target / manifest.NAME).symlink_to(elsewhere)
    offer(server, tar(FILES))
    client.checkpoints.download(SAMPLER, target, force=True)
    assert arrived(target) == {**FILES, "old": b"mine"}


def test_a_target_that_is_a_link_of_this_user_is_followed(server, client, target, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "mine").write_text("mine")
    target.symlink_to(real)
    offer(server, tar(FILES))
    client.checkpoints.download(SAMPLER, target)
    assert arrived(real) == {**FILES, "mine": b"mine"}
    assert target.is_symlink()
    assert stages(real) == []


@pytest.mark.parametrize("goal", ["nowhere", pytest.param("home", marks=as_root)])
def test_a_target_that_is_a_link_to_nowhere_or_of_another_user_is_refused(
    goal, server, client, target, treasure
):
    target.symlink_to(goal)
    if goal == "home":
        os.chown(target, OTHER_USER, OTHER_USER, follow_symlinks=False)
    with pytest.raises(LocalError, match="symbolic link that is broken or owned by another user"):
        client.checkpoints.download(SAMPLER, target, force=True)
    assert not server.seen


def test_files_that_pose_as_a_staging_directory_are_refused(target):
    found = StagingDirectory(driver.NEW, target)
    with found, pytest.raises(InvalidResponse, match="unsafe"):
        found.admit(Path(f"{PREFIX}0/state.json"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "."])
def test_names_that_lead_out_of_a_directory(name, tmp_path):
    with closing(Directory.at(tmp_path)) as directory, pytest.raises(ValueError, match="not below"):
        directory.open(name, "wb")


def test_what_is_not_installed_is_removed(tmp_path):
    with interrupted(StagingDirectory(driver.NEW, tmp_path / "a" / "b")):
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert list(tmp_path.iterdir()) == []


def test_an_extraction_that_outlives_its_attempt_creates_nothing(tmp_path):
    packed = tmp_path / "packed"
    packed.write_bytes(tar({"model": b"x"}))
    with ExitStack() as attempt, open(packed, "rb", buffering=0) as file:
        found = attempt.enter_context(StagingDirectory(driver.NEW, tmp_path / "target"))
        with pytest.raises(Cancelled):
            archive.extract(
                file,
                found.content,
                admit=lambda _: attempt.close(),
                check_space=lambda _: None,
                creating=found.changing,
            )
    assert list(tmp_path.iterdir()) == [packed]


def test_what_an_attempt_in_another_way_has_left_is_not_installed(target):
    with interrupted(StagingDirectory(driver.NEW, target)) as found:
        found.content.open("stale", "wb").close()
        with found.changing("archive", at_once=True):
            found.files["archive"] = PartialFile(9, "x", [Segment(0, 4, 9)])
    assert (stages(target)[0] / "content" / "stale").exists()
    driver.download(target, "nothing")
    assert driver.state(target)["files"] == NEW


# Installing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", BEFORE)
def test_a_kill_at_any_step_leaves_nothing_that_loads_and_the_same_command_finishes_it(
    scenario, tmp_path
):
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
        left = step["left"]
        seen.append("old" if left == before else "new" if left == after else "between")
        if seen[-1] == "between" and "adapter_config.json" in left["files"]:
            assert left["files"] == after["files"]  # the lock file alone is missing
            assert left["lock"] is None
        assert step["after"] in (after, None)
    assert seen == sorted(seen, key=["old", "between", "new"].index)
    assert {"old", "new"} <= set(seen)
    assert ("between" in seen) == (scenario != "nothing")
    assert len(seen) > (2 if scenario == "nothing" else 6)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A target that has another checkpoint."""
    target = tmp_path / "work" / "target"
    driver.prepare(target, "another")
    return target


def interrupted_install(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the new checkpoint over another one, and fail when some files are exchanged."""
    real = os.replace

    def fails(source, goal, **options):
        if str(goal).endswith("safetensors"):
            raise OSError(28, "No space left on device", str(goal))
        return real(source, goal, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(LocalError, match="no space left"):
            driver.download(target, "another")


def test_a_failure_while_files_are_exchanged_is_mended_by_the_same_command(full, monkeypatch):
    interrupted_install(full, monkeypatch)
    left = driver.state(full)
    assert "adapter_config.json" not in left["files"]
    assert left["lock"] is None
    driver.download(full, "another")
    assert driver.state(full) == {"files": {**NEW, **MINE}, "lock": str(driver.NEW)}
    assert not {one.status for one in verify(full)} & {"missing", "changed"}
    assert stages(full) == []


def test_an_earlier_copy_that_is_damaged_stays_known_as_one(full, monkeypatch):
    """So that a synchronisation that was killed may replace it again, without being forced."""
    driver.download(full, "another")
    (full / "adapter_model.safetensors").write_text("damaged")

    interrupted_install(full, monkeypatch)
    left = driver.state(full)
    assert "adapter_config.json" not in left["files"]
    assert left["lock"] == str(driver.NEW)
    assert not manifest.is_complete(full, driver.NEW)


def test_two_checkpoints_that_are_installed_in_one_place_leave_no_mixture(full, monkeypatch):
    def other() -> None:
        with StagingDirectory(driver.OLD, full, force=True) as found:
            found.install(driver.fill(found.content, driver.OLD))

    thread = threading.Thread(target=other)
    real = os.replace

    def replace(source, goal, **options):
        if goal == "adapter_model.safetensors" and not thread.ident:
            thread.start()  # when some files of this one are in place
            thread.join(1)
        return real(source, goal, **options)

    monkeypatch.setattr(os, "replace", replace)
    driver.download(full, "another")
    thread.join()
    found = driver.state(full)
    assert (found["files"], found["lock"]) == ({**OLD, **MINE}, str(driver.OLD))
    assert stages(full) == []
