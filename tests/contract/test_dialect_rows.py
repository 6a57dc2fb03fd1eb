"""One test for each row of the table of dialects in the manual, named after the row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from tests.contract.dialects.account import FILES, KEY, LOGPROBS, MODEL, TOKENS, Account
from tests.contract.dialects.official import Official
from tests.contract.dialects.skyrl import SkyRL, SkyRLMain
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import Reply, listening
from tinkex.api import SampleResponse, SamplingParams, ServiceClient, TrainingClient
from tinkex.exceptions import (
    APIError,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    NotOffered,
    OperationFailed,
    ServerError,
    Unauthorized,
    UsageError,
)
from tinkex.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "doc" / "source" / "explanation" / "dialects.rst"
ALL = (Official, SkyRL, SkyRLMain, TuFT)
Connect = Callable[..., ServiceClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that starts a server and returns a client of it."""
    opened: list[Any] = []

    def connect(server: Account, key: str = KEY, **more: Any) -> ServiceClient:
        context = listening(server)
        opened.append(context)
        url = context.__enter__()
        client = ServiceClient(Settings(base_url=url, api_key=key, timeout=10, **more))
        opened.append(client)
        return client

    yield connect
    for thing in reversed(opened):
        thing.__exit__(None, None, None)


@pytest.fixture(params=ALL, ids=lambda cls: cls.__name__.lower())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Account:
    made: Account = request.param()
    if isinstance(made, TuFT):
        made.directory = tmp_path  # type: ignore[misc]
    return made


def save(client: ServiceClient, name: str = "x", **more: Any) -> Any:
    with client.create_lora_training_client(MODEL) as training:
        return training.save_state(name, **more)


def bodies(server: Account, path: str) -> list[Any]:
    return [seen.json for seen in server.requests("POST", path)]


def test_success_codes(server, connect):
    client = connect(server)
    with client.create_lora_training_client(MODEL) as training:  # 200 or 202, with a body
        path = training.save_weights_for_sampler("x").path
    if not isinstance(server, SkyRL):
        client.checkpoints.publish(path)  # 200 or 204, without one
    if type(server) is not SkyRL:
        client.checkpoints.delete(path)
        assert path not in {saved.path for saved in server.saved}


def test_request_ids(server, connect):
    save(connect(server))
    asked = [body["request_id"] for body in bodies(server, "retrieve_future")]
    assert all(isinstance(value, str) for value in asked)
    assert set(asked) == set(server.operations)
    assert not isinstance(server, SkyRL) or all(value.isdecimal() for value in asked)


def test_extra_fields(server, connect):
    client = connect(server)
    client.create_lora_training_client(MODEL).save_weights_for_sampler("x")
    client.create_sampling_client(model_path=server.sampling).sample([1])
    client.checkpoints.info(server.training)
    allowed = {
        "asample": {"sampling_session_id", "num_samples", "prompt", "sampling_params", "seq_id"},
        "create_session": {"tags", "user_metadata", "sdk_version"},
        "create_model": {"session_id", "model_seq_id", "base_model", "lora_config"},
        "save_weights_for_sampler": {"model_id", "seq_id", "path"},
    }
    for path, members in allowed.items():
        assert [body.keys() for body in bodies(server, path)] != []
        assert all(body.keys() == members for body in bodies(server, path)), path


def test_expiry_and_overwriting(server, connect):
    save(connect(server), ttl_seconds=3600, overwrite=True)
    (body,) = bodies(server, "save_weights")
    assert (body["ttl_seconds"], body["overwrite"]) == (3600, True)


def test_project_of_a_session(server, connect):
    connect(server, project_id="p1").create_lora_training_client(MODEL)
    (body,) = bodies(server, "create_session")
    assert body["project_id"] == "p1"


def test_type_of_results(server, connect, monkeypatch):
    original = type(server).result

    def renamed(self: Account, operation: Any, seen: Any) -> Reply:
        reply = original(self, operation, seen)
        if isinstance(reply.body, dict):
            reply.body = {**reply.body, "type": "something else"}
        return reply

    monkeypatch.setattr(type(server), "result", renamed)
    assert save(connect(server)).path == f"tinker://{server.new_run}/weights/x"


def test_path_of_a_sampler_checkpoint(server, connect):
    client = connect(server)
    with client.create_lora_training_client(MODEL) as training:
        saved = training.save_weights_for_sampler("x")
    assert saved.path == f"tinker://{server.new_run}/sampler_weights/x"
    bare = "/sampler_weights/" not in saved.response["path"]
    assert bare is isinstance(server, SkyRL)
    assert client.checkpoints.info(f"tinker://{server.run}/final").tinker_path == server.sampling


def test_checkpoint_ids(server, connect):
    found = {c.tinker_path: c for c in connect(server).checkpoints.list()}
    assert set(found) == {server.training, server.sampling}
    wanted = {server.training: "training", server.sampling: "sampler"}
    assert {path: c.checkpoint_type for path, c in found.items()} == wanted


def test_optional_fields(server, connect):
    (found, _) = connect(server).checkpoints.list()
    size = None if isinstance(server, SkyRL) else 1000
    assert (found.size_bytes, found.public, found.expires_at) == (size, False, None)


def test_times(server, connect):
    client = connect(server)
    times = [c.time for c in client.checkpoints.list()] + [
        client.runs.get(server.run).last_request_time
    ]
    assert all(time.tzinfo == UTC and time.hour == 13 for time in times)


def test_run_ids(server, connect):
    run = connect(server).runs.get(server.run)
    assert run.training_run_id == server.run
    (seen,) = server.requests("GET", "training_runs/{run}")
    assert seen.path == f"training_runs/{server.run}"  # a colon goes as it is


def test_account_wide_list(server, connect):
    page = connect(server).checkpoints.list(limit=None)
    assert {c.tinker_path for c in page} == {server.training, server.sampling}
    assert (page.note is None) is isinstance(server, Official)


def test_deleting(server, connect):
    client = connect(server)
    if type(server) is SkyRL:
        with pytest.raises(NotOffered, match="does not offer deleting checkpoints"):
            client.checkpoints.delete(server.training)
        return
    client.checkpoints.delete(server.training)
    with pytest.raises(NotFound):
        client.checkpoints.delete(server.training)


def test_publishing_and_expiry(server, connect):
    client = connect(server)
    calls = {
        "publishing": lambda: client.checkpoints.publish(server.sampling),
        "unpublishing": lambda: client.checkpoints.unpublish(server.sampling),
        "expiry of checkpoints": lambda: client.checkpoints.set_ttl(server.sampling, 3600),
    }
    words = list(calls)
    lacks = {"Official": [], "TuFT": words[1:]}.get(type(server).__name__, words)
    for what, call in calls.items():
        if what not in lacks:
            call()
            continue
        with pytest.raises(NotOffered, match=f"does not offer {what}"):
            call()


def test_archive(server, connect, tmp_path):
    (tmp_path / "out").mkdir()
    connect(server).checkpoints.download(server.sampling, tmp_path / "out")
    for name, content in FILES.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    # The key goes to the server that it is for, and to no storage.
    assert [
        s.path for s in server.seen if s.path.startswith("/storage") and "x-api-key" in s.headers
    ] == []
    assert all(
        s.headers["x-api-key"] == KEY for s in server.seen if s.path.startswith("training_runs")
    )


def test_archive_of_a_training_checkpoint_is_never_that_of_the_sampler(connect, tmp_path):
    server = SkyRL()
    with pytest.raises(NotOffered, match="no download of training checkpoints"):
        connect(server).checkpoints.download(server.training, tmp_path / "out")
    assert server.requests("GET", "training_runs/{run}/checkpoints/{name}/archive") == []
    assert not (tmp_path / "out").exists()


def test_failed_operation(server, connect):
    client = connect(server)
    training = client.create_lora_training_client(MODEL)
    server.fails = "rank 64 is above the maximum of 32"
    with pytest.raises(OperationFailed, match="rank 64 is above the maximum of 32") as caught:
        training.save_state("x")
    assert caught.value.category == "user"
    assert len(bodies(server, "save_weights")) == 1


def test_end_of_a_long_poll(server, connect):
    save(connect(server))
    assert all(operation.polls == 2 for operation in server.operations.values())


def test_length_and_stop_texts(server, connect):
    sampling = connect(server).create_sampling_client(base_model=MODEL)
    for params in (SamplingParams(), SamplingParams(stop=("\n",)), None):
        response = sampling.sample([1, 2], params)
        assert response.sequences[0].tokens == tuple(TOKENS)
        assert response.sequences[0].logprobs == tuple(LOGPROBS)
        assert response.sequences[0].stop_reason == "length"
    sent = [body["sampling_params"] for body in bodies(server, "asample")]
    assert [(s["max_tokens"], s.get("stop")) for s in sent] == [
        (256, None),
        (256, ["\n"]),
        (256, None),
    ]


def test_prompt_logprobs(connect):
    for server in (Official(), SkyRL(), SkyRLMain(), TuFT()):
        client = connect(server)
        sampling = client.create_sampling_client(base_model=MODEL)
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]}
        body = {
            "sampling_session_id": sampling.sampling_session_id,
            "num_samples": 1,
            "prompt": prompt,
            "sampling_params": SamplingParams().body(),
            "prompt_logprobs": True,
        }
        result = sampling._result(body, 3, client.deadline("sampling"))
        assert SampleResponse.from_json(result, 3).prompt_logprobs == (None, -1.0, -2.0)


def test_base_model_check(server, connect):
    with pytest.raises(UsageError, match="does not offer the base model 'Other/Model'"):
        connect(server).create_lora_training_client("Other/Model")
    assert bodies(server, "create_model") == []


def test_unknown_things(server, connect):
    client = connect(server)
    with pytest.raises(NotFound, match="nope"):
        client.runs.get("nope")
    with pytest.raises(APIError) as caught:
        client.checkpoints.info("tinker://nope/weights/x")
    assert caught.value.status == 404
    if isinstance(server, TuFT):
        error = client._transport.refusal(_answer_of(client, "sessions/nope"))
        assert isinstance(error, ServerError)
        assert str(error) == "Internal Server Error (HTTP 500)"


def _answer_of(client: ServiceClient, path: str) -> Any:
    from tinkex.api.http.transport import Request

    return client._transport.once(Request("GET", path), client.deadline("an answer"))


def test_name_clash(server, connect):
    client = connect(server)
    training = client.create_lora_training_client(MODEL)
    training.save_state("x")
    if isinstance(server, TuFT):
        assert training.save_state("x").path.endswith("/weights/x")
        return
    with pytest.raises(Conflict, match="already exists"):
        training.save_state("x")
    assert len(bodies(server, "save_weights")) == 2  # a refusal for good is not repeated


def test_names_with_dots(server, connect):
    training = connect(server).create_lora_training_client(MODEL)
    if not isinstance(server, SkyRL):
        assert training.save_state("v1.5").path.endswith("/weights/v1.5")
        return
    with pytest.raises(BadRequest, match="path: String should match pattern"):
        training.save_state("v1.5")


def test_order_of_requests(server, connect):
    training = connect(server).create_lora_training_client(MODEL)
    training.save_state("a")
    if isinstance(server, SkyRL):
        with pytest.raises(BadRequest):
            training.save_state("refused.name")
    training.save_state("b")
    training.save_weights_for_sampler("c")
    numbers = [s.json["seq_id"] for s in server.seen if s.path.startswith("save_weights")]
    # The refused one has not used its number up.
    assert numbers == ([1, 2, 2, 3] if isinstance(server, SkyRL) else [1, 2, 3])


def test_sampling_after_unloading(connect):
    server = SkyRL()
    server.unloaded = True
    sampling = connect(server).create_sampling_client(model_path=server.sampling)
    with pytest.raises(BadRequest, match=f"Model {server.run} not loaded"):
        sampling.sample([1])


def test_path_of_a_sampler(server, connect):
    sampling = connect(server).create_sampling_client(model_path=server.sampling)
    assert sampling.base_model == MODEL
    assert str(sampling.model_path) == server.sampling


def test_training_metrics():
    # Nothing to put right as long as tinkex makes no training steps.
    assert not hasattr(TrainingClient, "forward_backward")


def test_key_check(connect):
    client = connect(TuFT(), key="tml-another-key-of-somebody")
    with pytest.raises(Forbidden, match=r"Invalid API key \(HTTP 403\)"):
        client.runs.list()
    with pytest.raises(Unauthorized, match=r"Invalid API key \(HTTP 401\)"):
        connect(Official(), key="tml-another-key-of-somebody").runs.list()
    for cls in (SkyRL, SkyRLMain):
        assert len(connect(cls(), key="tml-whatever").runs.list()) == 1


def test_login_endpoints(connect):
    official = Official()
    official.exchanges = True
    assert len(connect(official).runs.list()) == 1
    assert [s.headers["x-api-key"] for s in official.requests("GET", "training_runs")] == [
        KEY,
        official.token,
    ]
    assert all(
        s.headers["x-api-key"] == KEY
        for s in official.seen
        if s.path.startswith(("auth/", "client/"))
    )
    for server in (SkyRL(), SkyRLMain(), TuFT()):
        connect(server).runs.list()
        assert [s.path for s in server.seen] == ["training_runs"]
        with pytest.raises(NotOffered, match="does not offer information about keys"):
            connect(server).auth.identity()


@pytest.mark.parametrize("limit", [None, 1, 20])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_total_count(server, connect, limit, offset):
    server.runs = [f"run-{number}" for number in range(3)]
    page = connect(server).runs.list(limit=limit, offset=offset)
    end = None if limit is None else offset + limit
    assert [run.training_run_id for run in page] == server.runs[offset:end]


def rows() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^   \* - (.+)$", text, re.MULTILINE)[1:]


def test_every_row_has_a_test():
    wanted = {f"test_{re.sub('[^a-z]+', '_', row.lower())}" for row in rows()}

    assert len(wanted) == 29
    assert wanted - set(globals()) == set()
