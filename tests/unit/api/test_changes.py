"""Changes to checkpoints: hints about what is missing, copies, and the price of storage."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tinkex.exceptions import InvalidResponse, NotFound, NotOffered, SettingsError, Unauthorized

TIME = "2026-11-22T12:00:00Z"
MISSING = {"detail": "Unknown checkpoint"}
PATH = "tinker://r/weights/0001"


def listed(*names: str) -> dict:
    return {
        "checkpoints": [
            {"checkpoint_id": n, "tinker_path": f"tinker://r/{n}", "time": TIME} for n in names
        ]
    }


CALLS = {
    "publish": ("POST", "/publish"),
    "unpublish": ("DELETE", "/publish"),
    "delete": ("DELETE", ""),
    "set_ttl": ("PUT", "/ttl"),
}


def change(client, name: str, **more) -> None:
    arguments = (PATH, 3600) if name == "set_ttl" else (PATH,)
    getattr(client.checkpoints, name)(*arguments, **more)


@pytest.mark.parametrize("name", ["unpublish", "delete", "set_ttl"])
@pytest.mark.parametrize("first", ["503", "reset", "429"])
def test_missing_after_a_refusal_is_missing_and_after_a_loss_it_is_done(
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
def test_the_hint_about_a_missing_checkpoint_lists_others_of_its_run(server, client, there, hint):
    server.on("GET", "training_runs/r/checkpoints", listed(*there))
    assert client.checkpoints.suggest(PATH) == hint


def test_the_hint_about_a_missing_run(server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply({"detail": "Unknown run"}, 404))
    assert client.checkpoints.suggest(PATH) == "There is no training run r."


@pytest.mark.parametrize("fault", [(500, "x"), (200, "text"), (200, {"checkpoints": 3})])
def test_there_is_no_hint_where_the_run_cannot_be_listed(server, client, fault, naps):
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


def test_an_endpoint_that_is_missing_is_not_a_checkpoint_that_is(server, client):
    with pytest.raises(NotOffered, match="does not offer publishing"):
        client.checkpoints.publish(PATH)
    assert len(server.seen) == 1


# ---------------------------------------------------------------------- copies


def test_copy_into_a_project(server, client):
    copied = "tinker://new:train:0/weights/0001"
    server.on("POST", "copy_weights", {"tinker_path": copied})
    done = client.checkpoints.copy(PATH, project_id="p", ttl_seconds=7200, access_token="tml-other")
    assert done == copied
    (seen,) = server.seen
    assert seen.body == {"source_path": PATH, "destination_project_id": "p", "ttl_seconds": 7200}
    assert seen.headers["x-tinker-weights-access-token"] == "tml-other"


def test_copy_into_a_run_of_its_own(server, client):
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "copy_weights", {"tinker_path": "tinker://s:train:0/weights/0001"})
    server.on("POST", "sessions/s/finish", server.reply(None, 204))
    client.checkpoints.copy(PATH)
    (seen,) = server.requests("copy_weights")
    assert seen.body == {"source_path": PATH, "session_id": "s", "model_seq_id": 0}
    assert "x-tinker-weights-access-token" not in seen.headers
    assert server.requests("sessions/s/finish")[0].body == {"reason": {"type": "success"}}


def test_every_try_of_a_copy_has_the_same_idempotency_key(server, client):
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
def test_a_token_that_no_header_can_carry(client, server, token):
    with pytest.raises(SettingsError) as raised:
        client.checkpoints.copy(PATH, project_id="p", access_token=token)
    assert token not in str(raised.value)
    assert server.seen == []


# ---------------------------------------------------------------------- the price of storage


@pytest.mark.parametrize(
    ("reply", "rate"),
    [
        (({"effective_rate_usd_per_gigabyte_month": 0.31, "data": []}, 200), 0.31),
        (({"effective_rate_usd_per_gigabyte_month": 0}, 200), 0.0),
        (({"effective_rate_usd_per_gigabyte_month": None}, 200), None),
        (({"effective_rate_usd_per_gigabyte_month": "much"}, 200), None),
        (({"effective_rate_usd_per_gigabyte_month": True}, 200), None),
        (({"effective_rate_usd_per_gigabyte_month": -1}, 200), None),
        (({}, 200), None),
        (("text", 200), None),
        (({"detail": "Not Found"}, 404), None),
        (({"detail": "no role"}, 403), None),
        (("oops", 500), None),
    ],
)
def test_the_price_of_storage_is_told_or_unknown(server, client, reply, rate):
    server.on("GET", "billing/usage/checkpoints/current", server.reply(*reply))
    assert client.billing.storage_rate() == rate
    assert len(server.seen) == 1
