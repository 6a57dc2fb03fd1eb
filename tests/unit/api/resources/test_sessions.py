"""Sessions: heartbeats and their end, lists, the search, and the trace."""

from __future__ import annotations

import threading

import pytest

from tests.until import until
from tinkex.api import SessionQuery
from tinkex.api.resources import sessions
from tinkex.api.resources.sessions import default_name
from tinkex.exceptions import (
    Forbidden,
    InvalidResponse,
    LocalError,
    NotFound,
    NotOffered,
    OperationFailed,
    TimedOut,
    UsageError,
)


@pytest.fixture
def service(server):
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    return server


def heartbeats() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tinkex-heartbeat"}


def test_heartbeats_continue_until_the_session_is_finished(service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.05)
    before = heartbeats()
    session = client.sessions.create()
    until(lambda: len(service.requests("session_heartbeat")) >= 3)
    assert service.requests("session_heartbeat")[0].body == {"session_id": "s-1"}
    session.finish("errored")
    session.finish()
    until(lambda: not heartbeats() - before)
    assert [s.body for s in service.requests("sessions/s-1/finish")] == [
        {"reason": {"type": "errored"}}
    ]


@pytest.mark.parametrize(("status", "ends"), [(410, True), (404, False), (500, False)])
def test_only_410_ends_the_heartbeats(status, ends, service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.02)
    service.on("POST", "session_heartbeat", service.reply("x", status))
    before = heartbeats()
    client.sessions.create()
    if ends:
        until(lambda: service.requests("session_heartbeat") and not heartbeats() - before)
        assert len(service.requests("session_heartbeat")) == 1
    else:
        until(lambda: len(service.requests("session_heartbeat")) >= 3)
        assert heartbeats() - before


def test_a_listener_that_fails_does_not_end_the_heartbeats(service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.02)
    monkeypatch.setattr(sessions, "_WORRY", 0.01)
    service.on("POST", "session_heartbeat", service.reply("x", 500))
    told = []

    def listen(wait):
        told.append(wait)
        raise BrokenPipeError

    client._transport._on_wait = listen
    client.sessions.create()
    until(lambda: len(told) >= 2)


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_server_that_does_not_offer_finishing_is_no_error(status, service, client):
    service.on("POST", "sessions/s-1/finish", service.reply({"detail": "Not Found"}, status))
    client.sessions.create().finish()
    assert len(service.requests("sessions/s-1/finish")) == 1


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
    (finish,) = service.requests("sessions/s-1/finish")
    assert finish.body == {"reason": {"type": outcome}}


def test_sessions_are_finished_concurrently(service, connect, monkeypatch):
    monkeypatch.setattr(sessions, "_FAREWELL", 60.0)
    together = threading.Barrier(6)

    def finish(_):
        together.wait(60)
        return service.reply({})

    for number in range(6):
        service.on("POST", f"sessions/s-{number}/finish", finish)
    names = [{"session_id": f"s-{number}"} for number in range(6)]
    service.on("POST", "create_session", *names)
    client = connect(service.url)
    for _ in names:
        client.sessions.create()
    client.close()
    assert len([seen for seen in service.seen if seen.path.endswith("/finish")]) == 6
    assert not together.broken


def test_sessions_are_finished_where_no_thread_can_be_started(service, connect, monkeypatch):
    client = connect(service.url)
    client.sessions.create()
    until(lambda: service.requests("create_session"))
    # As Python 3.12 does once the main thread is over.
    start = threading.Thread.start

    def refuse(thread):
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client.close()
    assert len(service.requests("sessions/s-1/finish")) == 1


@pytest.mark.parametrize(
    ("endpoint", "start"),
    [
        ("create_sampling_session", lambda c: c.create_sampling_client(base_model="m")),
        ("create_model", lambda c: c.create_lora_training_client("m")),
        (
            "load_weights",
            lambda c: c.create_training_client_from_checkpoint("tinker://r/weights/a"),
        ),
    ],
)
def test_a_session_is_finished_when_its_client_cannot_be_created(endpoint, start, service, client):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 8})
    service.on("POST", endpoint, service.reply({"detail": "no such thing"}, 403))
    before = heartbeats()

    with pytest.raises(Forbidden):
        start(client)

    until(lambda: not heartbeats() - before)
    assert [s.body for s in service.requests("sessions/s-1/finish")] == [
        {"reason": {"type": "errored"}}
    ]


def test_project_and_tags_come_from_the_settings(service, connect):
    client = connect(service.url, project_id="p1", tags=("a", "b"))
    client.sessions.create(user_metadata={"k": "v"})
    body = service.requests("create_session")[0].body
    assert (body["project_id"], body["tags"], body["user_metadata"]) == (
        "p1",
        ["a", "b"],
        {"k": "v"},
    )
    assert "display_name" not in body


# Lists, the search and traces --------------------------------------------------------------------

SUMMARY = {
    "session_id": "s-1",
    "created_at": "2026-11-01T10:00:00Z",
    "owner": "tml:organization_user:1",
    "project_id": "p-1",
    "checkpoints_count": 2,
}


def test_a_list_has_all_pages(client, server):
    def reply(seen):
        start, size = int(seen.query["offset"]), int(seen.query["limit"])
        return server.reply({"sessions": [f"s-{n}" for n in range(start, min(start + size, 130))]})

    server.on("GET", "sessions", reply)
    assert len(client.sessions.list(None)) == 130
    assert list(client.sessions.list(2, 5)) == ["s-5", "s-6"]
    client.sessions.list(1, accessible=True)
    assert server.seen[-1].query["access_scope"] == "accessible"
    assert "access_scope" not in server.seen[0].query


def test_one_session_with_and_without_optional_members(client, server):
    server.on(
        "GET",
        "sessions/s-1",
        {"training_run_ids": ["s-1:train:0"], "sampler_ids": [], "user_metadata": {"a": "b"}},
    )
    session = client.sessions.get("s-1")
    assert session.training_run_ids == ("s-1:train:0",)
    assert (session.display_name, session.user_metadata) == (None, {"a": "b"})
    server.on("GET", "sessions/s-2", {})
    with pytest.raises(InvalidResponse, match="training_run_ids"):
        client.sessions.get("s-2")


def test_sessions_that_no_longer_exist_are_left_out(client, server):
    server.on("GET", "sessions/s-1", {"training_run_ids": ["r"], "sampler_ids": []})
    server.on("GET", "sessions/s-2", server.reply({"detail": "Session s-2 is gone"}, 404))
    assert list(client.sessions.get_many(["s-1", "s-2", "s-3"])) == ["s-1"]


@pytest.mark.parametrize("name", ["", "..", "a\nb"])
def test_an_impossible_id_is_not_sent(client, server, name):
    with pytest.raises(UsageError):
        client.sessions.get(name)
    assert server.seen == []


def test_an_unknown_session_and_a_server_without_sessions(client, server):
    server.on("GET", "sessions/s-1", server.reply({"detail": "Session s-1 not found"}, 404))
    with pytest.raises(NotFound, match="s-1 not found"):
        client.sessions.get("s-1")
    with pytest.raises(NotOffered, match="does not offer a list of sessions"):
        client.sessions.list()
    server.on("POST", "sessions/search", server.reply({"detail": "Method Not Allowed"}, 405))
    with pytest.raises(NotOffered, match="does not offer a search"):
        client.sessions.search()


def test_the_search_passes_the_cursor_back_unchanged(client, server):
    cursor = {"last_created_at": "2026-11-01T10:00:00.000001Z", "last_session_id": "s-1"}
    server.on(
        "POST",
        "sessions/search",
        {"sessions": [SUMMARY], "next_cursor": cursor},
        {"sessions": [SUMMARY | {"session_id": "s-0"}], "next_cursor": None},
    )
    page = client.sessions.search(None, None)
    assert [session.session_id for session in page] == ["s-1", "s-0"]
    assert page.total == 2
    first, second = (seen.body for seen in server.seen)
    assert "cursor" not in first
    assert second["cursor"] == cursor
    assert first["owner"] == {"type": "own"}


def test_a_search_with_a_limit_has_no_total(client, server):
    server.on(
        "POST", "sessions/search", {"sessions": [SUMMARY], "next_cursor": {"last_session_id": "x"}}
    )
    page = client.sessions.search(limit=1)
    assert (len(page), page.total) == (1, None)
    assert [seen.body["limit"] for seen in server.seen] == [1]


def test_a_repeated_cursor_ends_a_search(client, server):
    server.on("POST", "sessions/search", {"sessions": [], "next_cursor": {"last_session_id": "x"}})
    assert len(client.sessions.search(None, None)) == 0
    assert len(server.seen) == 2


def test_conditions_of_a_search(client, server):
    server.on("POST", "sessions/search", {"sessions": []})
    client.sessions.search(
        SessionQuery(
            display_name="sweep lr",
            session_id="s",
            user_metadata={"a": "b"},
            project_ids=["p"],
            owners=["u1", "u2"],
            statuses=["failed", "errored"],
        ),
        5,
    )
    assert server.seen[0].body == {
        "session_id": "s",
        "display_name": "sweep lr",
        "user_metadata": {"a": "b"},
        "project_ids": ["p"],
        "owner": {"type": "user", "owner_urns": ["u1", "u2"]},
        "statuses": [{"type": "failed"}, {"type": "client_finished", "reasons": ["errored"]}],
        "limit": 5,
    }


@pytest.mark.parametrize(
    "query",
    [
        SessionQuery(owners=["u"], accessible=True),
        SessionQuery(owners=[str(n) for n in range(11)]),
        SessionQuery(statuses=["asleep"]),
    ],
)
def test_impossible_conditions_are_not_sent(client, server, query):
    with pytest.raises(UsageError):
        client.sessions.search(query)
    assert server.seen == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, (None, None)),
        ({"type": "active"}, ("active", None)),
        ({"type": "cancelled", "detail": "by Ada"}, ("cancelled", "by Ada")),
        (
            {
                "type": "failed",
                "category": "user",
                "reason": {"type": "training_run", "training_run_id": "r"},
                "message": "out of memory",
            },
            ("failed", "out of memory"),
        ),
        ({"type": "client_finished", "reason": {"type": "errored"}}, ("errored", None)),
        ({"type": "client_finished"}, ("finished", None)),
        ({"type": "something new"}, ("something new", None)),
    ],
)
def test_statuses(client, server, status, expected):
    server.on("POST", "sessions/search", {"sessions": [SUMMARY | {"status": status}]})
    (session,) = client.sessions.search()
    assert (session.status, session.message) == expected


@pytest.mark.parametrize(
    "answer",
    [
        {"sessions": 3},
        {"sessions": [{}]},
        {"sessions": [SUMMARY | {"status": "active"}]},
        {"sessions": [SUMMARY | {"created_at": "yesterday"}]},
        {"sessions": [], "next_cursor": "x"},
    ],
)
def test_unexpected_responses_to_a_search(client, server, answer):
    server.on("POST", "sessions/search", answer)
    with pytest.raises(InvalidResponse):
        client.sessions.search()


def trace(server, *statuses):
    server.on("GET", "sessions/s-1/trace_export", *statuses)


def test_a_trace_is_awaited_and_downloaded(connect, server, naps, waits, tmp_path):
    client = connect(server.url, timeout=30.0)
    url = f"{server.url}/api/v1/files/trace?signature=x"
    trace(server, {"status": "pending"}, {"status": "pending"}, {"status": "ready", "url": url})
    server.on("GET", "files/trace", b"perfetto")
    done = client.sessions.export_trace("s-1", tmp_path / "new" / "t.pftrace")
    assert done.path.read_bytes() == b"perfetto"
    assert done.size_bytes == 8
    assert [p.name for p in done.path.parent.iterdir()] == ["t.pftrace"]
    assert waits[0].operation == "the trace"
    assert waits[0].reason == "the service builds it"


def test_a_trace_that_fails_says_why(client, server):
    trace(server, {"status": "failed", "error": "too old"})
    with pytest.raises(OperationFailed, match="too old"):
        client.sessions.trace_url("s-1")


def test_a_trace_that_takes_too_long(connect, server, naps):
    trace(server, {"status": "pending"})
    with pytest.raises(TimedOut, match="the trace"):
        connect(server.url, timeout=12.0).sessions.trace_url("s-1")
    assert naps[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(naps) <= 5.0


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "baking"},
        {"status": "ready"},
        {"status": "ready", "url": 3},
        {},
        {"status": "ready", "url": "http://[bad"},
    ],
)
def test_unexpected_responses_to_a_trace(client, server, answer):
    trace(server, answer)
    with pytest.raises(InvalidResponse):
        client.sessions.trace_url("s-1")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "data:,x"])
def test_a_trace_is_downloaded_from_web_addresses_only(client, server, url, tmp_path):
    trace(server, {"status": "ready", "url": url})
    with pytest.raises(InvalidResponse):
        client.sessions.export_trace("s-1", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_forced_and_complete(client, server, tmp_path):
    target = tmp_path / "t.pftrace"
    target.write_bytes(b"old")
    with pytest.raises(LocalError, match="exists"):
        client.sessions.export_trace("s-1", target)
    assert server.seen == []
    url = f"{server.url}/api/v1/files/trace"
    trace(server, {"status": "ready", "url": url})
    cut = server.reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnew")
    server.on("GET", "files/trace", cut)
    with pytest.raises(Exception, match="cut off"):
        client.sessions.export_trace("s-1", target, force=True)
    assert target.read_bytes() == b"old"
    server.on("GET", "files/trace", b"new")
    client.sessions.export_trace("s-1", target, force=True)
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["t.pftrace"]
    with pytest.raises(LocalError, match="directory"):
        client.sessions.export_trace("s-1", tmp_path, force=True)


@pytest.mark.parametrize(
    ("session", "name"), [("a-1", "a-1.pftrace"), ("a/../b c", "a_.._b_c.pftrace")]
)
def test_the_default_file_name_has_no_directory(session, name):
    assert default_name(session) == name
