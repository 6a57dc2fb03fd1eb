"""Training requests: order, results, failures, and what a killed process leaves."""

import contextlib
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.bigram import A, B, BigramEngine, example, loss_body
from tests.full_disk import files_up_to
from tinkex.api.http.protobuf import forward_backward_output, forward_backward_request
from tinkex_local.app import create_app
from tinkex_local.engines import runner as runners
from tinkex_local.engines.choice import Engines
from tinkex_local.state import checkpoints
from tinkex_local.state.models import LocalModel, built_in
from tinkex_local.state.paths import parse
from tinkex_local.wire.protobuf import RECORDS

BASE_MODEL = "tinkex/baker-street-2M"
PROTOBUF = "application/x-protobuf"
STEP = {"learning_rate": 0.1}


@pytest.fixture
def engine():
    return BigramEngine()


@pytest.fixture
def client(opened, engine):
    return opened(engines=[engine])


@pytest.fixture
def run(client):
    return client.model()


@pytest.fixture
def submit(client, run):
    """Return a function that submits a request of the run and returns the response."""

    def submit(seq, *data, call="forward_backward", raw=None, **changes):
        if call == "optim_step":
            body = {"model_id": run, "seq_id": seq, "adam_params": STEP | changes}
        elif call.startswith(("save", "load")):
            body = {"model_id": run, "seq_id": seq, **changes}
        else:
            body = loss_body(run, seq, list(data) or None, **changes)
        if call == "forward":
            body["forward_input"] = body.pop("forward_backward_input")
        answer = client.post(call, body)
        assert answer.status == 200, answer.body
        return answer.json["request_id"]

    return submit


@pytest.fixture
def files(client):
    """Return a function from a checkpoint's path to the arrays in one of its files."""

    def files(path, name="adapter_model.safetensors"):
        row = checkpoints.find(client.app.service, parse(path))
        return load_file(client.app.service.checkpoints / row["id"] / name)

    return files


def test_a_loss_falls_and_the_checkpoint_samples_what_was_learned(client, submit, sampling_body):
    lesson = example([5, 6, 7, 8])
    losses = []
    for seq in range(1, 21, 2):
        both = submit(seq, lesson), submit(seq + 1, call="optim_step")
        result, step = map(client.retrieve, both)
        losses.append(result["metrics"]["loss:sum"])
        assert step["metrics"]["unclipped_grad_l2:mean"] > 0
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(3 * np.log(2048), rel=1e-5)
    path = client.retrieve(submit(21, call="save_weights_for_sampler", path="a"))["path"]
    sampler = client.sampler(model_path=path)
    body = sampling_body(sampler, tokens=[5], params={"max_tokens": 3, "temperature": 0})
    assert client.result("asample", body)["sequences"][0]["tokens"] == [6, 7, 8]


def test_a_result_is_the_same_in_json_and_protobuf(client, run):
    wide = {"data": [6, 9, 7, 8], "dtype": "int64", "shape": [2, 2]}
    weights = {"data": [0.5, 0.25, 1, -2], "dtype": "float32", "shape": [2, 2]}
    rows = [example([5, 6, 7]), example([5, 6, 7]), example([5, 6])]
    rows[1]["loss_fn_inputs"] |= {"target_tokens": wide, "weights": weights}
    body = loss_body(run, 1, rows)
    raw = forward_backward_request(body, forward_only=True)
    answers = [
        client.post("forward", {**body, "forward_input": body["forward_backward_input"]}).json,
        client.request(
            "POST",
            "forward_backward",
            raw=forward_backward_request(body | {"seq_id": 2}, forward_only=True),
            **{"content-type": PROTOBUF},
        ).json,
    ]
    assert raw != b""
    results = [client.retrieve(answer["request_id"]) for answer in answers]
    assert results[0] == results[1]
    assert [row["logprobs"]["shape"] for row in results[0]["loss_fn_outputs"]] == [[2], [2, 2], [1]]
    assert results[0]["loss_fn_output_type"] == RECORDS
    expected = sum(
        -np.dot(row["logprobs"]["data"], given["loss_fn_inputs"]["weights"]["data"])
        for row, given in zip(results[0]["loss_fn_outputs"], rows, strict=True)
    )
    assert results[0]["metrics"]["loss:sum"] == pytest.approx(expected)
    request = {"request_id": answers[0]["request_id"]}
    encoded = client.post("retrieve_future", request, accept=PROTOBUF)
    assert encoded.headers["content-type"] == PROTOBUF
    decoded = forward_backward_output(encoded.body)
    assert decoded == {name: results[0][name] for name in decoded}


def test_a_sparse_tensor_is_the_dense_one_it_stands_for(client, run):
    dense = {"data": [0.0, 2.0, 0.0, 3.0], "dtype": "float32", "shape": [2, 2]}
    sparse = {"data": [2.0, 3.0], "dtype": "float32", "shape": [2, 2]}
    sparse |= {"sparse_crow_indices": [0, 1, 2], "sparse_col_indices": [1, 1]}
    losses = []
    for seq, weights in ((1, dense), (2, sparse)):
        row = example([5, 6, 7])
        target = {"data": [6, 9, 7, 8], "dtype": "int64", "shape": [2, 2]}
        row["loss_fn_inputs"] |= {"target_tokens": target, "weights": weights}
        losses.append(client.result("forward_backward", loss_body(run, seq, [row]))["metrics"])
    assert losses[0] == losses[1]


# Order


@pytest.fixture
def short_polls(monkeypatch):
    """Let polls return at once that have nothing to compute."""
    monkeypatch.setattr("tinkex_local.wire.routes.PATIENCE", "none")
    monkeypatch.setattr("tinkex_local.wire.routes.POLL_SECONDS", 0.05)


def test_requests_are_computed_in_the_order_of_their_numbers(
    client, engine, run, submit, short_polls
):
    """As the SDK sends chunks: the first one last, and the step with them."""
    late = [submit(3), submit(4, call="optim_step"), submit(2)]
    assert client.post("retrieve_future", {"request_id": late[1]}).json["type"] == "try_again"
    first = submit(1)
    assert client.retrieve(late[1])["type"] == "optim_step"
    assert engine.calls == [("load", run), *[("forward backward", run)] * 3, ("optim_step", run)]
    assert {client.retrieve(name)["type"] for name in (first, *late)} >= {"forward_backward"}


def test_a_poll_that_waits_for_an_earlier_request_is_woken_by_it(client, submit, monkeypatch):
    waiting = threading.Event()
    wait = runners.Runner._wait_for
    monkeypatch.setattr(runners.Runner, "_wait_for", lambda *a: waiting.set() or wait(*a))
    second, outcomes = submit(2), []
    thread = threading.Thread(target=lambda: outcomes.append(client.retrieve(second)))
    thread.start()
    assert waiting.wait(60)
    submit(1)
    thread.join(60)
    assert outcomes[0]["type"] == "forward_backward"


def test_a_request_whose_predecessor_never_arrives_fails_with_all_steps_after_it(
    client, clock, engine, run, submit, short_polls
):
    done, second, step = submit(1), submit(3), submit(4, call="optim_step")
    saved = submit(5, call="save_weights", path="a")
    client.retrieve(done)
    assert client.post("retrieve_future", {"request_id": second}).json["type"] == "try_again"
    clock.now += runners.GAP_SECONDS + 1
    assert "Request 2 for this model has not arrived" in client.retrieve(second)["error"]
    assert "the earlier request 3 failed" in client.retrieve(step)["error"]
    assert client.retrieve(saved)["path"].endswith("/weights/a")
    assert ("optim_step", run) not in engine.calls
    assert engine.runs[run].gradients == {}
    assert client.post("forward_backward", loss_body(run, 2)).status == 409
    assert client.retrieve(submit(6))["type"] == "forward_backward"


def test_a_refused_request_does_not_hold_up_those_after_it(client, run, submit):
    refused = [
        loss_body(run, 1, loss_fn="nonsense"),
        {"model_id": run, "seq_id": 2, "forward_backward_input": 5},
    ]
    for body in refused:
        assert client.post("forward_backward", body).status in (400, 422)
    raw = forward_backward_request(loss_body(run, 3, loss_fn="nonsense"))
    headers = {"content-type": PROTOBUF}
    assert client.request("POST", "forward_backward", raw=raw, **headers).status == 400
    assert client.post("save_weights", {"model_id": run, "seq_id": 4, "path": "/"}).status == 422
    assert client.retrieve(submit(5))["type"] == "forward_backward"


def test_a_corrected_request_may_use_the_number_of_a_refused_one(client, run, submit):
    assert client.post("forward_backward", loss_body(run, 1, loss_fn="nonsense")).status == 400
    assert client.retrieve(submit(1))["type"] == "forward_backward"
    assert client.post("forward_backward", loss_body(run, 1, loss_fn="nonsense")).status == 400
    assert client.retrieve(submit(1))["type"] == "forward_backward"
    assert client.post("forward_backward", loss_body(run, 1, [example([8, 9])])).status == 409


def test_several_runs_and_clients_train_at_once(client, engine, monkeypatch):
    monkeypatch.setattr(runners, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(runners, "MAX_JOBS", 2)
    models = [client.model(number=0) for _ in range(4)]
    seen = {}

    def train(model):
        rows = [example([5, 6, 7])] * 6
        ids = [
            client.post("forward_backward", loss_body(model, 1, rows)).json["request_id"],
            client.post("optim_step", {"model_id": model, "seq_id": 2, "adam_params": STEP}).json[
                "request_id"
            ],
            client.post("forward_backward", loss_body(model, 3, rows)).json["request_id"],
        ]
        seen[model] = [client.retrieve(name) for name in ids]

    threads = [threading.Thread(target=train, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == sorted(models)
    results = list(seen.values())
    assert all(result == results[0] for result in results)  # one seed
    assert results[0][2]["metrics"]["loss:sum"] < results[0][0]["metrics"]["loss:sum"]


def test_polls_keep_the_session_alive(client, clock, submit):
    request = submit(1)
    clock.now += 10_000
    active = {"statuses": [{"type": "active"}]}
    assert client.post("sessions/search", active).json["sessions"] == []
    client.retrieve(request)
    assert len(client.post("sessions/search", active).json["sessions"]) == 1


# Saving and loading


def test_a_saved_and_loaded_run_continues_as_one_that_was_not_interrupted(client, submit, files):
    def trained(model, first):
        for seq in range(first, first + 4, 2):
            step = {"model_id": model, "seq_id": seq + 1, "adam_params": STEP}
            client.result("forward_backward", loss_body(model, seq))
            client.result("optim_step", step)
        saved = {"model_id": model, "seq_id": first + 4, "path": f"n{first}"}
        return client.result("save_weights", saved)["path"]

    run = client.model()
    middle = trained(run, 1)
    end = files(trained(run, 6))
    loads = {}
    for optimizer in (True, False):
        body = {"path": middle, "optimizer": optimizer, "model_seq_id": 0}
        loaded = client.result("load_weights", body | {"session_id": client.session()})
        loads[optimizer] = files(trained(loaded["model_id"], 1))
    into = client.model()
    client.result("forward_backward", loss_body(into, 1))
    body = {"model_id": into, "seq_id": 2, "path": middle, "optimizer": True}
    assert client.result("load_weights", body)["model_id"] == into
    loads["into"] = files(trained(into, 3))
    for name in (A, B):
        assert np.array_equal(loads[True][name], end[name])
        assert np.array_equal(loads["into"][name], end[name])
        assert not np.array_equal(loads[False][name], end[name])


@pytest.mark.parametrize("call", ["save_weights", "save_weights_for_sampler"])
def test_only_training_checkpoints_have_the_state_of_the_optimizer(client, submit, files, call):
    submit(1), submit(2, call="optim_step")
    path = client.retrieve(submit(3, call=call, path="a"))["path"]
    kept = call == "save_weights"
    (names,) = [
        [item.name for item in directory.iterdir()]
        for directory in client.app.service.checkpoints.iterdir()
    ]
    assert ("optimizer.safetensors" in names) == kept
    assert "adapter_config.json" in names
    assert files(path)[B].any()


def test_a_checkpoint_without_the_state_of_the_optimizer_says_so(client, submit, files):
    submit(1), submit(2, call="optim_step")
    path = client.retrieve(submit(3, call="save_weights", path="a"))["path"]
    row = checkpoints.find(client.app.service, parse(path))
    (client.app.service.checkpoints / row["id"] / "optimizer.safetensors").unlink()
    body = {"path": path, "session_id": client.session(), "model_seq_id": 0}
    outcome = client.result("load_weights", body | {"optimizer": True})
    assert "has no optimizer state" in outcome["error"]


def test_a_save_for_a_sampler_takes_its_place_in_the_order(client, submit, sampling_body):
    submit(1), submit(2, call="optim_step")
    early = submit(3, call="save_weights_for_sampler", sampling_session_seq_id=7)
    submit(4), submit(5, call="optim_step")
    late = submit(6, call="save_weights_for_sampler", sampling_session_seq_id=8)
    samplers = [client.retrieve(name)["sampling_session_id"] for name in (early, late)]
    body = {"tokens": [5], "params": {"max_tokens": 1, "temperature": 0}}
    first, second = (
        client.result("asample", sampling_body(name, **body))["sequences"][0] for name in samplers
    )
    assert first["tokens"] == second["tokens"] == [6]
    assert first["logprobs"][0] < second["logprobs"][0]


def test_a_name_is_used_once_unless_it_may_be_overwritten(client, submit):
    submit(1)
    first = submit(2, call="save_weights", path="a")
    again = submit(3, call="save_weights", path="a")
    submit(4, call="optim_step")
    over = submit(5, call="save_weights", path="a", overwrite=True)
    path = client.retrieve(first)["path"]
    assert client.retrieve(again)["error"] == f"The checkpoint {path} already exists"
    assert client.retrieve(over)["path"] == path
    assert len(client.checkpoints()) == len(list(client.app.service.checkpoints.iterdir())) == 1


@pytest.mark.parametrize("how", ["finish", "leave"])
def test_snapshots_for_samplers_are_removed_after_the_session(client, clock, run, submit, how):
    client.retrieve(submit(1))
    client.retrieve(submit(2, call="save_weights_for_sampler", sampling_session_seq_id=1))
    kept = client.retrieve(submit(3, call="save_weights", path="a"))["path"]
    session = run.partition(":")[0]
    clock.now += 80_000
    client.post("session_heartbeat", {"session_id": session})
    clock.now += 80_000
    client.get("healthz")
    assert len(list(client.app.service.checkpoints.iterdir())) == 2
    if how == "finish":
        client.post(f"sessions/{session}/finish", {})
    clock.now += 80_000
    client.get("healthz")
    assert [entry["tinker_path"] for entry in client.checkpoints()] == [kept]
    assert len(list(client.app.service.checkpoints.iterdir())) == 1


def test_a_full_disk_fails_the_save_and_nothing_else(client, submit):
    submit(1)
    client.retrieve(submit(2, call="optim_step"))
    request = submit(3, call="save_weights", path="a")
    with files_up_to(220_000):
        outcome = client.retrieve(request)
    assert outcome["error"].startswith("cannot write the checkpoint")
    assert client.checkpoints() == []
    assert list(client.app.service.checkpoints.iterdir()) == []
    assert client.retrieve(submit(4, call="save_weights", path="a"))["path"]


# Failures


@pytest.fixture(scope="module")
def refused(tmp_path_factory, client_of):
    """Return a function that posts a body to a service shared by tests, and returns the answer."""
    with contextlib.closing(
        create_app(tmp_path_factory.mktemp("refused"), engines=[BigramEngine()])
    ) as app:
        client = client_of(app)
        run = client.model()

        def refused(rows=None, raw=None, **changes):
            body = loss_body(run, 1, rows)
            body["forward_backward_input"] |= changes
            headers = {} if raw is None else {"content-type": PROTOBUF}
            answer = client.request("POST", "forward_backward", body, raw, **headers)
            assert answer.status in (400, 404, 422)
            return answer.json["detail"]

        refused.run = run
        yield refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss_fn": "gspo"}, "Unknown loss_fn 'gspo'; this service supports: cross_entropy"),
        ({"loss_fn_config": {"beta": 1}}, "'beta' in loss_fn_config; valid keys for cross_entropy"),
        ({"data": []}, "data is empty"),
        ({"data": [example([5])]}, "data[0].model_input is empty"),
        ({"data": [example([5] * 1026)]}, "data[0].model_input has 1025 tokens; the model's"),
        ({"data": [example([5, 6]), example([5, 2048])]}, "Token 2048 in data[1].loss_fn_inputs.t"),
        ({"data": [example([2048, 5])]}, "Token 2048 in data[0].model_input is outside"),
        ({"data": [example([5, 6, 7], weights=[1.0])]}, "weights has 1 values, but its shape is"),
        ({"loss_fn": "importance_sampling"}, "data[0].loss_fn_inputs.logprobs is missing"),
    ],
)
def test_an_invalid_batch_is_refused_with_the_field(refused, changes, words):
    assert words in refused(**changes)


def tensor(**changes):
    row = example([5, 6, 7])
    row["loss_fn_inputs"]["weights"] |= changes
    return row


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (tensor(data=[1.0], shape=[1]), "weights has the shape [1], but target_tokens has the sh"),
        (tensor(data=[1.0, 1e39]), "weights contains a value that is not finite"),
        (tensor(shape=[2**30]), "weights is too large"),
        (tensor(sparse_crow_indices=[0]), "weights is not a valid sparse matrix"),
        (
            tensor(shape=[2, 2], sparse_crow_indices=[0, 2, 1], sparse_col_indices=[0, 1]),
            "weights is not a valid sparse matrix",
        ),
        (
            tensor(shape=[2, 2], sparse_crow_indices=[0, 1, -1], sparse_col_indices=[0, 1]),
            "weights has an index out of range",
        ),
        ({**tensor(), "model_input": {"chunks": [{"type": "image"}]}}, "only encoded_text"),
    ],
)
def test_an_invalid_tensor_is_refused_with_its_name(refused, row, words):
    detail = refused([row])
    assert words in detail
    assert "data[0]" in detail


def test_targets_are_whole_numbers_of_the_right_type(refused):
    for target in ({"data": [6.5, 7]}, {"dtype": "float32"}):
        row = example([5, 6, 7])
        row["loss_fn_inputs"]["target_tokens"] |= target
        assert "target_tokens" in refused([row])


@pytest.mark.parametrize("raw", [b"\xff" * 20, b"\x0a\x01m", b"\x10\x01", b"", b"\x1a\x02\x08\x01"])
def test_malformed_protobuf_is_refused(refused, raw):
    assert refused(raw=raw)


def test_every_cut_of_a_protobuf_body_is_refused(refused, caplog):
    raw = forward_backward_request(loss_body(refused.run, 1, loss_fn="nonsense"))
    assert all(refused(raw=raw[:end]) for end in range(len(raw)))
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Not enough memory"),
        (ZeroDivisionError(), "Internal error"),
    ],
)
def test_a_failure_fails_the_steps_that_were_sent_with_it(
    client, engine, run, submit, error, words
):
    def fail():
        raise error

    client.retrieve(submit(1))
    engine.on["forward"] = fail
    failed, step = submit(2), submit(3, call="optim_step")
    assert words in client.retrieve(failed)["error"]
    assert "the earlier request 2 failed" in client.retrieve(step)["error"]
    del engine.on["forward"]
    # Nothing is left of the batch: the same again is computed as the first time.
    again = client.retrieve(submit(4))
    client.retrieve(submit(5, call="optim_step"))
    assert again["metrics"]["loss:sum"] == pytest.approx(2 * np.log(2048), rel=1e-5)
    assert engine.runs[run].moments["step"] == [1]


def test_an_interrupted_computation_starts_over(client, engine, run, submit):
    def interrupt():
        del engine.on["forward"]
        raise KeyboardInterrupt

    engine.on["forward"] = interrupt
    request = submit(1)
    with pytest.raises(KeyboardInterrupt):
        client.retrieve(request)
    assert engine.runs[run].gradients == {}
    assert client.retrieve(request)["type"] == "forward_backward"
    assert [name for name, _ in engine.calls].count("forward backward") == 2


def test_a_request_that_is_not_polled_gives_way_to_others(client, engine, run, monkeypatch):
    """Its unfinished work is closed, has added no gradients, and starts over when it is polled."""
    monkeypatch.setattr(runners, "MAX_JOBS", 1)
    monkeypatch.setattr(runners, "IDLE_SECONDS", -1.0)
    monkeypatch.setattr(runners, "TURN_SECONDS", 0.0)
    other, stopping = client.model(), client.app.service.stopping
    first, second = (
        client.post("forward_backward", loss_body(model, 1, [example([5, 6, 7])] * 3)).json
        for model in (run, other)
    )
    engine.on["forward"] = stopping.set
    assert client.post("retrieve_future", first).json["type"] == "try_again"
    del engine.on["forward"]
    stopping.clear()
    for accepted in (second, first):
        assert client.retrieve(accepted["request_id"])["type"] == "forward_backward"
    calls = [name for name in engine.calls if name[0] == "forward backward"]
    assert calls == [("forward backward", name) for name in (run, other, run)]
    one, two = (engine.runs[name].gradients[B] for name in (run, other))
    assert np.array_equal(one, two)


def test_a_loss_that_is_not_finite_is_a_failure(client, engine, run, submit):
    rows = [example([5, 6], logprobs=[-3e38], advantages=[1.0])]
    outcome = client.retrieve(submit(1, *rows, loss_fn="importance_sampling"))
    assert (outcome["category"], "loss:sum is -inf" in outcome["error"]) == ("user", True)
    assert engine.runs[run].gradients == {}


def test_another_optimizer_is_refused(client):
    body = {"session_id": client.session(), "model_seq_id": 0, "base_model": BASE_MODEL}
    answer = client.post("create_model", body | {"optimizer_config": {"type": "dimuon"}})
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "optimizer_config", "type"]


def test_a_missing_parameter_of_the_optimizer_is_named(client, run):
    body = {"model_id": run, "seq_id": 1}
    assert "adam_params" in client.post("optim_step", body).json["detail"]
    wrong = client.post("optim_step", body | {"adam_params": {"beta1": 1}}).json["detail"]
    assert wrong[0]["loc"] == ["body", "adam_params", "beta1"]


def test_a_result_that_cannot_be_recorded_is_computed_once(client, engine, submit, monkeypatch):
    """A second computation would add the gradients twice."""
    store = client.app.service.store
    write, request = store.write, submit(1)

    def full(sql, *values):
        if sql.startswith("UPDATE operations"):
            raise OSError(28, "No space left on device")
        return write(sql, *values)

    monkeypatch.setattr(store, "write", full)
    assert client.post("retrieve_future", {"request_id": request}).status == 500
    monkeypatch.setattr(store, "write", write)
    assert client.retrieve(request)["type"] == "forward_backward"
    assert [name for name, _ in engine.calls].count("forward backward") == 1


# Processes


def test_training_that_ended_with_its_process_is_reported(client, opened, run, submit):
    submit(1), submit(2, call="optim_step")
    path = client.retrieve(submit(3, call="save_weights", path="a"))["path"]
    pending = submit(4)
    client.app.close()
    other = opened(engines=[BigramEngine()])
    why = f"the unsaved training progress is lost; the last checkpoint is {path}"
    assert why in other.retrieve(pending)["error"]
    for call, body in (
        ("forward_backward", loss_body(run, 5)),
        ("optim_step", {"model_id": run, "seq_id": 5, "adam_params": STEP}),
        ("save_weights", {"model_id": run, "seq_id": 5, "path": "b"}),
    ):
        answer = other.post(call, body)
        assert (answer.status, why in answer.json["detail"]) == (400, True)
    body = {"path": path, "optimizer": True, "session_id": other.session(), "model_seq_id": 0}
    loaded = other.result("load_weights", body)["model_id"]
    continued = other.result("forward_backward", loss_body(loaded, 1))["metrics"]["loss:sum"]
    assert continued < 2 * np.log(2048) - 1


def test_requests_that_were_not_begun_survive_the_process(client, opened, submit):
    requests = [submit(1), submit(2, call="optim_step"), submit(3)]
    client.app.close()
    other = opened(engines=[BigramEngine()])
    results = [other.retrieve(name) for name in requests]
    assert [result["type"] for result in results] == [
        *("forward_backward", "optim_step", "forward_backward")
    ]
    first, last = (results[index]["metrics"]["loss:sum"] for index in (0, 2))
    assert last < first


def test_a_lost_run_without_a_checkpoint_says_so(client, opened, submit):
    client.retrieve(submit(1))
    pending = submit(2)
    client.app.close()
    assert "no checkpoint exists" in opened(engines=[BigramEngine()]).retrieve(pending)["error"]


def test_arrays_of_results_are_kept_for_an_hour(client, clock, submit):
    request = submit(1)
    client.retrieve(request)
    clock.now += 3 * 3600
    assert client.get("healthz").status == 200
    answer = client.post("retrieve_future", {"request_id": request})
    assert answer.status == 410


@pytest.mark.parametrize("how", ["unload", "finish"])
def test_a_run_that_has_ended_leaves_the_engine(client, engine, run, submit, how):
    client.retrieve(submit(1))
    if how == "unload":
        client.result("unload_model", {"model_id": run})
    else:
        client.post(f"sessions/{run.partition(':')[0]}/finish", {})
    client.result("forward_backward", loss_body(client.model(), 1))
    assert run not in engine.runs
    answer = client.post("forward_backward", loss_body(run, 2))
    if how == "unload":
        assert answer.status == 400
    else:
        outcome = client.retrieve(answer.json["request_id"])
        assert "discarded when the session ended" in outcome["error"]


# Engines


def test_without_an_engine_that_trains_the_error_says_how_to_install_one(opened):
    client = opened(engines=[])
    run = client.model()
    assert client.get("get_server_capabilities").json["supported_models"][0]["trainable"] is False
    for call, body in (
        ("forward_backward", loss_body(run, 1)),
        ("optim_step", {"model_id": run, "seq_id": 1, "adam_params": STEP}),
    ):
        answer = client.post(call, body)
        assert answer.status == 400
        assert "'pip install tinkex-torch' adds an engine" in answer.json["detail"]


class EntryPoint:
    def __init__(self, name, load):
        self.name, self.load = name, load


def test_an_installed_engine_is_preferred_and_a_broken_one_skipped(monkeypatch, caplog):
    def broken():
        raise ImportError("no such library")

    found = [EntryPoint("torch", lambda: BigramEngine), EntryPoint("aaa", broken)]
    found.append(EntryPoint("onnx", broken))  # it is imported only where no other serves the model
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)
    model, engines = built_in(BASE_MODEL), Engines()
    assert (engines.name_for(model), engines.trains(model)) == ("bigram", True)
    assert isinstance(engines.engine(model), BigramEngine)
    assert "the engine aaa failed: ImportError: no such library" in caplog.text
    other = LocalModel("me/other", model.directory)
    assert (engines.name_for(other), engines.trains(other)) == ("onnx", False)
    assert engines.engine(other).name == "onnx"
    assert engines.name_for(LocalModel("me/gone", model.directory / "gone")) is None


def test_a_model_that_an_engine_trains_is_shown_as_such(client):
    (model,) = client.get("get_server_capabilities").json["supported_models"]
    assert (model["trainable"], model["sampleable"]) == (True, True)


def test_an_engine_that_trains_samples_the_base_model_too(client, sampling_body):
    """So that comparisons of base model and checkpoint measure training alone."""
    sampled = client.result("asample", sampling_body(client.sampler()))["sequences"][0]
    assert sampled["logprobs"] == [pytest.approx(-np.log(2048))] * 8


def test_usage_and_timeline_show_training(client, clock, run, submit):
    client.retrieve(submit(1))
    hour = "2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"
    query = f"starting_on={hour[0]}&ending_before={hour[1]}"
    events = client.get(f"billing/usage/events?{query}").json["data"]
    trained = [event for event in events if event["event_info"]["type"] == "training"]
    assert [event["event_info"]["token_count"] for event in trained] == [2]
    url = client.get(f"sessions/{run.partition(':')[0]}/trace_export").json["url"]
    assert b"forward_backward" in client.get(url).body
