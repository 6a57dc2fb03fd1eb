"""The search for sessions, and usage."""

import pytest


def search(client, **body):
    answer = client.post("sessions/search", body)
    assert answer.status == 200, answer.body
    return [session["session_id"] for session in answer.json["sessions"]]


@pytest.fixture
def sessions(client, clock):
    ids = []
    for name in ("Sweep one", "sweep two", None):
        clock.now += 10
        ids.append(client.session(display_name=name, user_metadata={"n": "x"}))
    client.post(f"sessions/{ids[0]}/finish", {"reason": {"type": "errored"}})
    return ids


def test_conditions(client, clock, sessions):
    one, two, three = sessions
    active, finished = {"type": "active"}, {"type": "client_finished"}
    for body, expected in (
        ({}, [three, two, one]),
        ({"display_name": "SWEEP"}, [two, one]),
        ({"display_name": "two sweep"}, [two]),
        ({"display_name": "two", "session_id": three}, [three, two]),
        ({"user_metadata": {"n": "x"}}, [three, two, one]),
        ({"user_metadata": {"n": "y"}}, []),
        ({"statuses": [active]}, [three, two]),
        ({"statuses": [finished]}, [one]),
        ({"statuses": [{**finished, "reasons": ["success"]}]}, []),
        ({"owner": {"type": "user", "owner_urns": ["other"]}}, []),
        ({"project_ids": ["other"]}, []),
    ):
        assert search(client, **body) == expected, body
    clock.now += 1000
    assert search(client, statuses=[active]) == []


def test_pages(client, sessions):
    first = client.post("sessions/search", {"limit": 2}).json
    assert [s["session_id"] for s in first["sessions"]] == [sessions[2], sessions[1]]
    last = client.post("sessions/search", {"limit": 2, "cursor": first["next_cursor"]}).json
    assert [s["session_id"] for s in last["sessions"]] == [sessions[0]]
    assert last["next_cursor"] is None
    status = {"type": "client_finished", "reason": {"type": "errored"}, "detail": None}
    assert last["sessions"][0]["status"] == status


def test_an_expired_checkpoint_is_not_counted(client, clock):
    session = client.session()
    run = client.model(session)
    clock.now += 1800
    client.saved(run)
    client.saved(run, name="b", ttl_seconds=3600)
    where = "billing/usage/checkpoints/current"

    def held():
        (found,) = client.post("sessions/search", {"session_id": session}).json["sessions"]
        (row,) = client.get(where).json["data"]
        assert row["checkpoint_count"] == found["checkpoints_count"]
        return found["checkpoints_count"], found["checkpoint_storage_bytes"]

    clock.now += 1800  # swept now, and not again for an hour
    count, size = held()
    assert count == 2
    assert client.get(f"{where}?project_id=other").json["data"] == []
    clock.now += 1800
    assert held() == (1, size / 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *(({"limit": limit}, 422) for limit in (0, 201)),
        *(({"statuses": statuses}, 422) for statuses in ([], [{"type": "asleep"}])),
        ({"display_name": ""}, 422),
        ({"cursor": {"last_created_at": "x", "last_session_id": "other"}}, 400),
    ],
)
def test_searches_that_make_no_sense(client, body, status):
    assert client.post("sessions/search", body).status == status


def usage(client, start, end):
    return client.get(f"billing/usage/events?starting_on={start}&ending_before={end}")


def test_usage_counts_tokens_and_checkpoints(client, sampling_body):
    run = client.model()
    client.saved(run)
    body = sampling_body(client.sampler(), tokens=[5, 6, 7], num_samples=2)
    drawn = sum(len(part["tokens"]) for part in client.result("asample", body)["sequences"])
    data = usage(client, "2027-01-15T00:00:00Z", "2027-01-16T00:00:00Z").json["data"]
    by_type = {event["event_info"]["type"]: event for event in data}
    assert by_type["sampling_prefill"]["event_info"]["token_count"] == 3
    assert by_type["sampling_sample"]["event_info"]["token_count"] == drawn
    assert by_type["checkpoint"]["event_info"]["count"] == 1
    assert by_type["checkpoint"]["session_id"] == run.partition(":")[0]
    assert {event["bucket_start"] for event in data} == {"2027-01-15T08:00:00.000000Z"}
    assert by_type["sampling_sample"]["estimated_cost_usd"] == 0.0
    assert usage(client, "2027-01-15T00:00:00Z", "2027-01-15T08:00:00Z").json["data"] == []


@pytest.mark.parametrize(
    ("start", "end", "status"),
    [
        ("2027-01-15T00:30:00Z", "2027-01-16T00:00:00Z", 400),
        ("2027-01-01T00:00:00Z", "2027-01-15T01:00:00Z", 400),
        ("2027-01-15T00:00:00Z", "2027-01-15T00:00:00Z", 400),
        ("2027-01-15T09:00:00Z", "2027-01-16T00:00:00Z", 400),
        ("soon", "2027-01-16T00:00:00Z", 422),
    ],
)
def test_windows_that_the_protocol_does_not_have(client, start, end, status):
    assert usage(client, start, end).status == status
