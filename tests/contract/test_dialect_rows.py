"""One test for each row of the table of dialects in the manual, named after the row, or a scenario."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from tests.contract.dialects.account import FILES, KEY, LOGPROBS, MODEL, TOKENS, Account, Saved
from tests.contract.dialects.official import Official
from tests.contract.dialects.scenarios import SCENARIOS
from tests.contract.dialects.skyrl import SkyRL, SkyRLMain
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import listening
from tests.weights import weights
from tinkex import exceptions
from tinkex.api import (
    AdamParams,
    AdapterMismatch,
    Datum,
    SamplingParams,
    ServiceClient,
)
from tinkex.api.http.transport import Request
from tinkex.settings import Settings
from tinkex.testing import invoke

PAGE = Path(__file__).resolve().parents[2] / "doc" / "source" / "explanation" / "dialects.rst"
DATUM = Datum([1, 2], {"target_tokens": [2, 3], "weights": [0.0, 1.0]})
ALL = (Official, SkyRL, SkyRLMain, TuFT)
Connect = Callable[..., ServiceClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that starts a server and returns a client of it."""
    with ExitStack() as stack:

        def connect(server: Account, key: str = KEY, **more: Any) -> ServiceClient:
            url = stack.enter_context(listening(server))
            settings = Settings(base_url=url, api_key=key, timeout=10, **more)
            return stack.enter_context(ServiceClient(settings))

        yield connect


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


def keys(server: Account, *below: str) -> list[str | None]:
    """Return the keys that came with the requests below these paths."""
    return [s.headers.get("x-api-key") for s in server.seen if s.path.startswith(below)]


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
    sent = [seen.json for seen in server.seen if seen.method == "POST"]
    assert not [body for body in sent if None in body.values()]  # hatchery refuses null
    for path, members in allowed.items():
        assert [body.keys() for body in bodies(server, path)] != []
        assert all(body.keys() == members for body in bodies(server, path)), path


def test_expiry_and_overwriting(server, connect):
    save(connect(server), ttl_seconds=3600, overwrite=True)
    (body,) = bodies(server, "save_weights")
    assert (body["ttl_seconds"], body["overwrite"]) == (3600, True)


def test_sampler_checkpoint_path(server, connect):
    client = connect(server)
    with client.create_lora_training_client(MODEL) as training:
        saved = training.save_weights_for_sampler("x")
    assert saved.path == f"tinker://{server.new_run}/sampler_weights/x"
    bare = "/sampler_weights/" not in saved.response["path"]
    assert bare is isinstance(server, SkyRL)
    assert client.checkpoints.info(f"tinker://{server.run}/final").tinker_path == server.sampling


def test_optional_fields(server, connect):
    (found, _) = connect(server).checkpoints.list()
    size = None if isinstance(server, SkyRL) else 1000
    assert (found.size_bytes, found.public, found.expires_at) == (size, False, None)


def test_times(server, connect):
    client = connect(server)
    times = [c.time for c in client.checkpoints.list()]
    times += [client.runs.get(server.run).last_request_time]
    assert all(time.tzinfo == UTC and time.hour == 13 for time in times)


def test_archive(server, connect, tmp_path):
    (tmp_path / "out").mkdir()
    connect(server).checkpoints.download(server.sampling, tmp_path / "out")
    for name, content in FILES.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    # The key goes to the server that it is for, and to no storage.
    assert set(keys(server, "/storage")) <= {None}
    assert set(keys(server, "training_runs")) == {KEY}


def test_adapter_files(server, connect, tmp_path, monkeypatch):
    listed, output, expected = ["k_proj", "lm_head"], "lm_head", None
    if isinstance(server, Official):
        listed, output = "all-linear", "model.unembed_tokens"
        expected = AdapterMismatch(("k_proj",), (), ("model.unembed_tokens",))
    elif isinstance(server, SkyRL):
        listed, expected = None, AdapterMismatch(("k_proj", "lm_head"), ("k_proj", "lm_head"), ())
    tensors = [f"base_model.model.{name}.lora_A.weight" for name in ("x.k_proj", output)]
    config = json.dumps({"r": 8, "target_modules": listed}).encode()
    monkeypatch.setitem(FILES, "adapter_config.json", config)
    monkeypatch.setitem(FILES, "adapter_model.safetensors", weights(b"x", tensors))
    (tmp_path / "out").mkdir()  # the staging directory is in it, not in the server's
    done = connect(server).checkpoints.download(server.sampling, tmp_path / "out")
    assert done.mismatch == expected


def test_failed_operation(server, connect):
    client = connect(server)
    training = client.create_lora_training_client(MODEL)
    server.fails = "rank 64 is too high"
    with pytest.raises(exceptions.OperationFailed, match=server.fails) as caught:
        training.save_state("x")
    assert caught.value.category == "user"
    assert len(bodies(server, "save_weights")) == 1


def test_length_and_stop_strings(server, connect):
    sampling = connect(server).create_sampling_client(base_model=MODEL)
    for params in (SamplingParams(), SamplingParams(stop=("\n",)), None):
        (drawn,) = sampling.sample([1, 2], params).sequences
        assert (drawn.tokens, drawn.logprobs) == (tuple(TOKENS), tuple(LOGPROBS))
        assert drawn.stop_reason == "length"
    sent = [body["sampling_params"] for body in bodies(server, "asample")]
    wanted = [(256, None), (256, ["\n"]), (256, None)]
    assert [(s["max_tokens"], s.get("stop")) for s in sent] == wanted


def test_prompt_logprobs(server, connect):
    sampling = connect(server).create_sampling_client(base_model=MODEL)
    found = sampling.sample([1, 2, 3], prompt_logprobs=True)
    assert found.prompt_logprobs == (None, -1.0, -2.0)
    # Servers that do not know this member refuse or ignore it.
    found = sampling.sample([1, 2, 3], prompt_logprobs_last_n=1)
    assert found.prompt_logprobs == (None, None, -2.0)
    with pytest.raises(exceptions.LogprobsUnavailable, match="alternatives to the sampled tokens"):
        sampling.sample([1, 2, 3], topk_logprobs=2)


def test_base_model_check(server, connect):
    with pytest.raises(exceptions.UsageError, match="does not offer the base model 'Other/Model'"):
        connect(server).create_lora_training_client("Other/Model")
    assert bodies(server, "create_model") == []


def test_unknown_ids(server, connect, naps):
    client = connect(server)
    with pytest.raises(exceptions.NotFound, match="nope"):
        client.runs.get("nope")
    with pytest.raises(exceptions.APIError) as caught:
        client.checkpoints.info("tinker://nope/weights/x")
    assert caught.value.status == 404
    with pytest.raises(exceptions.NotFound):
        client.checkpoints.info(f"tinker://{server.run}/weights/nope")
    if isinstance(server, TuFT):
        request = Request("GET", "sessions/nope")
        response = client._transport.once(request, client.deadline("a response"))
        error = client._transport.refusal(response)
        assert isinstance(error, exceptions.ServerError)
        assert str(error) == "Internal Server Error (HTTP 500)"


def test_existing_name(server, connect):
    client = connect(server)
    training = client.create_lora_training_client(MODEL)
    training.save_state("x")
    if isinstance(server, TuFT):
        assert training.save_state("x").path.endswith("/weights/x")
        return
    with pytest.raises(exceptions.Conflict, match="already exists"):
        training.save_state("x")
    assert len(bodies(server, "save_weights")) == 2  # a refusal for good is not repeated


def test_names_with_dots(server, connect):
    training = connect(server).create_lora_training_client(MODEL)
    if not isinstance(server, SkyRL):
        assert training.save_state("v1.5").path.endswith("/weights/v1.5")
        return
    with pytest.raises(exceptions.BadRequest, match="path: String should match pattern"):
        training.save_state("v1.5")


def test_request_order(server, connect):
    training = connect(server).create_lora_training_client(MODEL)
    training.save_state("a")
    if isinstance(server, SkyRL):
        with pytest.raises(exceptions.BadRequest):
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
    with pytest.raises(exceptions.BadRequest, match=f"Model {server.run} not loaded"):
        sampling.sample([1])


@pytest.mark.parametrize("command", ["run --json --prompt-file", "run batch --concurrency 1"])
def test_sampling_an_unloaded_run_says_what_works(command, tmp_path):
    server = SkyRL()
    server.unloaded = True
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("[1]" if "file" in command else '{"tokens": [1]}\n' * 50)
    with listening(server) as url:
        options = ["--model-path", server.sampling, "--base-url", url, "--api-key", KEY]
        done = invoke([*command.split(), str(prompts), *options])
    assert done.exit_code == 1
    assert f"Model {server.run} not loaded" in done.stderr
    assert "tinkex checkpoint --model-path tinker://RUN/weights/NAME" in done.stderr
    assert len(server.requests("POST", "asample")) < 10  # every other row would fail as well


def test_sampler_path(server, connect):
    sampling = connect(server).create_sampling_client(model_path=server.sampling)
    assert sampling.base_model == MODEL
    assert str(sampling.model_path) == server.sampling


def test_training_data(server, connect):
    training = connect(server).create_lora_training_client(MODEL)
    for _ in range(2):
        training.forward_backward([DATUM]).result()

    json, protobuf = "application/json", "application/x-protobuf"
    sent = [s.headers["content-type"] for s in server.requests("POST", "forward_backward")]
    assert sent == ([protobuf, json, json] if type(server) is SkyRL else [protobuf, protobuf])


def test_training_metrics(server, connect):
    training = connect(server).create_lora_training_client(MODEL)

    loss, step = training.forward_backward([DATUM]), training.optim_step(AdamParams(1e-3))

    assert loss.result().outputs == [{"logprobs": [-1.5, -1.5]}]
    assert loss.result().metrics == server.loss_metrics
    assert step.result() == {}


def test_key_check(connect):
    client = connect(TuFT(), key="tml-another-key")
    with pytest.raises(exceptions.Forbidden, match=r"Invalid API key \(HTTP 403\)"):
        client.runs.list()
    with pytest.raises(exceptions.Unauthorized, match=r"Invalid API key \(HTTP 401\)"):
        connect(Official(), key="tml-another-key").runs.list()
    for cls in (SkyRL, SkyRLMain):
        assert len(connect(cls(), key="tml-whatever").runs.list()) == 1


def test_login_endpoints(connect):
    official = Official()
    official.exchanges = True
    assert len(connect(official).runs.list()) == 1
    assert keys(official, "training_runs") == [KEY, official.token]
    assert set(keys(official, "auth/", "client/")) == {KEY}
    for server in (SkyRL(), SkyRLMain(), TuFT()):
        connect(server).runs.list()
        assert [s.path for s in server.seen] == ["training_runs"]
        with pytest.raises(exceptions.NotOffered, match="does not offer information about keys"):
            connect(server).auth.identity()


@pytest.mark.parametrize("limit", [None, 1, 20])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_total_count(server, connect, limit, offset):
    server.runs = [f"run-{number}" for number in range(3)]
    page = connect(server).runs.list(limit=limit, offset=offset)
    end = None if limit is None else offset + limit
    assert [run.training_run_id for run in page] == server.runs[offset:end]


@pytest.mark.parametrize("limit", [1, 2, None])
def test_list_order(server, connect, limit):
    # Each dialect lists what it has in its own order, by the time in its own form.
    times = [server.time.replace("T13", f"T{hour:02d}") for hour in (10, 11, 12)]
    described, described_run = server.described, server.described_run
    server.runs = [f"run-{n}" for n in range(3)]
    server.saved = [Saved(server.runs[0], "weights", str(n)) for n in range(3)]
    server.described = lambda s: described(s) | {"time": times[int(s.name)]}
    server.described_run = lambda r: described_run(r) | {"last_request_time": times[int(r[-1])]}
    if isinstance(server, Official):
        server.runs.reverse()
        server.saved.reverse()
    client = connect(server)
    assert [run.training_run_id[-1] for run in client.runs.list(limit)] == list("210")[:limit]
    for run_id in (None, "run-0"):
        found = client.checkpoints.list(limit, run_id=run_id)
        assert [c.tinker_path[-1] for c in found] == list("210")[:limit]


#: Rows that scenarios hold, which run on every dialect.
SCENARIOS_OF = {
    "Success codes": ("checkpoint", "checkpoint publish", "checkpoint delete"),
    "Request ids": ("checkpoint", "run"),
    "Result type": ("checkpoint", "run"),
    "Checkpoint ids": ("checkpoint list", "checkpoint info"),
    "Run ids": ("run list", "run info"),
    "Account-wide list": ("checkpoint list",),
    "Deleting": ("checkpoint delete",),
    "Publishing and expiry": ("checkpoint publish", "checkpoint unpublish", "checkpoint set-ttl"),
    "Unfinished long poll": ("checkpoint", "run"),
}


def test_every_row_has_a_test():
    rows = re.findall(r"^   \* - (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    tests = {row: f"test_{re.sub('[^a-z]+', '_', row.lower())}" for row in rows}

    assert len(rows) >= 30
    assert {row for row in rows if tests[row] not in globals()} == SCENARIOS_OF.keys()
    assert {name for names in SCENARIOS_OF.values() for name in names} <= SCENARIOS.keys()
