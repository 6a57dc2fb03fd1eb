"""The checkpoints of the account: lists on servers of every kind, changes, copies, suggestions."""

from __future__ import annotations

import io
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from tests.unit.api.resources.conftest import checkpoint, run
from tinkex.api import Checkpoint
from tinkex.cli.app import TinkexApp
from tinkex.exceptions import (
    InvalidResponse,
    NotFound,
    NotOffered,
    SettingsError,
    Unauthorized,
    UsageError,
)

MISSING = {"detail": "Unknown checkpoint"}
PATH = "tinker://r/weights/0001"
CALLS = {
    "publish": ("POST", "/publish"),
    "unpublish": ("DELETE", "/publish"),
    "delete": ("DELETE", ""),
    "set_ttl": ("PUT", "/ttl"),
}


def names(found: list[Checkpoint]) -> list[str]:
    return [c.tinker_path.rpartition("/")[2] for c in found]


def listed(*names: str) -> dict:
    return {"checkpoints": [checkpoint("r", *name.split("/")) for name in names]}


def change(client, name: str) -> None:
    arguments = (PATH, 3600) if name == "set_ttl" else (PATH,)
    getattr(client.checkpoints, name)(*arguments)


@pytest.mark.parametrize("total", [True, False])
def test_one_page_is_one_request(paged, total, server, client):
    many = [checkpoint("r", "weights", str(n)) for n in range(50)]
    paged("checkpoints", many, total=total)
    page = client.checkpoints.list(limit=10, offset=5)
    assert names(page) == [str(n) for n in range(5, 15)]
    assert (page.total, page.offset) == (50 if total else None, 5)
    assert len(server.seen) == 1


@pytest.mark.parametrize("limit", [None, 0, 2500])
@pytest.mark.parametrize("total", [True, False])
def test_all_pages_are_fetched(paged, limit, total, server, client):
    many = [checkpoint("r", "weights", str(n)) for n in range(2300)]
    paged("checkpoints", many, total=total)
    page = client.checkpoints.list(limit=limit)
    assert (len(page), page.total) == (2300, 2300)
    # The second and the third are asked for side by side once the total is known.
    assert sorted(s.query["offset"] for s in server.seen) == ["0", "1000", "2000"]


def test_a_page_beyond_the_end_is_empty(paged, server, client):
    paged("checkpoints", [checkpoint("r", "weights", "a")])
    page = client.checkpoints.list(offset=10)
    assert (list(page), page.total) == ([], None)


def test_without_an_account_wide_list_runs_are_asked(paged, server, client):
    runs = [run(f"model_{n}") for n in range(20)]
    paged("training_runs", runs)
    for n in range(20):
        records = [checkpoint(f"model_{n}", "sampler_weights", f"{n}-{k}") for k in range(2)]
        for record in records:
            record["checkpoint_id"] = record["checkpoint_id"].rpartition("/")[2]
            record["time"] = "2026-11-22T13:55:34.109929"
        server.on("GET", f"training_runs/model_{n}/checkpoints", {"checkpoints": records})
    page = client.checkpoints.list(limit=5, offset=2)
    assert names(page) == ["1-0", "1-1", "2-0", "2-1", "3-0"]
    assert page.total is None
    assert "no list over all runs" in page.note
    assert page[0].time == datetime(2026, 11, 22, 13, 55, 34, 109929, UTC)
    asked = [s for s in server.seen if s.path.endswith("/checkpoints")]
    assert 4 <= len(asked) <= 4 + 8
    whole = client.checkpoints.list(limit=None)
    assert (len(whole), whole.total) == (40, 40)


def test_runs_deleted_meanwhile_are_left_out(paged, server, client):
    paged("training_runs", [run("a"), run("b")])
    server.on(
        "GET", "training_runs/b/checkpoints", {"checkpoints": [checkpoint("b", "weights", "x")]}
    )
    assert names(client.checkpoints.list()) == ["x"]


@pytest.mark.parametrize("listed", [[], [checkpoint("a", "weights", "t", checkpoint_id="t")]])
def test_an_account_wide_list_without_samplers_is_completed(paged, listed, server, client):
    sampler = checkpoint("a", "sampler_weights", "s", checkpoint_id="s")
    paged("checkpoints", listed)
    paged("training_runs", [run("a", last_sampler_checkpoint=sampler)])
    server.on("GET", "training_runs/a/checkpoints", {"checkpoints": [*listed, sampler]})
    page = client.checkpoints.list()
    assert names(page)[-1] == "s"
    assert "no sampler checkpoints" in page.note
    beyond = client.checkpoints.list(offset=len(page))
    assert (len(beyond), beyond.total) == (0, len(page))


def test_an_account_wide_list_with_full_ids_is_complete(paged, server, client):
    paged("checkpoints", [checkpoint("a", "weights", "t")])
    assert client.checkpoints.list().note is None
    assert len(server.seen) == 1


def test_a_page_of_one_run(server, client):
    records = [checkpoint("r", "weights", str(n)) for n in range(9)]
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": records})
    page = client.checkpoints.list(limit=3, offset=4, run_id="r")
    assert (names(page), page.total) == (["4", "5", "6"], 9)


@pytest.mark.parametrize("body", [{"detail": "Not Found"}, {"detail": "Training run not found"}])
def test_an_unknown_run_is_not_found(body, server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply(body, 404))
    with pytest.raises(NotFound):
        client.checkpoints.list(run_id="r")


@pytest.mark.parametrize("noun", ["run", "checkpoint"])
@pytest.mark.parametrize("form", ["json", "csv", "value", "plain", "yaml"])
def test_a_list_that_fails_in_the_middle_shows_nothing(noun, form, server):
    if noun == "run":
        path, name, records = "training_runs", "training_runs", [run(str(n)) for n in range(100)]
    else:
        path = name = "checkpoints"
        records = [checkpoint("r", "sampler_weights", str(n)) for n in range(1000)]
    whole = {name: records, "cursor": {"total_count": 5000}}
    server.on("GET", path, whole, server.reply({"detail": "Gone."}, 400))
    out, err = io.StringIO(), io.StringIO()
    app = TinkexApp(stdin=io.StringIO(), stdout=out, stderr=err)
    app.uses_cache = False
    words = ["--base-url", server.url, "--api-key", "tml-x", noun, "list", "--limit", "0"]

    assert app.run([*words, "-f", form]) == 1
    assert out.getvalue() == ""
    assert "Gone." in err.getvalue()


def test_find_suggests_the_other_kind(server, client):
    records = [checkpoint("r", "sampler_weights", "x")]
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": records})
    assert client.checkpoints.find("tinker://r/x").tinker_path == "tinker://r/sampler_weights/x"
    with pytest.raises(NotFound) as caught:
        client.checkpoints.find("tinker://r/weights/x")
    assert caught.value.hint == "Did you mean tinker://r/sampler_weights/x?"


@pytest.mark.parametrize("name", ["unpublish", "delete", "set_ttl"])
@pytest.mark.parametrize("first", ["503", "reset", "429"])
def test_a_retry_that_finds_nothing_is_done_unless_the_first_try_was_refused(
    server, client, naps, name, first
):
    method, suffix = CALLS[name]
    trouble = server.reply(reset=True) if first == "reset" else server.reply("no", int(first))
    place = f"training_runs/r/checkpoints/weights/0001{suffix}"
    server.on(method, place, trouble, server.reply(MISSING, 404))
    with pytest.raises(NotFound) if first == "429" else nullcontext():
        change(client, name)


@pytest.mark.parametrize(
    ("there", "hint"),
    [
        (["sampler_weights/0001"], "Did you mean tinker://r/sampler_weights/0001?"),
        (
            ["sampler_weights/final", "weights/0002", "weights/0003"],
            "In this run there are: tinker://r/weights/0003, tinker://r/weights/0002, "
            "tinker://r/sampler_weights/final.",
        ),
        (
            [f"weights/9{n}" for n in range(9)],
            "In this run there are: tinker://r/weights/90, tinker://r/weights/91, "
            "tinker://r/weights/92 and 6 more.",
        ),
        ([], "The run r has no checkpoints."),
    ],
)
def test_a_suggestion_lists_others_of_the_run(server, client, there, hint):
    server.on("GET", "training_runs/r/checkpoints", listed(*there))
    assert client.checkpoints.suggest(PATH) == hint


def test_a_suggestion_about_a_missing_run(server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply({"detail": "Unknown run"}, 404))
    assert client.checkpoints.suggest(PATH) == "There is no training run r."


@pytest.mark.parametrize("fault", [(500, "x"), (200, "text"), (200, {"checkpoints": 3})])
def test_no_suggestion_where_the_run_cannot_be_listed(server, client, fault, naps):
    status, body = fault
    server.on("GET", "training_runs/r/checkpoints", server.reply(body, status))
    assert client.checkpoints.suggest(PATH) is None


@pytest.mark.parametrize("name", CALLS)
def test_a_change_of_a_missing_checkpoint_is_one_request(server, client, name):
    method, suffix = CALLS[name]
    server.on(
        method, f"training_runs/r/checkpoints/weights/0001{suffix}", server.reply(MISSING, 404)
    )
    with pytest.raises(NotFound):
        change(client, name)
    assert len(server.seen) == 1


def test_a_missing_endpoint_is_not_a_missing_checkpoint(server, client):
    with pytest.raises(NotOffered, match="does not offer publishing"):
        client.checkpoints.publish(PATH)
    assert len(server.seen) == 1


def test_copy_into_a_project(server, client):
    copied = "tinker://new:train:0/weights/0001"
    server.on("POST", "copy_weights", {"tinker_path": copied})
    done = client.checkpoints.copy(PATH, project_id="p", ttl_seconds=7200, access_token="tml-other")
    assert done == copied
    (seen,) = server.seen
    assert seen.body == {"source_path": PATH, "destination_project_id": "p", "ttl_seconds": 7200}
    assert seen.headers["x-tinker-weights-access-token"] == "tml-other"


def test_copy_into_a_new_run(server, client):
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "copy_weights", {"tinker_path": "tinker://s:train:0/weights/0001"})
    server.on("POST", "sessions/s/finish", server.reply(None, 204))
    client.checkpoints.copy(PATH)
    (seen,) = server.requests("copy_weights")
    assert seen.body == {"source_path": PATH, "session_id": "s", "model_seq_id": 0}
    assert "x-tinker-weights-access-token" not in seen.headers
    assert server.requests("sessions/s/finish")[0].body == {"reason": {"type": "success"}}


def test_retries_of_a_copy_have_one_idempotency_key(server, client):
    copied = {"tinker_path": "tinker://p/weights/0001"}
    server.on("POST", "copy_weights", server.reply("busy", 503), server.reply(reset=True), copied)
    client.checkpoints.copy(PATH, project_id="p")
    keys = [seen.headers["x-idempotency-key"] for seen in server.seen]
    assert len(keys) == 3
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (({"tinker_path": "nix"}, 200), InvalidResponse),
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


@pytest.mark.parametrize("types", [["sampler"], ["sampler_weights"]])
def test_a_run_is_downloaded_by_type_whichever_words_its_list_has(types, server, client, tmp_path):
    place = "tinker://r/sampler_weights/a"
    record = {"checkpoint_type": "sampler_weights", "time": "2026-11-22T12:00:00Z"}
    listed = {"checkpoints": [{"tinker_path": place, **record}]}
    server.on("GET", "training_runs/r/checkpoints", listed)
    moved = list(client.checkpoints.sync("r", tmp_path, types=types))
    assert [one.tinker_path for one in moved] == [place]
    assert list(client.checkpoints.sync("r", tmp_path, types=["training"])) == []
    with pytest.raises(UsageError, match="'lora'"):
        client.checkpoints.sync("r", tmp_path, types=["lora"])
