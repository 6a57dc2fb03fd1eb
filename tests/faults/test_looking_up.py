"""The lookup of a host whose name server does not respond ends at the deadline."""

from __future__ import annotations

import socket
import threading

import pytest

from tinkex.testing import invoke


@pytest.mark.parametrize("base_url", ["https://tinker.example", "https://tinker.example:8443/base"])
def test_the_time_limit_holds_for_looking_up_a_name(base_url, monkeypatch):
    over = threading.Event()

    def for_ever(*_: object, **__: object) -> None:
        over.wait(600)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", for_ever)
    done = invoke(["run", "list", "--base-url", base_url, "--api-key", "k", "--timeout", "500"])
    over.set()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "does not respond" in done.stderr
    assert done.stderr.splitlines()[1].startswith("Hint: ")
