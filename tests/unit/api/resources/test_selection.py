"""Which checkpoints are selected, in which order, and which a retention policy deletes."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta

import pytest

from tinkex.api import Checkpoint
from tinkex.api.paths import KINDS
from tinkex.api.resources.selection import (
    Policy,
    Selection,
    in_words,
    ordered,
    plan,
    step_of,
    total_size,
)
from tinkex.exceptions import UsageError

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def at(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=UTC)


def checkpoint(
    name="0001", *, run="r", kind="weights", days=1.0, public=False, size=10
) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=f"{kind}/{name}",
        checkpoint_type=KINDS[kind],
        tinker_path=f"tinker://{run}/{kind}/{name}",
        time=NOW - timedelta(days=days),
        size_bytes=size,
        public=public,
        run_id=run,
    )


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"run_id": "run-1"}, True),
        ({"run_id": "run"}, False),
        ({"run_id": "run-*"}, True),
        ({"run_id": "RUN-*"}, False),
        ({"run_id": "run-[2-9]"}, False),
        ({"checkpoint_type": "training"}, True),
        ({"checkpoint_type": "weights"}, True),
        ({"checkpoint_type": "sampler"}, False),
        ({"checkpoint_type": "sampler_weights"}, False),
        ({"before": at(5)}, False),
        ({"before": at(6)}, True),
        ({"after": at(5)}, True),
        ({"after": at(6)}, False),
        ({"public": False}, True),
        ({"public": True}, False),
        ({"after": at(4), "before": at(6), "public": False, "run_id": "*1"}, True),
    ],
)
def test_selection(wanted, fits):
    assert Selection(**wanted).matches(checkpoint(run="run-1", days=17)) is fits


def test_a_pattern_is_no_run():
    assert Selection(run_id="a*").one_run is None
    assert Selection(run_id="a:train:0").one_run == "a:train:0"


def test_those_without_a_value_come_last_in_either_order():
    some = [checkpoint(name, size=size) for name, size in [("a", None), ("b", 2), ("c", 1)]]
    for descending, order in ((False, "cba"), (True, "bca")):
        found = ordered(some, "size_bytes", descending=descending)
        assert "".join(c.checkpoint_id[-1] for c in found) == order
    with pytest.raises(UsageError):
        ordered(some, "colour")


def test_a_sum_is_known_if_all_sizes_are():
    assert total_size([checkpoint(size=2), checkpoint(size=3)]) == 5
    assert total_size([checkpoint(size=2), checkpoint(size=None)]) is None


def test_select_fetches_the_whole_list_and_pages_what_fits(server, client):
    def record(number: int) -> dict:
        return {
            "checkpoint_id": f"weights/{number}",
            "checkpoint_type": "training",
            "tinker_path": f"tinker://r/weights/{number}",
            "time": f"2026-11-{number:02d}T00:00:00Z",
            "public": number % 2 == 0,
        }

    server.on("GET", "checkpoints", {"checkpoints": [record(n) for n in range(1, 21)]})
    page = client.checkpoints.select(
        Selection(public=True), 3, 1, sort="time", descending=True, access_scope="accessible"
    )
    assert [c.checkpoint_id for c in page] == ["weights/18", "weights/16", "weights/14"]
    assert (page.total, page.offset) == (10, 1)
    assert server.seen[0].query["access_scope"] == "accessible"


def test_a_type_that_there_is_not():
    with pytest.raises(UsageError, match="'lora'"):
        Selection(checkpoint_type="lora")


# Retention --------------------------------------------------------------------------------------


def going(checkpoints, **rules) -> list[str]:
    return [
        d.checkpoint.tinker_path.rpartition("/")[2]
        for d in plan(checkpoints, Policy(**rules), NOW)
        if d.goes
    ]


TEN = [checkpoint(f"step-{n * 100:04d}", days=20 - n) for n in range(10)]


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ({"keep_last": 8}, ["step-0100", "step-0000"]),
        ({"keep_last": 99}, []),
        ({"keep_last": 1}, [f"step-0{n}00" for n in range(8, -1, -1)]),
        ({"keep_every": 500}, [f"step-0{n}00" for n in (8, 7, 6, 4, 3, 2, 1)]),
        ({"keep_every": 500, "keep_last": 3}, [f"step-0{n}00" for n in (6, 4, 3, 2, 1)]),
        ({"older_than": timedelta(days=18)}, ["step-0100", "step-0000"]),
        ({"older_than": timedelta(days=19)}, ["step-0000"]),
        ({"older_than": timedelta(days=20)}, []),
        ({"older_than": timedelta(days=1)}, [f"step-0{n}00" for n in range(8, -1, -1)]),
        ({"older_than": timedelta(days=18), "keep_every": 100}, []),
    ],
)
def test_rules(rules, gone):
    assert going(TEN, **rules) == gone


def test_a_name_without_a_step_stays_where_steps_are_counted():
    mixed = [checkpoint("final", days=9), checkpoint("0150", days=8), checkpoint("0200", days=1)]
    assert going(mixed, keep_every=100) == ["0150"]
    assert going(mixed, keep_last=1) == ["0150", "final"]


def test_groups_do_not_displace_each_other():
    sampler = [checkpoint(str(n), kind="sampler_weights", days=n) for n in range(1, 5)]
    both = [*sampler, checkpoint("old", days=90), checkpoint("x", run="other", days=99)]
    assert going(both, keep_last=2) == ["3", "4"]


@pytest.mark.parametrize(("include", "gone"), [(False, ["1"]), (True, ["2", "1"])])
def test_published_ones_stay_unless_included(include, gone):
    three = [checkpoint("3"), checkpoint("2", days=2, public=True), checkpoint("1", days=3)]
    assert going(three, keep_last=1, include_published=include) == gone


@pytest.mark.parametrize(("include", "gone"), [(False, ["1"]), (True, ["2", "1"])])
def test_the_newest_stays_unless_included(include, gone):
    two = [checkpoint("2", days=30), checkpoint("1", days=31)]
    assert going(two, older_than=timedelta(days=7), include_newest=include) == gone


def test_of_the_same_time_the_larger_step_is_newer():
    same = [checkpoint("2"), checkpoint("10"), checkpoint("9")]
    assert going(same, keep_last=1) == ["9", "2"]


def test_a_time_in_the_future_is_not_old():
    later = [checkpoint("a", days=-3), checkpoint("b", days=-2)]
    assert going(later, older_than=timedelta(hours=1), include_newest=True) == []


@pytest.mark.parametrize("rules", [{}, {"keep_last": 0}, {"keep_every": -1}, {"keep_every": 0}])
def test_impossible_policies(rules):
    with pytest.raises(UsageError):
        Policy(**rules)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("0100", 100),
        ("step-100", 100),
        ("epoch2_step7", 7),
        ("final", None),
        ("v1.2", 2),
        ("10k", None),
        ("9" * 200, int("9" * 18)),
        ("x-٣", None),
    ],
)
def test_steps(name, step):
    assert step_of(checkpoint(name)) == step


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(days=7), "7d"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(seconds=5), "5s"),
        (timedelta(0), "0s"),
    ],
)
def test_spans_in_words(span, words):
    assert in_words(span) == words


def an_account(chance: random.Random) -> list[Checkpoint]:
    found = {}
    for _ in range(chance.randint(0, 40)):
        one = checkpoint(
            chance.choice(["final", f"step-{chance.randint(0, 30)}", str(chance.randint(0, 30))]),
            run=chance.choice("ab"),
            kind=chance.choice(list(KINDS)),
            days=chance.choice([0, 1, 7, chance.uniform(0, 40)]),
            public=chance.random() < 0.2,
        )
        found[one.tinker_path] = one
    return list(found.values())


def a_policy(chance: random.Random) -> Policy:
    rules = {
        "keep_last": chance.choice([None, 1, 2, 5]),
        "keep_every": chance.choice([None, 1, 3, 10]),
        "older_than": chance.choice([None, timedelta(days=7), timedelta(hours=1)]),
    }
    return Policy(
        **(rules if any(rules.values()) else {"keep_last": 3}),
        include_published=chance.random() < 0.5,
        include_newest=chance.random() < 0.5,
    )


def gone(checkpoints, policy) -> set[str]:
    return {d.checkpoint.tinker_path for d in plan(checkpoints, policy, NOW) if d.goes}


@pytest.mark.parametrize("seed", range(50))
def test_properties_of_every_plan(seed):
    chance = random.Random(seed)
    account, policy = an_account(chance), a_policy(chance)
    decisions = plan(account, policy, NOW)
    lost = gone(account, policy)

    # Each has one decision, with a reason.
    assert sorted(d.checkpoint.tinker_path for d in decisions) == sorted(
        c.tinker_path for c in account
    )
    assert all(d.reason for d in decisions)
    # The order in which the service lists them does not matter.
    shuffled = chance.sample(account, len(account))
    assert plan(shuffled, policy, NOW) == decisions
    # Nothing protected is deleted.
    if not policy.include_published:
        assert not any(c.public for c in account if c.tinker_path in lost)
    if not policy.include_newest:
        for line in {(c.run_id, c.checkpoint_type) for c in account}:
            of_line = [c for c in account if (c.run_id, c.checkpoint_type) == line]
            assert max(of_line, key=lambda c: c.time).time in {
                c.time for c in of_line if c.tinker_path not in lost
            }
    if policy.older_than:
        assert all(NOW - c.time > policy.older_than for c in account if c.tinker_path in lost)
    # Pruning twice is pruning once.
    left = [c for c in account if c.tinker_path not in lost]
    if not policy.include_newest or policy.keep_last:
        assert gone(left, policy) == set()


@pytest.mark.parametrize("seed", range(50))
def test_a_further_or_milder_rule_deletes_no_more(seed):
    chance = random.Random(seed)
    account, policy = an_account(chance), a_policy(chance)
    before = gone(account, policy)
    for milder in (
        {"keep_last": (policy.keep_last or 0) + 1},
        {"older_than": (policy.older_than or timedelta()) + timedelta(days=1)},
        {"include_published": False},
        {"include_newest": False},
        {"keep_every": 1},
    ):
        assert gone(account, dataclasses.replace(policy, **milder)) <= before, milder
