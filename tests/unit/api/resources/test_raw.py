"""Any request: below the base URL only, its pages joined."""

from __future__ import annotations

import pytest
import responses

from tests.unit.api.conftest import API, BASE, KEY
from tinkex.exceptions import InvalidResponse, UsageError


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("training_runs", f"{API}/training_runs"),
        ("training_runs/a:train:0", f"{API}/training_runs/a:train:0"),
        ("x y", f"{API}/x%20y"),
        ("x%2Fy", f"{API}/x%2Fy"),
        ("/api/v1/healthz", f"{BASE}/api/v1/healthz"),
        ("/oai/api/v1/models", f"{BASE}/oai/api/v1/models"),
        (f"{BASE}/api/v1/x", f"{BASE}/api/v1/x"),
        ("/@evil.test", f"{BASE}/@evil.test"),
    ],
)
@responses.activate
def test_where_a_path_leads(connect, path, url):
    responses.get(url, json={"ok": True})
    assert connect().request("get", path).json() == {"ok": True}
    assert responses.calls[0].request.headers["X-API-Key"] == KEY


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "..", "../../oauth", "a/../../b", "%2e%2e/x", "a/%2E%2E/b", "a\\..\\b"),
        *("//evil.test/x", "https://evil.test/api/v1/x", "http://[::1/x", "file:///etc/passwd"),
        *("https://tinker.test/services/tinker-prod/x", f"{BASE}.evil.test/x", f"{BASE}evil/x"),
        *("http://tinker.test:81/services/tinker-prod/x", "http://tinker.test:99999/x"),
        *("tinker://run/weights/a", "a#b", "a\nb", "a\x00b"),
    ],
)
@responses.activate
def test_paths_that_lead_elsewhere_are_not_sent(connect, path):
    with pytest.raises(UsageError):
        connect().request("GET", path)
    assert len(responses.calls) == 0


def test_query_body_and_headers(client, server):
    server.on("POST", "x", {})
    client.request("POST", "x?a=1&b=", body={"c": [1]}, params={"d": 2}, headers={"X-Y": "z"})
    (seen,) = server.seen
    assert seen.query == {"a": "1", "d": "2"}  # an empty value is not shown by the server here
    assert (seen.body, seen.headers["x-y"]) == ({"c": [1]}, "z")
    assert seen.headers["content-type"] == "application/json"
    headers = {"X-API-Key": "other", "Content-Type": "text/x"}  # nothing replaces the key
    client.request("POST", "x", body=b'{"a": 1}', headers=headers)
    seen = server.seen[-1]
    assert (seen.headers["x-api-key"], seen.headers["content-type"]) == (KEY, "text/x")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        *(
            ({"headers": headers}, "header")
            for headers in ({"": "x"}, {"X Y": "x"}, {"X": "a\r\nY: b"}, {"X": "…"}, {"ä": "x"})
        ),
        *(({"params": {"q": value}}, "Unicode") for value in ("\udcff", ["a", "\udcff"])),
        *(({"method": method}, "method") for method in ("", "G T", "GET\r\nX: y", "ä")),
        ({"method": "DELETE", "paginate": True}, "can be paginated"),
        ({"params": {"limit": "many"}, "paginate": True}, "limit"),
    ],
)
def test_what_cannot_be_sent(client, server, argument, said):
    with pytest.raises(UsageError, match=said):
        client.request(**{"method": "GET", "path": "x", **argument})
    assert not server.seen


def paged(server, total, *, reported=True, ignores_offset=False, most=1000):
    def reply(seen):
        start = 0 if ignores_offset else int(seen.query["offset"])
        items = list(range(start, min(start + min(int(seen.query["limit"]), most), total)))
        cursor = {"cursor": {"offset": start, "total_count": total}} if reported else {}
        return server.reply({"items": items, "more": 1, **cursor})

    server.on("GET", "things", reply)


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("total", [0, 1, 100, 101, 250])
def test_pages_by_offset_are_joined(client, server, total, reported):
    paged(server, total, reported=reported)
    answer = client.request("GET", "things", paginate=True).json()
    assert answer == {"items": list(range(total)), "more": 1}


@pytest.mark.parametrize("total", [0, 150])
def test_a_limit_of_zero_means_all_as_everywhere(client, server, total):
    paged(server, total, reported=False)
    answer = client.request("GET", "things?limit=0", paginate=True).json()
    assert answer["items"] == list(range(total))
    assert len(server.seen) < 4


def test_a_name_may_be_in_the_query_several_times(connect):
    with responses.RequestsMock() as mock:
        mock.get(f"{API}/x?tag=a&tag=b&c=1", json={})
        connect().request("GET", "x?tag=a&c=1&tag=b")
        assert mock.calls[0].request.url == f"{API}/x?tag=a&tag=b&c=1"


def test_pages_by_cursor_are_joined(client, server):
    server.on(
        "POST",
        "find",
        {"items": [1], "next_cursor": {"at": 1}},
        {"items": [2], "next_cursor": None},
    )
    answer = client.request("POST", "find", body={"q": "x"}, paginate=True).json()
    assert answer == {"items": [1, 2]}
    assert [seen.body for seen in server.seen] == [{"q": "x"}, {"q": "x", "cursor": {"at": 1}}]


@pytest.mark.parametrize("answer", [{"a": 1}, {"a": [], "b": []}, [1], "x"])
def test_what_has_no_pages(client, server, answer):
    server.on("GET", "x", server.reply(answer))
    with pytest.raises(InvalidResponse) as caught:
        client.request("GET", "x", paginate=True)
    assert (caught.value.category == "user") is isinstance(answer, dict)
