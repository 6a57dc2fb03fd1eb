"""Timelines of sessions, decoded by an independent reader."""

import sqlite3
from collections import defaultdict

from tinkex_local.state.traces import Slice, encoded

BEGIN, END = 1, 2


def fields(message):
    """Return the fields of a protobuf message: number → values in their order."""
    found, place = defaultdict(list), 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            found[key >> 3].append(varint())
        else:
            assert key & 7 == 2
            length = varint()
            found[key >> 3].append(message[place : place + length])
            place += length
    assert place == len(message)
    return found


def read(content):
    """Return the tracks of a trace: ``[(name, parent, [(slice, begin, end, notes)])]``."""
    tracks, open_slices = {}, {}
    for packet in map(fields, fields(content)[1]):
        assert packet[10] == [1]
        for descriptor in map(fields, packet[60]):
            name, parent = descriptor[2][0].decode(), descriptor.get(5, [None])[0]
            tracks[descriptor[1][0]] = (name, parent, [])
        for event in map(fields, packet[11]):
            (track,), (kind,), (moment,) = event[11], event[9], packet[8]
            if kind == BEGIN:
                assert track not in open_slices, "slices of one track must not overlap"
                notes = {}
                for note in map(fields, event[4]):
                    notes[note[10][0].decode()] = note[4][0] if note[4] else note[6][0].decode()
                open_slices[track] = (event[23][0].decode(), moment, notes)
            else:
                name, begin, notes = open_slices.pop(track)
                tracks[track][2].append((name, begin, moment, notes))
    assert not open_slices
    return tracks


def exported(client, session):
    answer = client.get(f"sessions/{session}/trace_export").json
    assert answer["status"] == "ready"
    return client.get(answer["url"])


def test_the_operations_of_a_session(client, clock, sampling_body):
    session = client.session(display_name="Größe \U0001f436")
    clock.now += 1
    run = client.model(session)
    clock.now += 1
    path = client.saved(run, "sampler_weights", "final", seq_id=1)
    sampler = client.sampler(0, session, model_path=path)
    waiting = client.post("asample", sampling_body(sampler, 0, num_samples=2)).json["request_id"]
    clock.now += 2.5  # it is computed when it is asked for
    client.retrieve(waiting)
    client.post("asample", sampling_body(sampler, 1))  # never polled for
    clock.now += 1
    client.post(f"sessions/{session}/finish", {"reason": {"type": "errored"}})

    answer = exported(client, session)
    assert answer.status == 200
    tracks = read(answer.body)
    assert tracks.pop(1) == ("Session Größe \U0001f436", None, [])
    assert {parent for _, parent, _ in tracks.values()} == {1}
    found = {name: slices for name, _, slices in tracks.values()}
    assert list(found) == ["Session", "Runs", f"Run {run}", f"Sampler {sampler}"]
    start = 1_800_000_000_000_000_000
    ((_, begin, end, notes),) = found["Session"]
    assert (begin - start, end - start) == (0, 5_500_000_000)
    assert notes["reason"] == "errored"
    ((name, begin, _, notes),) = found["Runs"]
    assert (name, begin - start, notes["model_id"]) == ("create_model", 1_000_000_000, run)
    ((name, begin, _, notes),) = found[f"Run {run}"]
    assert (name, begin - start) == ("save_weights_for_sampler", 2_000_000_000)
    assert (notes["path"], notes["state"]) == (path, "done")
    assert notes["size_bytes"] > 1000
    ((name, begin, end, notes),) = found[f"Sampler {sampler}"]
    assert (name, begin - start, end - begin) == ("sample", 2_000_000_000, 2_500_000_000)
    assert (notes["prompt_tokens"], notes["sequences"], notes["sampled_tokens"]) == (3, 2, 16)
    assert notes["waited_ms"] == 2500


def test_failures_are_on_it(client):
    session = client.session()
    run = client.model(session)
    client.saved(run, "weights", "a", seq_id=1)
    client.result("save_weights", {"model_id": run, "path": "a", "seq_id": 2})
    tracks = read(exported(client, session).body)
    slices = next(slices for name, _, slices in tracks.values() if name == f"Run {run}")
    assert [notes["state"] for *_, notes in slices] == ["done", "failed"]
    assert "a" in slices[1][3]["error"]


def test_overlapping_slices_are_drawn_side_by_side():
    slices = [
        *(Slice("a", 0.0, 3.0), Slice("b", 1.0, 2.0), Slice("c", 2.0, 4.0)),
        *(Slice("d", 3.0, 3.0), Slice("e", 5.0, 5.0, {"count": 2**62, "text": "\ud800"})),
    ]
    tracks = read(encoded("t", [("x", slices)]))
    assert [(name, [s[0] for s in slices]) for name, _, slices in tracks.values()] == [
        ("t", []),
        ("x", ["a", "d", "e"]),
        ("x", ["b", "c"]),
    ]
    end = 5_000_000_000
    assert tracks[2][2][2][1:] == (end, end, {"count": 2**62, "text": "?"})


def test_the_address_is_signed_and_expires(client, clock):
    session, other = client.session(), client.session()
    url = client.get(f"sessions/{session}/trace_export").json["url"]
    assert client.get(url.partition("?")[0]).status == 403
    assert client.get(url.replace(session, other)).status == 403
    clock.now += 3599
    assert client.get(url).status == 200
    clock.now += 2
    assert client.get(url).status == 403


def test_state_of_the_version_before_is_upgraded(home, opened):
    client = opened()
    session = client.session()
    client.model(session)
    client.app.close()
    with sqlite3.connect(home / "state.sqlite3") as connection:  # as the first version left it
        for column in ("began", "finished", "data"):
            connection.execute(f"ALTER TABLE operations DROP COLUMN {column}")
        connection.execute("ALTER TABLE runs DROP COLUMN holder")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    client = opened()
    names = [name for name, *_ in read(exported(client, session).body).values()]
    assert names == [f"Session {session}", "Session"]  # the end of that was not recorded
    client.model(session, 1)
    names = [name for name, *_ in read(exported(client, session).body).values()]
    assert names[2:] == ["Runs"]
