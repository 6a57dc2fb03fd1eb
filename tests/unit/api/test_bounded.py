"""The adapter keeps what is the same for every request to a host, and no more than that."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from requests.adapters import HTTPAdapter

from tinkex.api.http import adapter as bounded
from tinkex.api.http.adapter import BoundedAdapter

PROXY = {"http": "http://127.0.0.1:9", "https": "http://127.0.0.1:9"}


def request(url: str) -> requests.PreparedRequest:
    return requests.Request("GET", url).prepare()


def pool(adapter: BoundedAdapter, url: str, **options: object):
    return adapter.get_connection_with_tls_context(request(url), **{"verify": True, **options})


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.path.encode()
            self.send_response(200, "Fine")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Set-Cookie", "a=b")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_host_has_one_pool():
    adapter = BoundedAdapter()

    assert pool(adapter, "http://a.test/x") is pool(adapter, "http://a.test/y?z=1")


@pytest.mark.parametrize(
    "other", ["http://b.test/x", "https://a.test/x", "http://a.test:81/x"], ids=str
)
def test_another_host_scheme_or_port_has_another(other: str):
    adapter = BoundedAdapter()

    assert pool(adapter, "http://a.test/x") is not pool(adapter, other)


def test_checks_of_certificates_are_never_those_of_another_request():
    adapter = BoundedAdapter()
    checked = pool(adapter, "https://a.test/", verify=True)
    unchecked = pool(adapter, "https://a.test/", verify=False)

    assert unchecked is not checked
    assert pool(adapter, "https://a.test/", verify=True) is checked
    assert unchecked.cert_reqs in ("CERT_NONE", ssl.CERT_NONE, None)


def test_a_proxy_is_never_passed_by():
    adapter = BoundedAdapter()
    direct = pool(adapter, "http://a.test/")
    through = pool(adapter, "http://a.test/", proxies=PROXY)

    assert through is not direct
    assert through.host == "127.0.0.1"
    assert adapter.request_url(request("http://a.test/x"), PROXY) == "http://a.test/x"
    assert adapter.request_url(request("http://a.test/x?y=1"), {}) == "/x?y=1"


@pytest.mark.parametrize("path", ["/x?y=1", "//b.test/x", "", "/%2F/ü"])
def test_the_path_that_is_asked_for_is_that_of_requests(path: str):
    asked = request(f"http://a.test{path}")

    assert BoundedAdapter().request_url(asked, {}) == HTTPAdapter().request_url(asked, {})


def test_a_pool_that_was_closed_to_make_room_is_made_again(server: str):
    session = requests.Session()
    session.mount("http://", BoundedAdapter(pool_connections=1))
    assert session.get(f"{server}/one").text == "/one"
    adapter = session.get_adapter(server)
    pool(adapter, "http://a.test/")  # the manager has room for one

    assert session.get(f"{server}/two").text == "/two"


def test_a_closed_adapter_opens_again(server: str):
    adapter = BoundedAdapter()
    first = adapter.send(request(f"{server}/one"))
    first.close()
    adapter.close()

    assert adapter.send(request(f"{server}/two")).content == b"/two"


def test_pools_of_many_hosts_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded, "_HOSTS", 3)
    adapter = BoundedAdapter()
    for number in range(20):
        pool(adapter, f"http://host-{number}.test/")

    assert len(adapter._direct) <= 3


def test_a_response_is_that_of_requests_without_its_cookies(server: str):
    response = BoundedAdapter().send(request(f"{server}/x"))

    assert (response.status_code, response.reason, response.ok) == (200, "Fine", True)
    assert response.headers["content-length"] == "2"
    assert response.url == f"{server}/x"
    assert response.content == b"/x"
    assert not response.cookies
