"""The search for sessions, and what was used."""

import pytest

BASE_MODEL = "tinkex/baker-street-2M"


def search(client, **body):
    answer = client.post("sessions/search", body)
    assert answer.status == 200, answer.body
    return [session["session_id"] for session in answer.json["sessions"]]


@pytest.fixture
def sessions(client, clock):
    ids = []
    for name in ("Sweep one", "sweep two", None):
        clock.now += 10
        body = {"tags": [], "sdk_version": "0", "display_name": name, "user_metadata": {"n": "x"}}
        ids.append(client.post("create_session", body).json["session_id"])
    client.post(f"sessions/{ids[0]}/finish", {"reason": {"type": "errored"}})
    return ids


def test_conditions(client, clock, sessions):
    one, two, three = sessions
    assert search(client) == [three, two, one]
    assert search(client, display_name="SWEEP") == [two, one]
    assert search(client, display_name="two sweep") == [two]
    assert search(client, display_name="two", session_id=three) == [three, two]
    assert search(client, user_metadata={"n": "x"}) == [three, two, one]
    assert search(client, user_metadata={"n": "y"}) == []
    assert search(client, statuses=[{"type": "active"}]) == [three, two]
    assert search(client, statuses=[{"type": "client_finished"}]) == [one]
    finished = {"type": "client_finished", "reasons": ["success"]}
    assert search(client, statuses=[finished]) == []
    assert search(client, owner={"type": "user", "owner_urns": ["somebody"]}) == []
    assert search(client, project_ids=["other"]) == []
    clock.now += 1000
    assert search(client, statuses=[{"type": "active"}]) == []


def test_pages(client, sessions):
    first = client.post("sessions/search", {"limit": 2}).json
    assert [s["session_id"] for s in first["sessions"]] == [sessions[2], sessions[1]]
    last = client.post("sessions/search", {"limit": 2, "cursor": first["next_cursor"]}).json
    assert [s["session_id"] for s in last["sessions"]] == [sessions[0]]
    assert last["next_cursor"] is None
    assert last["sessions"][0]["status"] == {
        "type": "client_finished",
        "reason": {"type": "errored"},
        "detail": None,
    }


def test_what_has_expired_is_not_counted(client, clock):
    session = client.session()
    run = client.model(session)
    clock.now += 1800
    client.saved(run)
    client.saved(run, name="b", ttl_seconds=3600)

    def held():
        (found,) = client.post("sessions/search", {"session_id": session}).json["sessions"]
        return found["checkpoints_count"], found["checkpoint_storage_bytes"]

    clock.now += 1800  # swept now, and not again for an hour
    count, size = held()
    assert count == 2
    clock.now += 1800
    assert held() == (1, size / 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"limit": 0}, 422),
        ({"limit": 201}, 422),
        ({"statuses": []}, 422),
        ({"statuses": [{"type": "asleep"}]}, 422),
        ({"display_name": ""}, 422),
        ({"cursor": {"last_created_at": "x", "last_session_id": "nobody"}}, 400),
    ],
)
def test_searches_that_make_no_sense(client, body, status):
    assert client.post("sessions/search", body).status == status


def usage(client, start, end):
    return client.get(f"billing/usage/events?starting_on={start}&ending_before={end}")


# The clock of the tests stands at 2027-01-15T08:00:00Z.
WINDOW = ("2027-01-15T00:00:00Z", "2027-01-16T00:00:00Z")


def test_usage_counts_tokens_and_checkpoints(client, clock, sampling_body):
    run = client.model()
    client.saved(run)
    sampler = client.sampler()
    outcome = client.result("asample", sampling_body(sampler, tokens=[5, 6, 7], num_samples=2))
    drawn = sum(len(sequence["tokens"]) for sequence in outcome["sequences"])
    data = usage(client, *WINDOW).json["data"]
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


def test_storage_is_that_of_the_checkpoints_that_are_there(client, clock):
    where = "billing/usage/checkpoints/current"
    assert client.get(where).json["data"] == []
    run = client.model()
    client.saved(run, name="a")
    client.saved(run, name="b", ttl_seconds=3600)
    (row,) = client.get(where).json["data"]
    assert row["checkpoint_count"] == 2
    assert client.get(f"{where}?project_id=other").json["data"] == []
    clock.now += 3601
    assert client.get(where).json["data"][0]["checkpoint_count"] == 1
