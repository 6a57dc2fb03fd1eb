"""Which checkpoints are selected, in which order, and which a retention policy deletes."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta

import pytest

from tinkex.api import Checkpoint
from tinkex.api.paths import KINDS
from tinkex.api.resources import selection
from tinkex.api.resources.selection import Policy, Selection, ordered, plan, total_size
from tinkex.exceptions import UsageError

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def days(count: float) -> timedelta:
    return timedelta(days=count)


def checkpoint(name="0001", *, run="r", kind="weights", age=1.0, public=False, size=10):
    path = f"tinker://{run}/{kind}/{name}"
    time = NOW - days(age)
    return Checkpoint(f"{kind}/{name}", KINDS[kind], path, time, size, public, run_id=run)


@pytest.mark.parametrize(
    ("fits", "wanted"),
    [
        (True, {}),
        *((True, {"run_id": run}) for run in ("run-1", "run-*", "*")),
        *((False, {"run_id": run}) for run in ("run", "RUN-*", "run-[2-9]")),
        *((True, {"checkpoint_type": word}) for word in ("training", "weights")),
        *((False, {"checkpoint_type": word}) for word in ("sampler", "sampler_weights")),
        *((after, {"before": NOW - days(age)}) for age, after in ((5, False), (4, True))),
        *((after, {"after": NOW - days(age)}) for age, after in ((5, True), (4, False))),
        *((not public, {"public": public}) for public in (True, False)),
        (True, {"after": NOW - days(6), "before": NOW, "public": False, "run_id": "*1"}),
    ],
)
def test_selection(wanted, fits):
    assert Selection(**wanted).matches(checkpoint(run="run-1", age=5)) is fits


def test_a_pattern_is_not_one_run_and_a_type_must_exist():
    assert Selection(run_id="a*").one_run is None
    assert Selection(run_id="a:train:0").one_run == "a:train:0"
    with pytest.raises(UsageError, match="'lora'"):
        Selection(checkpoint_type="lora")


def test_those_without_a_value_come_last_in_either_order():
    some = [checkpoint(name, size=size) for name, size in [("a", None), ("b", 2), ("c", 1)]]
    for descending, order in ((False, "cba"), (True, "bca")):
        found = ordered(some, "size_bytes", descending=descending)
        assert "".join(c.checkpoint_id[-1] for c in found) == order
    with pytest.raises(UsageError):
        ordered(some, "colour")
    assert (total_size(some[1:]), total_size(some)) == (3, None)


# Retention -----------------------------------------------------------------------------------

#: Steps 0 to 900, the newest 11 days old.
TEN = [checkpoint(f"step-{n * 100:04d}", age=20 - n) for n in range(10)]


def deleted(checkpoints, *, tell=lambda path: path.rpartition("/")[2], **rules) -> list[str]:
    found = plan(checkpoints, Policy(**rules), NOW)
    return [tell(decision.checkpoint.tinker_path) for decision in found if decision.goes]


@pytest.mark.parametrize(
    ("rules", "steps"),
    [
        ({"keep_last": 8}, [1, 0]),
        ({"keep_last": 99}, []),
        ({"keep_last": 1}, [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"keep_every": 500}, [8, 7, 6, 4, 3, 2, 1]),
        ({"keep_every": 500, "keep_last": 3}, [6, 4, 3, 2, 1]),
        ({"older_than": days(18)}, [1, 0]),
        ({"older_than": days(19)}, [0]),
        ({"older_than": days(20)}, []),
        ({"older_than": days(1)}, [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"older_than": days(18), "keep_every": 100}, []),
    ],
)
def test_rules(rules, steps):
    assert deleted(TEN, **rules) == [f"step-{step * 100:04d}" for step in steps]


SAMPLERS = [checkpoint(str(n), kind="sampler_weights", age=n) for n in range(1, 5)]
MIXED = [checkpoint("final", age=9), checkpoint("0150", age=8), checkpoint("0200")]
PUBLISHED = [checkpoint("3"), checkpoint("2", age=2, public=True), checkpoint("1", age=3)]
OLD = [checkpoint("2", age=30), checkpoint("1", age=31)]


@pytest.mark.parametrize(
    ("checkpoints", "rules", "names"),
    [
        (MIXED, {"keep_every": 100}, ["0150"]),  # a name without a step is kept
        (MIXED, {"keep_last": 1}, ["0150", "final"]),
        # groups do not displace each other
        ([*SAMPLERS, checkpoint("old", age=90)], {"keep_last": 2}, ["3", "4"]),
        ([*SAMPLERS, checkpoint("x", run="other", age=99)], {"keep_last": 2}, ["3", "4"]),
        (PUBLISHED, {"keep_last": 1}, ["1"]),
        (PUBLISHED, {"keep_last": 1, "include_published": True}, ["2", "1"]),
        (OLD, {"older_than": days(7)}, ["1"]),
        (OLD, {"older_than": days(7), "include_newest": True}, ["2", "1"]),
        # of the same time, the larger step is newer
        ([checkpoint("2"), checkpoint("10"), checkpoint("9")], {"keep_last": 1}, ["9", "2"]),
        # a time in the future is not old
        ([checkpoint(age=-3)], {"older_than": timedelta(hours=1), "include_newest": True}, []),
    ],
)
def test_groups_and_exceptions(checkpoints, rules, names):
    assert deleted(checkpoints, **rules) == names


@pytest.mark.parametrize("rules", [{}, {"keep_last": 0}, {"keep_every": -1}, {"keep_every": 0}])
def test_impossible_policies(rules):
    with pytest.raises(UsageError):
        Policy(**rules)


def test_steps_and_spans_in_words():
    for name, step in [
        *(("0100", 100), ("step-100", 100), ("epoch2_step7", 7), ("v1.2", 2)),
        *(("final", None), ("10k", None), ("x-٣", None), ("9" * 200, int("9" * 18))),
    ]:
        assert selection.step_of(checkpoint(name)) == step
    for span, words in [(days(7), "7d"), (timedelta(minutes=90), "1h30m"), (days(0), "0s")]:
        assert selection.in_words(span) == words


def an_account(chance: random.Random) -> list[Checkpoint]:
    found = [
        checkpoint(
            chance.choice(["final", f"step-{chance.randint(0, 30)}", str(chance.randint(0, 30))]),
            run=chance.choice("ab"),
            kind=chance.choice(list(KINDS)),
            age=chance.choice([0, 1, 7, chance.uniform(0, 40)]),
            public=chance.random() < 0.2,
        )
        for _ in range(chance.randint(0, 40))
    ]
    return list({one.tinker_path: one for one in found}.values())


def a_policy(chance: random.Random) -> Policy:
    rules = {
        "keep_last": chance.choice([None, 1, 2, 5]),
        "keep_every": chance.choice([None, 1, 3, 10]),
        "older_than": chance.choice([None, days(7), timedelta(hours=1)]),
    }
    return Policy(
        **(rules if any(rules.values()) else {"keep_last": 3}),
        include_published=chance.random() < 0.5,
        include_newest=chance.random() < 0.5,
    )


def lost(checkpoints: list[Checkpoint], policy: Policy) -> set[str]:
    return set(deleted(checkpoints, tell=str, **vars(policy)))


@pytest.mark.parametrize("seed", range(60))
def test_properties_of_every_plan(seed):
    chance = random.Random(seed)
    account, policy = an_account(chance), a_policy(chance)
    decisions, gone = plan(account, policy, NOW), lost(account, policy)

    assert sorted(d.checkpoint.tinker_path for d in decisions) == sorted(
        c.tinker_path for c in account
    )
    assert all(d.reason for d in decisions)
    assert plan(chance.sample(account, len(account)), policy, NOW) == decisions
    kept = [c for c in account if c.tinker_path not in gone]
    going = [c for c in account if c.tinker_path in gone]
    assert policy.include_published or not any(c.public for c in going)
    assert not policy.older_than or all(NOW - c.time > policy.older_than for c in going)
    if not policy.include_newest:
        for c in going:
            group = [
                k for k in kept if (k.run_id, k.checkpoint_type) == (c.run_id, c.checkpoint_type)
            ]
            assert max(k.time for k in group) >= c.time
    if not policy.include_newest or policy.keep_last:
        assert lost(kept, policy) == set()  # pruning twice is pruning once
    for milder in (
        {"keep_last": (policy.keep_last or 0) + 1},
        {"older_than": (policy.older_than or timedelta()) + days(1)},
        *({name: False} for name in ("include_published", "include_newest")),
        {"keep_every": 1},
    ):
        assert lost(account, dataclasses.replace(policy, **milder)) <= gone, milder
