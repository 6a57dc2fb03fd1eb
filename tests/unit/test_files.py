"""Files: writes that lose nothing, private directories, locks."""

from __future__ import annotations

import os
import stat

import pytest

from tinkex.exceptions import LocalError
from tinkex.files import (
    acquire_lock,
    check_writable,
    private_directory,
    read_bytes,
    replacing,
    write_atomically,
    xdg_directory,
)


def test_files_are_replaced_links_followed_and_devices_written_directly(tmp_path):
    path = tmp_path / "new" / "dir" / "f.json"
    write_atomically(str(path), "one")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    for target in (path, tmp_path / "link"):
        write_atomically(str(target), target.name)
        assert path.read_text() == target.name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.listdir(path.parent) == ["f.json"]
    assert (tmp_path / "link").is_symlink()
    write_atomically("/dev/null", "text")
    with pytest.raises(LocalError, match="No space left"):
        write_atomically("/dev/full", "text")


def test_check_writable(tmp_path):
    (tmp_path / "file").write_text("")
    for path, what in (
        (tmp_path, "it is a directory"),
        (tmp_path / "file" / "below", "is not a directory"),
        ("-", "cannot write its output to standard output"),
    ):
        with pytest.raises(LocalError, match=what):
            check_writable(str(path))
    check_writable(str(tmp_path / "not" / "yet" / "f"))
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    (tmp_path / "soft").symlink_to("file")
    for name, source in (("file", "file"), ("hard", "file"), ("soft", "file"), ("new", ".")):
        with pytest.raises(LocalError, match="it is part of the input"):
            check_writable(str(tmp_path / name), None, "-", str(tmp_path / source))
    check_writable("/dev/null", "/dev/null")
    check_writable(str(tmp_path / "new"), str(tmp_path / "none"))


def test_input_is_bounded(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 11)
    assert read_bytes(str(tmp_path / "f"), None, 11) == b"x" * 11
    with pytest.raises(LocalError, match="longer than 10 bytes"):
        read_bytes(str(tmp_path / "f"), None, 10)
    with pytest.raises(LocalError, match="longer than"):
        read_bytes("/dev/zero", None, 1000)
    with pytest.raises(LocalError, match="closed"):
        read_bytes("-", None)


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [(None, None, 0o640), (None, 0o600, 0o600), (0o664, None, 0o664), (0o644, 0o600, 0o600)],
)
def test_permissions_of_what_takes_the_place(tmp_path, before, asked, after):
    path = tmp_path / "f"
    if before is not None:
        path.touch()
        path.chmod(before)
    old = os.umask(0o027)
    try:
        with replacing(path, mode=asked) as stream:
            (new,) = set(tmp_path.iterdir()) - {path}
            seen = stat.S_IMODE(new.stat().st_mode)
            stream.write(b"new")
    finally:
        os.umask(old)

    assert stat.S_IMODE(path.stat().st_mode) == seen == after
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("durable", [True, False])
def test_what_is_broken_off_leaves_nothing(tmp_path, durable, error):
    path = tmp_path / "f"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path, durable=durable) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_private_directory_is_created_once_and_used_again(tmp_path):
    path = tmp_path / "a" / "b"
    old = os.umask(0)
    try:
        assert private_directory(path) == private_directory(path) == path
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        ("open", "other users can access it"),
        ("link", "not a directory"),
        ("file", "not a directory"),
    ],
)
def test_what_another_user_may_have_planted_is_refused(tmp_path, planted, reason):
    private_directory(tmp_path / "mine")
    path = tmp_path / "d"
    if planted == "open":
        path.mkdir(mode=0o755)
    elif planted == "link":
        path.symlink_to("mine")
    else:
        path.touch()
    with pytest.raises(LocalError, match=reason) as caught:
        private_directory(path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_the_directory_of_another_user_is_refused(tmp_path):
    os.chown(private_directory(tmp_path / "theirs"), 12345, -1)
    with pytest.raises(LocalError, match="belongs to another user"):
        private_directory(tmp_path / "theirs")


@pytest.mark.parametrize("kind", ["config", "data", "state", "cache"])
def test_base_directories(kind, monkeypatch):
    variable = f"XDG_{kind.upper()}_HOME"
    assert str(xdg_directory(kind, {variable: "/there"})) == "/there"
    monkeypatch.setenv("HOME", "/home/ada")
    assert str(xdg_directory(kind, {})).startswith("/home/ada/.")


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    path = tmp_path / "f"
    with path.open("w") as one, path.open("w") as other:
        assert acquire_lock(one)
        assert not acquire_lock(other)
        one.close()
        assert acquire_lock(other, timeout=None)
