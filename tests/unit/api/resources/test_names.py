"""Short names of runs and checkpoints, against a scripted service."""

from __future__ import annotations

import pytest

from tests.unit.api.resources.conftest import checkpoint, run
from tinkex.api.resources.names import (
    AmbiguousName,
    resolve_checkpoint,
    resolve_run,
    short_checkpoints,
    short_runs,
    with_run,
)
from tinkex.exceptions import NotFound, ServerError, UsageError

FIRST = "3f9a77c0-0000:train:0"
SECOND = "3f9b12aa-0000:train:0"
#: run → minute of its last request, and the kind, name and minute of its checkpoints
ACCOUNT = {
    FIRST: (
        30,
        [
            ("weights", "0001", 1),
            ("sampler_weights", "0001", 2),
            ("weights", "0002", 3),
            ("sampler_weights", "final", 4),
        ],
    ),
    SECOND: (20, [("sampler_weights", "only", 9)]),
    "empty": (10, []),
}


@pytest.fixture
def account(server, client):
    """A client of a service that has ACCOUNT."""

    def at(minute: int) -> str:
        return f"2026-11-22T12:{minute:02d}:00Z"

    runs, everything = [], []
    for name, (minute, found) in ACCOUNT.items():
        listed = [checkpoint(name, kind, label, time=at(m)) for kind, label, m in found]
        server.on("GET", f"training_runs/{name}/checkpoints", {"checkpoints": listed})
        runs.append(run(name, last_request_time=at(minute)))
        everything += listed
    server.on("GET", "training_runs", {"training_runs": runs})
    server.on("GET", "checkpoints", {"checkpoints": everything})
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


def test_a_path_costs_no_request_and_a_full_run_id_one(account, server):
    path = f"tinker://{FIRST}/weights/none"
    assert resolve_checkpoint(account, path) == path
    assert resolve_checkpoint(account, "tinker://r/bare") == "tinker://r/sampler_weights/bare"
    assert resolve_run(account, path) == with_run(account, FIRST, str) == FIRST
    assert server.seen == []
    resolve_checkpoint(account, f"{FIRST}:final")
    assert [seen.path for seen in server.seen] == [f"training_runs/{FIRST}/checkpoints"]


def test_names_mean_no_row_whose_path_is_not_understood(server, client):
    rows = [
        checkpoint("r", "weights", "new", tinker_path="s3://bucket/new"),
        checkpoint("r", "checkpoints", "9", time="2026-11-22T11:00:00Z"),
        checkpoint("r", "weights", "old", time=None),
    ]
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": rows})
    server.on("GET", "checkpoints", {"checkpoints": rows})
    for text, name in (
        ("@latest", "checkpoints/9"),
        ("r@latest~1", "weights/old"),
        ("r:9", "checkpoints/9"),
    ):
        assert resolve_checkpoint(client, text) == f"tinker://r/{name}"


@pytest.mark.parametrize(
    ("kind", "name"), [("training", "weights"), ("sampler", "sampler_weights")]
)
def test_the_preferred_type_decides_where_the_name_leaves_a_choice(account, kind, name):
    assert resolve_checkpoint(account, "3f9a:0001", kind=kind).endswith(f"/{name}/0001")
    assert f"/{name}/" in resolve_checkpoint(account, "3f9a@latest", kind=kind)
    assert resolve_checkpoint(account, "3f9a:final", kind=kind).endswith("sampler_weights/final")


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


MALFORMED = ("", "@newest", "~", "~1", "a~b", "a/b", "tinkr://a/weights/b", "tinker:/a/b/c", "a\nb")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "not a checkpoint path or name") for text in MALFORMED),
        ("@latest:nix", "unknown checkpoint type 'nix'"),
        ("zzz", "no training run id begins with 'zzz'"),
        ("zzz:final", "no training run id begins with 'zzz'"),
        ("..", "no training run id begins with '..'"),
        ("3f9a:fina", "has no checkpoint called 'fina'"),
        ("3f9a:final@latest", "refers to two checkpoints"),
        ("3f9a~4", "~4 is out of range for checkpoints in the run"),
        ("@latest~5", "~5 is out of range for checkpoints (maximum: ~4)"),
        ("@latest:external", "there are no external checkpoints"),
        ("3f9a:final~2", "checkpoints not newer than"),
        ("empty", "no checkpoints in the run empty"),
        ("3f9a77c0-0000:train:1", "no training run id begins with '3f9a77c0-0000:train:1'"),
    ],
)
def test_names_of_no_checkpoint(account, text, said):
    with pytest.raises(UsageError) as raised:
        resolve_checkpoint(account, text)
    assert said in str(raised.value)
    assert text != "3f9a:fina" or raised.value.hint.startswith("Checkpoints in this run: final")


@pytest.mark.parametrize(
    "text", ["", "zzz", "3f9", "@latest~3", "@latest:sampler", "3f9a~1", "3f9a@latest", "a/b"]
)
def test_names_of_no_run(account, text):
    with pytest.raises(UsageError):
        resolve_run(account, text)


def test_an_id_that_is_the_beginning_of_another_means_itself(server, client):
    server.on("GET", "training_runs", {"training_runs": [run("ab"), run("abc")]})
    assert resolve_run(client, "ab") == "ab"


def test_the_beginning_of_an_id_is_looked_up_when_the_service_does_not_know_it(account, server):
    server.on("GET", f"training_runs/{FIRST}", run(FIRST))
    get = account.runs.get
    assert with_run(account, "3f9a", get).training_run_id == FIRST
    for text, error in (("zzz", NotFound), ("3f9", AmbiguousName)):
        with pytest.raises(error):
            with_run(account, text, get)
    server.on("GET", "training_runs/3f9a", server.reply("broken", 503, {"x-should-retry": "false"}))
    with pytest.raises(ServerError):  # another failure is not hidden by a lookup
        with_run(account, "3f9a", get)


# ---------------------------------------------------------------------- short names in tables

SESSION = "699b8252-3d5c-4a01-9a3e-8c76f97440a5"
OTHER = "699b8252-ffff-4a01-9a3e-8c76f97440a5"
#: Checkpoint → its short name in a complete list and in another; ``None``: the path itself.
SHORT = {
    f"{SESSION}:train:0/sampler_weights/first": ("699b8252:first", "699b8252:sampler/first"),
    f"{SESSION}:train:0/weights/final": ("699b8252:training/final", "699b8252:training/final"),
    f"{SESSION}:train:0/sampler_weights/final": ("699b8252:sampler/final",) * 2,
    "run-123/weights/0001": ("run-123:0001", "run-123:training/0001"),
    "run:train/weights/0001": ("run:train:training/0001",) * 2,
    "run-123/weights/a:b": (None, None),
    "run-123/merged/c": (None, None),
    "run 4/weights/d": (None, None),
}
SESSIONS = [f"{run}/weights/first" for run in (f"{SESSION}:train:0", f"{SESSION}:train:1", OTHER)]


@pytest.mark.parametrize("complete", [True, False])
def test_a_short_name_in_a_table_has_what_it_takes_to_mean_one_checkpoint(complete):
    paths = [f"tinker://{rest}" for rest in SHORT]
    expected = [
        (short[0] if complete else short[1]) or path
        for path, short in zip(paths, SHORT.values(), strict=True)
    ]
    assert short_checkpoints(paths, complete=complete) == expected
    assert short_checkpoints(["no path"], complete=complete) == ["no path"]


def test_runs_of_one_session_have_short_names_of_their_own():
    runs = [f"{SESSION}:train:{n}" for n in range(2)]
    assert list(short_runs(runs).values()) == ["699b8252:train:0", "699b8252:train:1"]
    # Two sessions that begin alike.
    assert short_runs([*runs, f"{OTHER}:train:1", "run-1"]) == {
        runs[0]: "699b8252:train:0",
        **{run: run for run in (runs[1], f"{OTHER}:train:1", "run-1")},
    }


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("listed", [SHORT, SESSIONS])
def test_every_short_name_in_a_table_is_accepted(server, client, listed, complete):
    of_run: dict[str, list] = {}
    for rest in listed:
        name, kind, label = rest.split("/")
        of_run.setdefault(name, []).append(checkpoint(name, kind, label))
    for name, found in of_run.items():
        server.on(
            "GET", f"training_runs/{name.replace(' ', '%20')}/checkpoints", {"checkpoints": found}
        )
    server.on("GET", "training_runs", {"training_runs": [run(name) for name in of_run]})

    paths = [f"tinker://{rest}" for rest in listed]
    for path, short in zip(paths, short_checkpoints(paths, complete=complete), strict=True):
        if not short.startswith("tinker://"):
            assert resolve_checkpoint(client, short) == path
    for run_id, short in short_runs(of_run).items():
        assert resolve_run(client, short) == run_id
