"""Sessions: heartbeats and their end, lists, the search, and the trace."""

from __future__ import annotations

import threading

import pytest

from tests.until import until
from tinkex.api import SessionQuery
from tinkex.api.resources import sessions
from tinkex.exceptions import (
    Forbidden,
    InvalidResponse,
    LocalError,
    NotFound,
    OperationFailed,
    TimedOut,
    TransportError,
    UsageError,
)

SEARCH = "sessions/search"
SUMMARY = {"session_id": "s-1", "created_at": "2026-11-01T10:00:00Z", "checkpoints_count": 2}


@pytest.fixture
def service(server, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.02)
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    return server


def finished(service) -> list[dict]:
    return [seen.body["reason"] for seen in service.requests("sessions/s-1/finish")]


def heartbeats() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tinkex-heartbeat"}


@pytest.mark.parametrize("status", [200, 410, 404, 500])
def test_heartbeats_continue_until_the_session_is_finished_or_gone(status, service, client):
    service.on("POST", "session_heartbeat", service.reply({}, status))
    before = heartbeats()
    session = client.sessions.create()
    if status == 410:
        until(lambda: service.requests("session_heartbeat") and not heartbeats() - before)
        assert len(service.requests("session_heartbeat")) == 1
        return
    until(lambda: len(service.requests("session_heartbeat")) >= 3)
    assert service.requests("session_heartbeat")[0].body == {"session_id": "s-1"}
    session.finish("errored")
    session.finish()
    until(lambda: not heartbeats() - before)
    assert finished(service) == [{"type": "errored"}]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "success"), (ValueError, "errored"), (KeyboardInterrupt, "interrupted")],
)
def test_the_outcome_of_a_block_is_reported(error, outcome, service, connect):
    try:
        with connect(service.url) as client:
            client.sessions.create()
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert finished(service) == [{"type": outcome}]


def test_sessions_are_finished_where_no_thread_can_be_started(service, connect, monkeypatch):
    client = connect(service.url)
    client.sessions.create()
    start = threading.Thread.start

    def refuse(thread):  # as Python 3.12 does once the main thread has ended
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client.close()
    assert len(finished(service)) == 1


@pytest.mark.parametrize(
    ("endpoint", "method", "argument"),
    [
        ("create_sampling_session", "create_sampling_client", {"base_model": "m"}),
        ("create_model", "create_lora_training_client", {"base_model": "m"}),
        (
            "load_weights",
            "create_training_client_from_checkpoint",
            {"path": "tinker://r/weights/a"},
        ),
    ],
)
def test_a_session_is_finished_when_its_client_cannot_be_created(
    endpoint, method, argument, service, client
):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 8})
    service.on("POST", endpoint, service.reply({"detail": "no such thing"}, 403))
    before = heartbeats()
    with pytest.raises(Forbidden):
        getattr(client, method)(**argument)
    until(lambda: not heartbeats() - before)
    assert finished(service) == [{"type": "errored"}]


def test_project_and_tags_come_from_the_settings(service, connect):
    client = connect(service.url, project_id="p1", tags=("a", "b"))
    client.sessions.create(user_metadata={"k": "v"})
    (seen,) = service.requests("create_session")
    assert seen.body.items() >= {"project_id": "p1", "tags": ["a", "b"]}.items()
    assert seen.body["user_metadata"] == {"k": "v"}


# Lists and the search ------------------------------------------------------------------------


def test_sessions_are_listed_and_shown(paged, client, server):
    paged("sessions", [f"s-{n}" for n in range(130)], total=False)
    assert len(client.sessions.list(None)) == 130
    assert client.sessions.list(2, 5) == ["s-5", "s-6"]
    client.sessions.list(1, accessible=True)
    scopes = [server.seen[n].query.get("access_scope") for n in (0, -1)]
    assert scopes == [None, "accessible"]

    known = {"training_run_ids": ["r"], "sampler_ids": [], "user_metadata": {"a": "b"}}
    server.on("GET", "sessions/s-1", known)
    server.on("GET", "sessions/s-2", server.reply({"detail": "Session s-2 is gone"}, 404))
    session = client.sessions.get("s-1")
    assert session.training_run_ids == ("r",)
    assert (session.display_name, session.user_metadata) == (None, {"a": "b"})
    assert list(client.sessions.get_many(["s-1", "s-2", "s-3"])) == ["s-1"]
    with pytest.raises(NotFound, match="s-2 is gone") as raised:
        client.sessions.get("s-2")
    assert raised.value.resource == "session"
    for name in ("", "..", "a\nb"):
        with pytest.raises(UsageError):
            client.sessions.get(name)


def test_a_search_passes_the_cursor_back_unchanged(client, server):
    cursor = {"last_created_at": "2026-11-01T10:00:00.000001Z", "last_session_id": "s-1"}
    last = {"sessions": [SUMMARY | {"session_id": "s-0"}], "next_cursor": None}
    server.on("POST", SEARCH, {"sessions": [SUMMARY], "next_cursor": cursor}, last)
    page = client.sessions.search(None, None)
    assert [session.session_id for session in page] == ["s-1", "s-0"]
    assert page.total == 2
    first, second = (seen.body for seen in server.seen)
    assert (first.get("cursor"), second["cursor"]) == (None, cursor)
    assert first["owner"] == {"type": "own"}


@pytest.mark.parametrize(("limit", "found", "requests"), [(1, [SUMMARY], 1), (None, [], 2)])
def test_a_search_ends_at_its_limit_or_at_a_repeated_cursor(client, server, limit, found, requests):
    server.on("POST", SEARCH, {"sessions": found, "next_cursor": {"last_session_id": "x"}})
    page = client.sessions.search(None, limit)
    assert (len(page), page.total) == (len(found), None)
    assert len(server.seen) == requests


def test_conditions_of_a_search(client, server):
    server.on("POST", SEARCH, {"sessions": []})
    same = {"display_name": "sweep lr", "session_id": "s", "user_metadata": {"a": "b"}}
    query = SessionQuery(
        **same, project_ids=["p"], owners=["u1", "u2"], statuses=["failed", "errored"]
    )
    client.sessions.search(query, 5)
    assert server.seen[0].body == same | {
        "project_ids": ["p"],
        "owner": {"type": "user", "owner_urns": ["u1", "u2"]},
        "statuses": [{"type": "failed"}, {"type": "client_finished", "reasons": ["errored"]}],
        "limit": 5,
    }
    for query in (
        SessionQuery(owners=["u"], accessible=True),
        SessionQuery(statuses=["asleep"]),
    ):
        with pytest.raises(UsageError):
            client.sessions.search(query)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, (None, None)),
        ({"type": "active"}, ("active", None)),
        ({"type": "cancelled", "detail": "by Ada"}, ("cancelled", "by Ada")),
        ({"type": "failed", "category": "user", "message": "no memory"}, ("failed", "no memory")),
        ({"type": "client_finished", "reason": {"type": "errored"}}, ("errored", None)),
        ({"type": "client_finished"}, ("finished", None)),
        ({"type": "something new"}, ("something new", None)),
    ],
)
def test_statuses(client, server, status, expected):
    server.on("POST", SEARCH, {"sessions": [SUMMARY | {"status": status}]})
    (session,) = client.sessions.search()
    assert (session.status, session.message) == expected


def test_an_odd_time_does_not_fail_a_search(client, server):
    rows = [SUMMARY | {"created_at": "x"}, SUMMARY | {"created_at": 1763805600.5}]
    server.on("POST", SEARCH, {"sessions": rows})
    assert [s.created_at and s.created_at.hour for s in client.sessions.search()] == [None, 10]


# Traces --------------------------------------------------------------------------------------

TRACE = "sessions/s-1/trace_export"


@pytest.mark.parametrize(
    ("method", "path", "response"),
    [
        *(
            ("search", SEARCH, {"sessions": sessions})
            for sessions in (
                3,
                [{}],
                [SUMMARY | {"status": "active"}],
            )
        ),
        *(
            ("trace_url", TRACE, {"status": "ready", "url": url})
            for url in (None, 3, "http://[bad")
        ),
        ("trace_url", TRACE, {"status": "baking"}),
        ("search", SEARCH, {"sessions": [], "next_cursor": "x"}),
        ("get", "sessions/s-1", {}),
    ],
)
def test_unexpected_responses(client, server, method, path, response):
    server.on("POST" if method == "search" else "GET", path, response)
    with pytest.raises(InvalidResponse):
        getattr(client.sessions, method)(*([] if method == "search" else ["s-1"]))
    assert len(server.seen) == 1


def test_a_trace_is_awaited_and_downloaded_or_its_failure_reported(
    connect, server, naps, waits, tmp_path
):
    client = connect(server.url, timeout=12.0)
    pending, url = {"status": "pending"}, f"{server.url}/api/v1/files/trace?signature=x"
    server.on("GET", TRACE, pending, pending, {"status": "ready", "url": url})
    server.on("GET", "files/trace", b"perfetto")
    done = client.sessions.export_trace("s-1", tmp_path / "new" / "t.pftrace")
    assert (done.path.read_bytes(), done.size_bytes) == (b"perfetto", 8)
    assert [p.name for p in done.path.parent.iterdir()] == ["t.pftrace"]
    assert waits[0].operation == "the trace"
    assert waits[0].reason == "the service is building the trace"
    server.on("GET", TRACE, {"status": "failed", "error": "too old"}, pending)
    with pytest.raises(OperationFailed, match="too old"):
        client.sessions.trace_url("s-1")
    with pytest.raises(TimedOut, match="the trace"):
        client.sessions.trace_url("s-1")


def test_an_existing_file_stays_unless_forced_and_complete(client, server, tmp_path):
    target = tmp_path / "t.pftrace"
    target.write_bytes(b"old")
    assert sessions.default_name("a/../b c") == "a_.._b_c.pftrace"  # in this directory
    with pytest.raises(LocalError, match="exists"):
        client.sessions.export_trace("s-1", target)
    with pytest.raises(LocalError, match="directory"):
        client.sessions.export_trace("s-1", tmp_path, force=True)
    assert server.seen == []
    for url in ("file:///etc/passwd", "ftp://host/x", "data:,x"):
        server.on("GET", TRACE, {"status": "ready", "url": url})
        with pytest.raises(InvalidResponse):
            client.sessions.export_trace("s-1", target, force=True)
    server.on("GET", TRACE, {"status": "ready", "url": f"{server.url}/api/v1/files/trace"})
    cut = server.reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnew")
    server.on("GET", "files/trace", cut)
    with pytest.raises(TransportError):
        client.sessions.export_trace("s-1", target, force=True)
    assert target.read_bytes() == b"old"
    server.on("GET", "files/trace", b"new")
    client.sessions.export_trace("s-1", target, force=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("t.pftrace", b"new")]
