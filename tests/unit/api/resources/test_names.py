"""Names that a person can type, against a scripted service."""

from __future__ import annotations

import pytest

from tinkex.api.resources.names import AmbiguousName, resolve_checkpoint, resolve_run, with_run
from tinkex.exceptions import NotFound, ServerError, UsageError

FIRST = "3f9a77c0-0000:train:0"
SECOND = "3f9b12aa-0000:train:0"
#: run → checkpoints: (kind/name, minute of saving)
ACCOUNT = {
    FIRST: [
        ("weights/0001", 1),
        ("sampler_weights/0001", 2),
        ("weights/0002", 3),
        ("sampler_weights/final", 4),
    ],
    SECOND: [("sampler_weights/only", 9)],
    "empty": [],
}
REQUESTS = {FIRST: 30, SECOND: 20, "empty": 10}


def listed(run: str) -> list[dict]:
    return [
        {
            "checkpoint_id": name,
            "checkpoint_type": "training" if name.startswith("weights") else "sampler",
            "tinker_path": f"tinker://{run}/{name}",
            "time": f"2026-11-22T12:{minute:02d}:00Z",
        }
        for name, minute in ACCOUNT[run]
    ]


@pytest.fixture
def account(server, client):
    """A client of a service that has ACCOUNT."""
    runs = [
        {
            "training_run_id": run,
            "base_model": "m",
            "last_request_time": f"2026-11-22T12:{minute}:00Z",
        }
        for run, minute in REQUESTS.items()
    ]
    server.on("GET", "training_runs", {"training_runs": runs})
    server.on("GET", "checkpoints", {"checkpoints": [c for run in ACCOUNT for c in listed(run)]})
    for run in ACCOUNT:
        server.on("GET", f"training_runs/{run}/checkpoints", {"checkpoints": listed(run)})
    return client


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"{FIRST}:final", f"{FIRST}/sampler_weights/final"),
        ("3f9a:final", f"{FIRST}/sampler_weights/final"),
        ("3f9a77c0-0000:final", f"{FIRST}/sampler_weights/final"),
        ("3f9a:weights/0001", f"{FIRST}/weights/0001"),
        ("3f9b", f"{SECOND}/sampler_weights/only"),
        (SECOND, f"{SECOND}/sampler_weights/only"),
        ("3f9a@latest", f"{FIRST}/sampler_weights/final"),
        ("3f9a@latest:training", f"{FIRST}/weights/0002"),
        ("3f9a@latest:weights~1", f"{FIRST}/weights/0001"),
        ("3f9a~0", f"{FIRST}/sampler_weights/final"),
        ("3f9a~1", f"{FIRST}/weights/0002"),
        (f"{FIRST}~3", f"{FIRST}/weights/0001"),
        ("3f9a:final~1", f"{FIRST}/sampler_weights/0001"),
        ("@latest", f"{SECOND}/sampler_weights/only"),
        ("@latest:training", f"{FIRST}/weights/0002"),
        ("@latest~2", f"{FIRST}/weights/0002"),
        (f"{FIRST}/weights/0001", f"{FIRST}/weights/0001"),
    ],
)
def test_checkpoints(account, text, path):
    assert resolve_checkpoint(account, text) == f"tinker://{path}"


def test_a_path_costs_no_request(account, server):
    path = f"tinker://{FIRST}/weights/none"
    assert resolve_checkpoint(account, path) == path
    assert resolve_checkpoint(account, "tinker://r/bare") == "tinker://r/sampler_weights/bare"
    assert resolve_run(account, path) == FIRST
    assert server.seen == []


def test_a_full_run_id_in_a_name_costs_one_request(account, server):
    resolve_checkpoint(account, f"{FIRST}:final")
    assert [seen.path for seen in server.seen] == [f"training_runs/{FIRST}/checkpoints"]


@pytest.mark.parametrize(
    ("kind", "name"), [("training", "weights"), ("sampler", "sampler_weights")]
)
def test_the_kind_that_is_wanted_decides(account, kind, name):
    assert resolve_checkpoint(account, "3f9a:0001", kind=kind).endswith(f"/{name}/0001")
    assert f"/{name}/" in resolve_checkpoint(account, "3f9a@latest", kind=kind)


def test_a_name_that_fits_but_one_is_taken_whatever_is_wanted(account):
    path = resolve_checkpoint(account, "3f9a:final", kind="training")
    assert path.endswith("sampler_weights/final")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3f9", [FIRST, SECOND]),
        ("3f9:final", [FIRST, SECOND]),
        ("3f9a:0001", [f"tinker://{FIRST}/weights/0001", f"tinker://{FIRST}/sampler_weights/0001"]),
        ("3f9a", ["RUN:NAME", f"tinker://{FIRST}/sampler_weights/final"]),
    ],
)
def test_ambiguous_names_list_the_candidates(account, text, words):
    with pytest.raises(AmbiguousName) as raised:
        resolve_checkpoint(account, text)
    assert [word for word in words if word not in raised.value.hint] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a checkpoint path or name"),
        ("@newest", "not a checkpoint path or name"),
        ("~", "not a checkpoint path or name"),
        ("~1", "not a checkpoint path or name"),
        ("a~b", "not a checkpoint path or name"),
        ("a/b", "not a checkpoint path or name"),
        ("tinkr://a/weights/b", "not a checkpoint path or name"),
        ("tinker:/a/weights/b", "not a checkpoint path or name"),
        ("a\nb", "not a checkpoint path or name"),
        ("@latest:nix", "no type of checkpoint is called 'nix'"),
        ("zzz", "no training run's id begins with 'zzz'"),
        ("zzz:final", "no training run's id begins with 'zzz'"),
        ("..", "no training run's id begins with '..'"),
        ("3f9a:fina", "has no checkpoint called 'fina'"),
        ("3f9a:final@latest", "names two checkpoints"),
        ("3f9a~4", "only 4"),
        ("@latest~5", "only 5 checkpoints"),
        ("@latest:external", "there are no external checkpoints"),
        ("3f9a:final~2", "checkpoints up to"),
        ("empty", "no checkpoints of the run empty"),
        ("3f9a77c0-0000:train:1", "no training run's id begins with '3f9a77c0-0000:train:1'"),
    ],
)
def test_names_of_nothing(account, text, said):
    with pytest.raises(UsageError) as raised:
        resolve_checkpoint(account, text)
    assert said in str(raised.value)


def test_a_misspelt_name_is_answered_with_the_nearest(account):
    with pytest.raises(UsageError) as raised:
        resolve_checkpoint(account, "3f9a:finall")
    assert raised.value.hint.startswith("It has final")


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("3f9a", FIRST),
        ("3f9b12aa-0000:train", SECOND),
        ("e", "empty"),
        ("empty", "empty"),
        ("@latest", FIRST),
        ("@latest~2", "empty"),
        (f"tinker://{SECOND}/weights/0001", SECOND),
    ],
)
def test_runs(account, text, run):
    assert resolve_run(account, text) == run


@pytest.mark.parametrize(
    "text", ["", "zzz", "3f9", "@latest~3", "@latest:sampler", "3f9a~1", "3f9a@latest", "a/b"]
)
def test_runs_that_are_none(account, text):
    with pytest.raises(UsageError):
        resolve_run(account, text)


def test_an_id_that_is_the_beginning_of_another_means_itself(server, client):
    runs = [{"training_run_id": run, "base_model": "m"} for run in ("ab", "abc")]
    server.on("GET", "training_runs", {"training_runs": runs})
    assert resolve_run(client, "ab") == "ab"


def test_a_full_id_is_used_as_it_is(account, server):
    assert with_run(account, FIRST, str) == FIRST
    assert server.seen == []


def test_a_beginning_is_looked_up_when_the_service_does_not_know_it(account, server):
    server.on("GET", f"training_runs/{FIRST}", {"training_run_id": FIRST, "base_model": "m"})
    assert with_run(account, "3f9a", account.runs.get).training_run_id == FIRST
    with pytest.raises(NotFound):
        with_run(account, "zzz", account.runs.get)
    with pytest.raises(AmbiguousName):
        with_run(account, "3f9", account.runs.get)


def test_other_failures_are_not_hidden_by_a_look_up(account, server):
    server.on("GET", "training_runs/3f9a", server.reply("broken", 501))
    with pytest.raises(ServerError):
        with_run(account, "3f9a", account.runs.get)
    assert server.requests("training_runs") == []
