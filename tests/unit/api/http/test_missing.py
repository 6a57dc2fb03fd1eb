"""What a server lacks is remembered by its client, used, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.dialects.account import KEY
from tests.contract.dialects.official import Official
from tests.contract.dialects.skyrl import SkyRL
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import Scripted, listening
from tinkex.api import ServiceClient
from tinkex.exceptions import NotOffered
from tinkex.settings import Settings


def client_of(url: str) -> ServiceClient:
    return ServiceClient(Settings(base_url=url, api_key=KEY, timeout=10))


def asked(server: Scripted, method: str, path: str) -> int:
    return len(server.requests(method, path))


def test_a_list_that_a_server_lacks_is_requested_once(home: Path):
    server = SkyRL()
    with listening(server) as url, client_of(url) as client:
        for _ in range(3):
            page = client.checkpoints.list()
            assert len(page) == 2
            assert page.note == (
                "This server has no checkpoint list across all runs, so tinkex queried each run."
            )
    assert asked(server, "GET", "checkpoints") == 1
    assert not (home / ".cache").exists()


def test_an_outage_is_not_taken_for_a_lack(monkeypatch: pytest.MonkeyPatch):
    # A gateway that has lost its service answers 404 to everything.
    everything = {f"{method} {path}": 404 for method, _, path, _ in Official._routes}
    monkeypatch.setattr(Official, "lacks", everything)
    with listening(Official()) as url, client_of(url) as client:
        with pytest.raises(NotOffered):
            client.checkpoints.list()
        assert not client._transport.missing


def test_an_archive_is_requested_in_the_form_that_the_server_knows(tmp_path: Path):
    server = SkyRL()
    with listening(server) as url, client_of(url) as client:
        for number in range(3):
            client.checkpoints.download(server.sampling, tmp_path / str(number))
    full = "training_runs/{run}/checkpoints/{kind}/{name}/archive"
    assert asked(server, "GET", full) == 1
    assert asked(server, "GET", "training_runs/{run}/checkpoints/{name}/archive") == 3


def test_a_copy_that_a_server_cannot_make_is_not_requested_again(tmp_path: Path):
    server = TuFT()
    (tmp_path / "host").mkdir()
    server.directory = tmp_path / "host"  # type: ignore[misc]
    with listening(server) as url, client_of(url) as client:
        for number in range(3):
            client.checkpoints.download(server.training, tmp_path / str(number))
    assert asked(server, "POST", "create_session") == 1
    assert asked(server, "POST", "load_weights") == 1


def test_the_end_of_a_session_is_sent_to_servers_that_take_it():
    for server, times in ((SkyRL(), 1), (Official(), 3)):
        with listening(server) as url, client_of(url) as client:
            for _ in range(3):
                client.sessions.create().finish()
        assert asked(server, "POST", "sessions/{session}/finish") == times
