"""A run seen by asking again and again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.api.conftest import NEVER
from tinkex.api.resources import watch
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.runs import TrainingRun
from tinkex.api.resources.watch import Change, Condition, Snapshot, WaitedOut, changes, check_usable
from tinkex.exceptions import ConnectionFailed, NotFound, OperationFailed, ServerError, Unauthorized

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def snapshot(*names: str, at=0.0, last=0.0, corrupted=False, public=()) -> Snapshot:
    run = TrainingRun(
        "r",
        "m",
        corrupted=corrupted,
        last_request_time=None if last is None else NOON + minutes(last),
    )
    found = {
        f"tinker://r/{n}": Checkpoint(
            n, "training", f"tinker://r/{n}", NOON + minutes(place), public=n in public, run_id="r"
        )
        for place, n in enumerate(names)
    }
    return Snapshot(run, found, NOON + minutes(at))


def events(before, now) -> list[tuple[str, str]]:
    return [(c.event, c.subject.removeprefix("tinker://r/")) for c in changes(before, now)]


def test_at_first_everything_is_new():
    found = changes(None, snapshot("weights/1", "weights/2", at=9, last=1.5))
    assert found == [
        Change(NOON, "checkpoint", "tinker://r/weights/1"),
        Change(NOON + minutes(1), "checkpoint", "tinker://r/weights/2"),
        Change(NOON + minutes(1.5), "run", "r"),
    ]


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (snapshot("weights/1"), snapshot("weights/1", at=5), []),
        (snapshot(), snapshot(last=3), [("request", "r")]),
        (snapshot(last=None), snapshot(last=None, at=1), []),
        (snapshot(), snapshot("weights/1"), [("checkpoint", "weights/1")]),
        (snapshot("weights/1"), snapshot(), [("removed", "weights/1")]),
        (
            snapshot("weights/1"),
            snapshot("weights/1", public=["weights/1"]),
            [("published", "weights/1")],
        ),
        (
            snapshot("weights/1", public=["weights/1"]),
            snapshot("weights/1"),
            [("unpublished", "weights/1")],
        ),
        (snapshot(), snapshot(corrupted=True), [("corrupted", "r")]),
        (snapshot(corrupted=True), snapshot(corrupted=True), []),
    ],
)
def test_changes(before, now, found):
    assert events(before, now) == found


@pytest.mark.parametrize(
    ("condition", "first", "now", "subject"),
    [
        (Condition(checkpoint="final"), snapshot(), snapshot("weights/1"), None),
        (Condition(checkpoint="final"), snapshot(), snapshot("weights/final"), "weights/final"),
        (
            Condition(checkpoint="final"),
            snapshot("weights/final"),
            snapshot("weights/final"),
            "weights/final",
        ),
        (
            Condition(checkpoint="weights/final"),
            snapshot(),
            snapshot("sampler_weights/final"),
            None,
        ),
        (Condition(checkpoint="step-*"), snapshot(), snapshot("weights/step-9"), "weights/step-9"),
        (Condition(checkpoint="*"), snapshot("weights/1"), snapshot("weights/1"), None),
        (
            Condition(checkpoint="*"),
            snapshot("weights/1"),
            snapshot("weights/1", "weights/2"),
            "weights/2",
        ),
        (Condition(idle=minutes(10)), snapshot(), snapshot(at=9.9), None),
        (Condition(idle=minutes(10)), snapshot(), snapshot(at=10), "r"),
        (Condition(idle=minutes(10)), snapshot(), snapshot(at=10, last=None), None),
        (Condition(idle=minutes(10)), snapshot(), snapshot(at=12, last=3), None),
    ],
)
def test_conditions(condition, first, now, subject):
    met = condition.met(first, now)
    assert (met and met.removeprefix("tinker://r/")) == subject


def test_a_corrupted_run_is_a_failure():
    check_usable(snapshot())
    with pytest.raises(OperationFailed, match="corrupted"):
        check_usable(snapshot(corrupted=True))


# ---------------------------------------------------------------------- against a service


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Let every pause between two looks pass at once, and return how long each was meant to be."""
    slept: list[float] = []
    monkeypatch.setattr(watch, "sleep", slept.append)
    return slept


RUN = {"training_run_id": "r", "base_model": "m"}


def failing(server):
    return server.reply("gone", 500, {"X-Should-Retry": "false"})


def look(server, replies: list, client, **options):
    troubles: list[tuple[type, float]] = []
    server.on("GET", "training_runs/r", *replies)
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})

    def trouble(error, pause):
        troubles.append((type(error), pause))

    options = {"interval": 10.0, "on_trouble": trouble, **options}
    return client.watch("r", **options), troubles


def test_it_looks_every_so_often(server, client, slept):
    found, troubles = look(server, [RUN], client)
    assert [next(found).run.training_run_id for _ in range(3)] == ["r"] * 3
    assert slept == [10.0, 10.0]
    assert troubles == []


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Sun, 22 Nov 2026 12:00:00 GMT", NOON),
        ("Sun, 22 Nov 2026 13:00:00 +0100", NOON),
        ("Sun, 22 Nov 2026 12:00:00 -0000", NOON),
        ("yesterday", None),
        ("Fri, 31 Dec 9999 23:59:59 -2300", None),
    ],
)
def test_the_service_says_what_time_it_is(server, client, slept, date, at):
    body = b'{"training_run_id": "r", "base_model": "m"}'
    head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
    found, _ = look(server, [server.reply(raw=head.encode() + body)], client)
    seen = next(found).at
    assert seen == at if at else abs(seen - datetime.now(UTC)) < minutes(5)


def test_what_may_pass_is_waited_out_longer_from_time_to_time(server, client, slept):
    lost = failing(server)
    found, troubles = look(server, [RUN, *[lost] * 5, RUN], client)
    next(found)
    next(found)
    assert troubles == [(ServerError, pause) for pause in (20.0, 40.0, 60.0, 60.0, 60.0)]
    next(found)
    assert slept[-1] == 10.0


def test_a_long_interval_is_never_shortened(server, client, slept):
    found, troubles = look(server, [RUN, failing(server), RUN], client, interval=300.0)
    next(found), next(found)
    assert troubles == [(ServerError, 300.0)]


def test_the_first_look_must_succeed(connect, server):
    client = connect("http://127.0.0.1:9", timeout=3)
    with pytest.raises(ConnectionFailed):
        next(look(server, [RUN], client)[0])


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
def test_what_does_not_pass_ends_it(server, client, slept, status, error):
    found, troubles = look(server, [RUN, server.reply({"detail": "No such run"}, status)], client)
    next(found)
    with pytest.raises(error):
        next(found)
    assert troubles == []


def test_the_limit_ends_it(server, client):
    found, _ = look(server, [RUN], client, interval=0.05, limit=0.3)
    with pytest.raises(WaitedOut):
        for _ in found:
            pass


def test_the_limit_ends_it_in_the_middle_of_a_look(server, client):
    found, troubles = look(
        server, [RUN, server.reply(RUN, delay=NEVER)], client, interval=0.01, limit=1.0
    )
    next(found)
    with pytest.raises(WaitedOut):
        next(found)
    assert troubles == []
