"""Following a training run: changes, conditions, and polls against a scripted service."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.api.conftest import NEVER
from tinkex.api.resources import watch
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.runs import TrainingRun
from tinkex.api.resources.watch import Change, Condition, Snapshot, WaitedOut, changes, check_usable
from tinkex.exceptions import NotFound, OperationFailed, ServerError, Unauthorized

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def snapshot(*names: str, at=0.0, last=0.0, corrupted=False, public=()) -> Snapshot:
    used = None if last is None else NOON + minutes(last)
    found = {
        path: Checkpoint(name, "training", path, NOON + minutes(place), public=name in public)
        for place, name in enumerate(names)
        if (path := f"tinker://r/{name}")
    }
    run = TrainingRun("r", "m", corrupted=corrupted, last_request_time=used)
    return Snapshot(run, found, NOON + minutes(at))


def test_in_the_first_snapshot_everything_is_new():
    assert changes(None, snapshot("weights/1", "weights/2", at=9, last=1.5)) == [
        Change(NOON, "checkpoint", "tinker://r/weights/1"),
        Change(NOON + minutes(1), "checkpoint", "tinker://r/weights/2"),
        Change(NOON + minutes(1.5), "run", "r"),
    ]


ONE, PUBLIC = snapshot("weights/1"), snapshot("weights/1", public=["weights/1"])
CORRUPTED = snapshot(corrupted=True)


@pytest.mark.parametrize(
    ("before", "now", "event", "subject"),
    [
        (snapshot(), snapshot(last=3), "request", "r"),
        (snapshot(), ONE, "checkpoint", "tinker://r/weights/1"),
        (ONE, snapshot(), "removed", "tinker://r/weights/1"),
        (ONE, PUBLIC, "published", "tinker://r/weights/1"),
        (PUBLIC, ONE, "unpublished", "tinker://r/weights/1"),
        (snapshot(), CORRUPTED, "corrupted", "r"),
        (ONE, snapshot("weights/1", at=5), None, None),
        (snapshot(last=None), snapshot(last=None, at=1), None, None),
        (CORRUPTED, CORRUPTED, None, None),
    ],
)
def test_changes(before, now, event, subject):
    found = [(change.event, change.subject) for change in changes(before, now)]
    assert found == ([(event, subject)] if event else [])
    with pytest.raises(OperationFailed, match="corrupted") if now.run.corrupted else nullcontext():
        check_usable(now)


TEN_MINUTES = Condition(idle=minutes(10))


@pytest.mark.parametrize(
    ("condition", "first", "now", "subject"),
    [
        ("final", snapshot(), ONE, None),
        ("final", snapshot(), snapshot("weights/final"), "tinker://r/weights/final"),
        ("1", ONE, ONE, "tinker://r/weights/1"),
        ("weights/final", snapshot(), snapshot("sampler_weights/final"), None),
        ("step-*", snapshot(), snapshot("weights/step-9"), "tinker://r/weights/step-9"),
        ("*", ONE, ONE, None),
        ("*", ONE, snapshot("weights/1", "weights/2"), "tinker://r/weights/2"),
        (TEN_MINUTES, snapshot(), snapshot(at=9.9), None),
        (TEN_MINUTES, snapshot(), snapshot(at=10), "r"),
        (TEN_MINUTES, snapshot(), snapshot(at=10, last=None), None),
        (TEN_MINUTES, snapshot(), snapshot(at=12, last=3), None),
    ],
)
def test_conditions(condition, first, now, subject):
    if isinstance(condition, str):
        condition = Condition(checkpoint=condition)
    assert condition.met(first, now) == subject


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Let every pause pass at once, and return how long each was meant to be."""
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
def test_the_time_is_the_service_s(server, client, slept, date, at):
    body = b'{"training_run_id": "r", "base_model": "m"}'
    head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
    found, _ = look(server, [server.reply(raw=head.encode() + body)], client)
    seen = next(found).at
    assert seen == at if at else abs(seen - datetime.now(UTC)) < minutes(5)


def test_transient_errors_are_retried_with_growing_pauses(server, client, slept):
    lost = failing(server)
    found, troubles = look(server, [RUN, *[lost] * 5, RUN], client)
    assert [next(found).run.training_run_id for _ in range(2)] == ["r"] * 2
    assert troubles == [(ServerError, pause) for pause in (20.0, 40.0, 60.0, 60.0, 60.0)]
    next(found)
    assert slept[-1] == 10.0
    found, troubles = look(server, [RUN, lost, RUN], client, interval=300.0)
    next(found), next(found)
    assert troubles == [(ServerError, 300.0)]  # a long interval is not shortened


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
def test_a_permanent_error_ends_it(server, client, slept, status, error):
    found, troubles = look(server, [RUN, server.reply({"detail": "No such run"}, status)], client)
    next(found)
    with pytest.raises(error):
        next(found)
    with pytest.raises(ServerError):  # the first poll must succeed
        next(look(server, [failing(server)], client)[0])
    assert troubles == []


@pytest.mark.parametrize("delay", [0.0, NEVER])
def test_the_limit_ends_it_and_a_poll_of_it(server, client, delay):
    later = server.reply(RUN, delay=delay)
    found, troubles = look(server, [RUN, later], client, interval=0.01, limit=1.0)
    with pytest.raises(WaitedOut):
        list(found)
    assert troubles == []
