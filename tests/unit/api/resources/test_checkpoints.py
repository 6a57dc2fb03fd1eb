"""The checkpoints of the account: lists on servers of every kind, changes, copies, suggestions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.unit.api.resources.conftest import checkpoint, run
from tinkex.api import Checkpoint
from tinkex.exceptions import (
    InvalidResponse,
    NotFound,
    NotOffered,
    SettingsError,
    Unauthorized,
)

LIST = "training_runs/r/checkpoints"
PATH = "tinker://r/weights/0001"
MISSING = {"detail": "Unknown checkpoint"}
CALLS = {
    "publish": ("POST", f"{LIST}/weights/0001/publish"),
    "unpublish": ("DELETE", f"{LIST}/weights/0001/publish"),
    "delete": ("DELETE", f"{LIST}/weights/0001"),
    "set_ttl": ("PUT", f"{LIST}/weights/0001/ttl"),
}


def names(found: list[Checkpoint]) -> list[str]:
    return [c.tinker_path.rpartition("/")[2] for c in found]


def listed(*names: str) -> dict:
    return {"checkpoints": [checkpoint("r", *name.split("/")) for name in names]}


def change(client, name: str) -> None:
    getattr(client.checkpoints, name)(*((PATH, 3600) if name == "set_ttl" else (PATH,)))


@pytest.mark.parametrize(
    ("limit", "offset", "found", "requests"),
    [
        (10, 5, range(5, 15), 1),
        (None, 0, range(2300), 3),
        (0, 0, range(2300), 3),
        (2500, 0, range(2300), 3),
        (20, 2300, (), 2),  # the list may be one without samplers: its beginning shows
    ],
)
@pytest.mark.parametrize("total", [True, False])
def test_the_list_of_the_account(paged, total, server, client, limit, offset, found, requests):
    paged("checkpoints", [checkpoint("r", "weights", str(n)) for n in range(2300)], total=total)
    page = client.checkpoints.list(limit, offset)
    assert names(page) == [str(n) for n in found]
    assert (page.offset, page.note) == (offset, None)
    assert page.total == (2300 if total or requests == 3 else None)
    assert len(server.seen) == requests


def test_without_a_list_of_the_account_each_run_is_listed(paged, server, client):
    paged("training_runs", [run(f"m_{n}") for n in range(20)])
    for n in range(19):  # the last was deleted meanwhile
        records = [
            checkpoint(f"m_{n}", "sampler_weights", f"{n}-{k}", checkpoint_id=f"{n}-{k}")
            for k in range(2)
        ]
        server.on("GET", f"training_runs/m_{n}/checkpoints", {"checkpoints": records})
    page = client.checkpoints.list(limit=5, offset=2)
    assert names(page) == ["1-0", "1-1", "2-0", "2-1", "3-0"]
    assert page.total == 38
    assert "no checkpoint list across all runs" in page.note
    assert len(client.checkpoints.list(limit=None)) == 38


@pytest.mark.parametrize("listed", [[], [checkpoint("a", "weights", "t", checkpoint_id="t")]])
def test_a_list_of_the_account_without_samplers_is_completed(paged, listed, server, client):
    sampler = checkpoint("a", "sampler_weights", "s", checkpoint_id="s")
    paged("checkpoints", listed)
    paged("training_runs", [run("a", last_sampler_checkpoint=sampler)])
    server.on("GET", "training_runs/a/checkpoints", {"checkpoints": [*listed, sampler]})
    page = client.checkpoints.list()
    assert names(page)[-1] == "s"
    assert "no sampler checkpoints" in page.note
    beyond = client.checkpoints.list(offset=len(page))
    assert (len(beyond), beyond.total) == (0, len(page))


def test_the_list_of_a_run(server, client):
    server.on("GET", LIST, listed(*(f"weights/{n}" for n in range(9))))
    page = client.checkpoints.list(limit=3, offset=4, run_id="r")
    assert (names(page), page.total) == (["4", "5", "6"], 9)
    server.on("GET", LIST, server.reply({"detail": "Training run not found"}, 404))
    with pytest.raises(NotFound):
        client.checkpoints.list(run_id="r")


def test_info_suggests_the_other_kind(server, client):
    server.on("GET", LIST, listed("sampler_weights/x"))
    assert client.checkpoints.info("tinker://r/x").tinker_path == "tinker://r/sampler_weights/x"
    with pytest.raises(NotFound) as caught:
        client.checkpoints.info("tinker://r/weights/x")
    assert caught.value.hint == "Did you mean tinker://r/sampler_weights/x?"


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (listed("sampler_weights/0001"), "Did you mean tinker://r/sampler_weights/0001?"),
        (
            listed("sampler_weights/final", "weights/0002", "weights/0003"),
            "Checkpoints in this run: tinker://r/weights/0003, tinker://r/weights/0002, "
            "tinker://r/sampler_weights/final.",
        ),
        (
            listed(*(f"weights/9{n}" for n in range(9))),
            "Checkpoints in this run: tinker://r/weights/90, tinker://r/weights/91, "
            "tinker://r/weights/92 and 6 more.",
        ),
        (listed(), "The run r has no checkpoints."),
        (({"detail": "Unknown run"}, 404), "There is no training run r."),
        *((reply, None) for reply in (("x", 500), "text", {"checkpoints": 3})),
    ],
)
def test_suggestions(server, client, naps, reply, hint):
    server.on("GET", LIST, server.reply(*(reply if isinstance(reply, tuple) else (reply,))))
    assert client.checkpoints.suggest(PATH) == hint


@pytest.mark.parametrize("name", CALLS)
def test_a_change_of_a_missing_checkpoint_is_one_request(server, client, name):
    server.on("GET", LIST, listed())
    server.on(*CALLS[name], server.reply(MISSING, 404))
    with pytest.raises(NotFound):
        change(client, name)
    assert [seen.path for seen in server.seen] == [LIST, CALLS[name][1]]


@pytest.mark.parametrize("name", ["unpublish", "delete", "set_ttl"])
@pytest.mark.parametrize("first", ["503", "reset", "429"])
def test_a_retry_that_finds_nothing_is_done_unless_the_first_try_was_refused(
    server, client, naps, name, first
):
    trouble = server.reply(reset=True) if first == "reset" else server.reply("no", int(first))
    server.on(*CALLS[name], trouble, server.reply(MISSING, 404))
    with pytest.raises(NotFound) if first == "429" else nullcontext():
        change(client, name)


def test_copies_into_a_project_and_into_a_new_run(server, client):
    copied = {"tinker_path": "tinker://new:train:0/weights/0001"}
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "sessions/s/finish", server.reply(None, 204))
    busy, lost = server.reply("busy", 503), server.reply(reset=True)
    server.on("POST", "copy_weights", busy, lost, copied)
    options = {"project_id": "p", "ttl_seconds": 7200, "access_token": "tml-other"}
    assert client.checkpoints.copy(PATH, **options) == copied["tinker_path"]
    client.checkpoints.copy(PATH)

    *tries, second = server.requests("copy_weights")
    assert tries[0].body == {
        "source_path": PATH, "destination_project_id": "p", "ttl_seconds": 7200,
    }  # fmt: skip
    assert len(tries) == 3
    assert len({seen.headers["x-idempotency-key"] for seen in tries}) == 1
    assert second.body == {"source_path": PATH, "session_id": "s", "model_seq_id": 0}
    header = "x-tinker-weights-access-token"
    assert [seen.headers.get(header) for seen in (tries[0], second)] == ["tml-other", None]
    assert server.requests("sessions/s/finish")[0].body == {"reason": {"type": "success"}}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (({"tinker_path": "ni\x1bx"}, 200), InvalidResponse),
        (({}, 200), InvalidResponse),
        (({"detail": "Not Found"}, 404), NotOffered),
        (({"detail": "no"}, 401), Unauthorized),
    ],
)
def test_copies_that_fail(server, client, reply, error):
    server.on("POST", "copy_weights", server.reply(*reply))
    with pytest.raises(error):
        client.checkpoints.copy(PATH, project_id="p")


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä"])
def test_an_access_token_that_no_header_can_have(client, server, token):
    with pytest.raises(SettingsError) as raised:
        client.checkpoints.copy(PATH, project_id="p", access_token=token)
    assert token not in str(raised.value)
    assert server.seen == []
