"""What a server lacks is remembered for a day, used, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path

import pytest

from tests.contract.dialects.account import KEY
from tests.contract.dialects.official import Official
from tests.contract.dialects.skyrl import SkyRL
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import Scripted, Seen, detail, listening
from tinkex.api import ServiceClient
from tinkex.api.http.capabilities import ACCOUNT_LIST, EXPIRY, FINISH, KEPT, Capabilities
from tinkex.exceptions import NotOffered
from tinkex.settings import Settings

URL = "https://tinker.test/services/tinker-prod"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "servers"


def only(directory: Path) -> Path:
    (file,) = directory.iterdir()
    return file


def test_a_lack_outlives_the_object_and_a_success_wipes_it(directory: Path):
    Capabilities(URL, directory).missing(ACCOUNT_LIST)
    assert Capabilities(URL, directory).lacks(ACCOUNT_LIST)
    assert not Capabilities(URL, directory).lacks(FINISH)

    Capabilities(URL, directory).offered(ACCOUNT_LIST)

    assert not Capabilities(URL, directory).lacks(ACCOUNT_LIST)
    assert list(directory.iterdir()) == []


def test_servers_are_told_apart(directory: Path):
    Capabilities(URL, directory).missing(ACCOUNT_LIST)

    assert not Capabilities("https://other.test", directory).lacks(ACCOUNT_LIST)
    assert not Capabilities(f"{URL}/staging", directory).lacks(ACCOUNT_LIST)


def test_nothing_is_written_without_a_directory(home: Path):
    known = Capabilities(URL)
    known.missing(ACCOUNT_LIST)

    assert known.lacks(ACCOUNT_LIST)
    assert not Capabilities(URL).lacks(ACCOUNT_LIST)
    assert list(home.rglob("*")) == []


def test_asking_writes_nothing(directory: Path):
    known = Capabilities(URL, directory)
    known.lacks(ACCOUNT_LIST)
    known.offered(ACCOUNT_LIST)

    assert not directory.exists()


def test_the_file_is_private_and_holds_no_address(directory: Path):
    Capabilities("https://ada:secret@tinker.test", directory).missing(ACCOUNT_LIST)

    assert stat.S_IMODE(only(directory).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert json.loads(only(directory).read_text())["missing"].keys() == {ACCOUNT_LIST}
    assert "tinker.test" not in only(directory).name + only(directory).read_text()


@pytest.mark.parametrize("age", [EXPIRY + 1, -3600])
def test_a_lack_is_forgotten_after_a_day_and_none_is_of_the_future(directory: Path, age: float):
    Capabilities(URL, directory).missing(ACCOUNT_LIST)
    only(directory).write_text(json.dumps({"missing": {ACCOUNT_LIST: time.time() - age}}))

    assert not Capabilities(URL, directory).lacks(ACCOUNT_LIST)


def test_a_lack_expires_while_the_object_lives(directory: Path, monkeypatch: pytest.MonkeyPatch):
    known = Capabilities(URL, directory)
    known.missing(ACCOUNT_LIST)
    later = time.time() + EXPIRY + 1
    monkeypatch.setattr(time, "time", lambda: later)

    assert not known.lacks(ACCOUNT_LIST)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"{", b'{"missing": 3}', b'{"missing": {"GET checkpoints": null}}',
        b'{"missing": {"GET checkpoints": NaN}}', b'{"missing": {"GET checkpoints": 1e999}}',
        b"\xff\xfe", b"[" * 10_000, b'{"missing": {"GET checkpoints": ' + b" " * 100_000 + b"1}}",
    ],
)  # fmt: skip
def test_a_damaged_file_counts_as_empty_and_is_replaced(directory: Path, content: bytes):
    Capabilities(URL, directory).missing(FINISH)
    only(directory).write_bytes(content)
    known = Capabilities(URL, directory)

    assert not known.lacks(ACCOUNT_LIST)
    known.missing(ACCOUNT_LIST)
    assert Capabilities(URL, directory).lacks(ACCOUNT_LIST)


@pytest.mark.parametrize("block", ["file in the way", "directory in the way", "no space"])
def test_a_cache_that_cannot_be_written_is_left(
    directory: Path, block: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory.parent.mkdir(parents=True)
    if block == "file in the way":
        directory.write_text("mine")
    elif block == "directory in the way":
        path = Capabilities(URL, directory).path
        assert path is not None
        path.mkdir(parents=True)
    else:
        monkeypatch.setattr(os, "replace", full)
    known = Capabilities(URL, directory)

    known.missing(ACCOUNT_LIST)

    assert known.lacks(ACCOUNT_LIST)
    if directory.is_dir():
        assert [file for file in directory.iterdir() if file.is_file()] == []


def test_the_cache_stays_small(directory: Path):
    known = Capabilities(URL, directory)
    for number in range(KEPT + 10):
        known.missing(f"GET number {number}")
    assert len(json.loads(only(directory).read_text())["missing"]) == KEPT
    long_ago = time.time() - EXPIRY - 10
    os.utime(only(directory), (long_ago, long_ago))

    Capabilities("https://other.test", directory).missing(FINISH)

    assert len(list(directory.iterdir())) == 1


def test_two_processes_do_not_undo_each_other(directory: Path):
    one, other = Capabilities(URL, directory), Capabilities(URL, directory)
    assert not one.lacks(FINISH)
    assert not other.lacks(FINISH)

    one.missing(FINISH)
    other.missing(ACCOUNT_LIST)

    found = Capabilities(URL, directory)
    assert found.lacks(FINISH)
    assert found.lacks(ACCOUNT_LIST)


# ----------------------------------------------------------------- what it is used for


def client_of(url: str, *, remembers: bool = True) -> ServiceClient:
    return ServiceClient(Settings(base_url=url, api_key=KEY, timeout=10), remembers=remembers)


def asked(server: Scripted, method: str, path: str) -> int:
    return len(server.requests(method, path))


def test_a_list_that_a_server_lacks_is_asked_for_once(home: Path):
    server = SkyRL()
    with listening(server) as url:
        for _ in range(3):
            with client_of(url) as client:
                page = client.checkpoints.list()
                assert len(page) == 2
                assert page.note == "This server has no list over all runs; each run was asked."
    assert asked(server, "GET", "checkpoints") == 1
    assert len(list((home / ".cache" / "tinkex" / "servers").iterdir())) == 1


def test_a_list_that_comes_later_is_found_after_a_day(home: Path, monkeypatch: pytest.MonkeyPatch):
    server = SkyRL()
    with listening(server) as url:
        with client_of(url) as client:
            client.checkpoints.list()
        later = time.time() + EXPIRY + 1
        monkeypatch.setattr(time, "time", lambda: later)
        monkeypatch.setattr(SkyRL, "lacks", {})
        with client_of(url) as client:
            assert client.checkpoints.list().note is None
    assert asked(server, "GET", "checkpoints") == 2


def test_an_outage_is_not_taken_for_a_lack(home: Path, monkeypatch: pytest.MonkeyPatch):
    # A gateway that has lost its service answers 404 to everything.
    everything = {f"{method} {path}": 404 for method, _, path, _ in Official._routes}
    monkeypatch.setattr(Official, "lacks", everything)
    with listening(Official()) as url, client_of(url) as client:
        with pytest.raises(NotOffered):
            client.checkpoints.list()
        assert not client._transport.capabilities.lacks(ACCOUNT_LIST)
    assert not (home / ".cache").exists()


def test_the_sdk_keeps_what_it_learns_to_itself(home: Path):
    server = SkyRL()
    with listening(server) as url, client_of(url, remembers=False) as client:
        client.checkpoints.list()
        client.checkpoints.list()
    assert asked(server, "GET", "checkpoints") == 1
    assert not (home / ".cache").exists()


def test_an_archive_is_asked_for_in_the_form_that_the_server_knows(home: Path, tmp_path: Path):
    server = SkyRL()
    with listening(server) as url:
        for number in range(3):
            with client_of(url) as client:
                client.checkpoints.download(server.sampling, tmp_path / str(number))
    full = "training_runs/{run}/checkpoints/{kind}/{name}/archive"
    assert asked(server, "GET", full) == 1
    assert asked(server, "GET", "training_runs/{run}/checkpoints/{name}/archive") == 3


def test_a_copy_that_a_server_cannot_make_is_not_asked_for_again(home: Path, tmp_path: Path):
    server = TuFT()
    (tmp_path / "host").mkdir()
    server.directory = tmp_path / "host"  # type: ignore[misc]
    with listening(server) as url:
        for number in range(3):
            with client_of(url) as client:
                client.checkpoints.download(server.training, tmp_path / str(number))
    assert asked(server, "POST", "create_session") == 1
    assert asked(server, "POST", "load_weights") == 1


def test_what_was_skipped_is_tried_before_a_download_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The server was SkyRL yesterday, and has become another since.
    with listening(SkyRL()) as url, client_of(url) as client:
        with pytest.raises(NotOffered, match="offers no download of training checkpoints"):
            client.checkpoints.download(SkyRL().training, tmp_path / "no")
        learnt = client._transport.capabilities
    archive = "GET training_runs/{run}/checkpoints/{kind}/{name}/archive"
    monkeypatch.setattr(Official, "lacks", {archive: 404})
    server = Official()
    with listening(server) as url, client_of(url, remembers=False) as client:
        client._transport.capabilities = learnt
        done = client.checkpoints.download(server.training, tmp_path / "yes")
    assert done.bytes > 0
    assert asked(server, "POST", "save_weights_external") == 1


def test_the_end_of_a_session_is_told_where_somebody_listens(home: Path):
    for server, times in ((SkyRL(), 1), (Official(), 3)):
        with listening(server) as url:
            for _ in range(3):
                with client_of(url) as client:
                    client.sessions.create()
        assert asked(server, "POST", "sessions/{session}/finish") == times


def test_a_session_that_is_gone_is_no_lack(home: Path, monkeypatch: pytest.MonkeyPatch):
    def gone(self: Official, seen: Seen, session: str) -> None:
        raise detail(404, f"Session {session} not found")

    monkeypatch.setattr(Official, "finish", gone)
    with listening(Official()) as url, client_of(url) as client:
        client.sessions.create().finish()
        assert not client._transport.capabilities.lacks(FINISH)
