"""A proxy that refuses or is set wrongly is reported at once, and by its name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tinkex.exceptions import ConnectionFailed, SettingsError, TinkexError, Unreachable

HOST = "tinker.example.test"
Proxy = Callable[[str], str]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Return a function that starts a proxy which says one line; it returns its address."""
    listening: list[socket.socket] = []

    def serve(line: str) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listening.append(listener)

        def run() -> None:
            while True:
                try:
                    peer = listener.accept()[0]
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in listening:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    ("line", "user", "scheme", "message"),
    [
        ("407 Proxy Authentication Required", "", "https", "requires a user name and password"),
        ("407 Proxy Authentication Required", "", "http", "requires a user name and password"),
        ("407 No", "me:pass-word@", "https", "rejected the user name and password"),
        ("403 Forbidden", "", "https", f"rejected the connection to {HOST}"),
    ],
)
def test_a_proxy_that_refuses_is_reported_at_once_with_its_number(
    line, user, scheme, message, proxy, connect, monkeypatch, naps
):
    address = proxy(line)
    monkeypatch.setenv(f"{scheme}_proxy", f"http://{user}{address}")
    with pytest.raises(SettingsError) as caught:
        connect(f"{scheme}://{HOST}").models.list()
    assert str(caught.value) == f"the HTTP proxy {message} ({line[:3]})"
    assert f"The proxy http://{address} is set in {scheme}_proxy" in str(caught.value.hint)
    assert "pass-word" not in str(caught.value.hint)
    assert naps == []


def test_a_proxy_that_is_not_set_is_not_said_to_be(server, client):
    server.on("GET", "get_server_capabilities", server.reply(None, 407))
    with pytest.raises(SettingsError, match=r"requires a user name and password \(407\)") as caught:
        client.models.list()
    assert "No proxy is configured for this URL" in str(caught.value.hint)


def test_a_proxy_that_does_not_reach_the_server_is_asked_again(
    proxy, connect, monkeypatch, naps, waits
):
    monkeypatch.setenv("https_proxy", f"http://{proxy('502 Bad Gateway')}")
    with pytest.raises(ConnectionFailed, match=r"cannot reach tinker.example.test \(502\)"):
        connect(f"https://{HOST}", timeout=1000).models.list()
    assert len(naps) == 5


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("http://127.0.0.1:1", Unreachable, "the HTTP proxy http://127.0.0.1:1 for"),
        ("nowhere.invalid:3128", Unreachable, "failed: cannot resolve the proxy's host name"),
        ("http://me:se#cret@127.0.0.1:1", SettingsError, "proxy URL: http://127.0.0.1:1"),
        ("ftp://proxy.test:1", SettingsError, "proxy URL: ftp://proxy.test:1"),
        ("proxy.test:99999", SettingsError, "proxy URL: proxy.test:99999"),
        ("https://PROXY", SettingsError, "does not support TLS"),
    ],
)
def test_a_wrong_proxy_setting_names_the_proxy(
    setting, error, message, proxy, connect, monkeypatch, naps
):
    setting = setting.replace("PROXY", proxy("200 OK"))
    monkeypatch.setenv("HTTPS_PROXY", setting)
    with pytest.raises(TinkexError, match=message) as caught:
        connect(f"https://{HOST}").models.list()
    assert type(caught.value) is error
    assert setting.rpartition("@")[2] in str(caught.value.hint)
    assert "is set in HTTPS_PROXY" in str(caught.value.hint)
    assert "cret" not in f"{caught.value}{caught.value.hint}"
