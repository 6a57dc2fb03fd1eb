"""Sessions, training and sampling: numbers, heartbeats, and what happens when things fail."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from tests.until import until
from tinkex.api import SamplingParams
from tinkex.api.http import retry
from tinkex.api.resources import sessions
from tinkex.api.sampling.types import SampleResponse
from tinkex.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidResponse,
    NotFound,
    OperationFailed,
    RateLimited,
    TimedOut,
    UsageError,
)

RUN = "r:train:0"


@pytest.fixture
def service(server):
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    server.on("POST", "create_model", {"request_id": "c", "model_id": RUN})
    server.on("POST", "save_weights_for_sampler", {"request_id": "w"})
    server.on("POST", "save_weights", {"request_id": "w"})
    server.on("POST", "load_weights", {"request_id": "l"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "sample-1"})
    server.on("POST", "asample", {"request_id": "a"})
    return server


def results(server, **by_id):
    """Let retrieve_future answer by request id."""

    def answer(seen):
        reply = by_id[seen.body["request_id"]]
        return reply if isinstance(reply, server.reply) else server.reply(reply)

    server.on("POST", "retrieve_future", answer)


def heartbeats() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tinkex-heartbeat"}


def test_heartbeats_go_on_until_the_session_is_finished(service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.05)
    before = heartbeats()
    session = client.sessions.create()
    until(lambda: len(service.requests("session_heartbeat")) >= 3)
    assert service.requests("session_heartbeat")[0].body == {"session_id": "s-1"}
    session.finish("errored")
    session.finish()
    until(lambda: not heartbeats() - before)
    assert [s.body for s in service.requests("sessions/s-1/finish")] == [
        {"reason": {"type": "errored"}}
    ]


@pytest.mark.parametrize(("status", "ends"), [(410, True), (404, False), (500, False)])
def test_only_410_ends_the_heartbeats(status, ends, service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.02)
    service.on("POST", "session_heartbeat", service.reply("x", status))
    before = heartbeats()
    client.sessions.create()
    if ends:
        until(lambda: service.requests("session_heartbeat") and not heartbeats() - before)
        assert len(service.requests("session_heartbeat")) == 1
    else:
        until(lambda: len(service.requests("session_heartbeat")) >= 3)
        assert heartbeats() - before


def test_a_listener_that_fails_does_not_end_the_heartbeats(service, client, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT", 0.02)
    monkeypatch.setattr(sessions, "_WORRY", 0.01)
    service.on("POST", "session_heartbeat", service.reply("x", 500))
    told = []

    def listen(wait):
        told.append(wait)
        raise BrokenPipeError

    client._transport._on_wait = listen
    client.sessions.create()
    until(lambda: len(told) >= 2)


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_server_without_a_word_for_the_end_is_left_alone(status, service, client):
    service.on("POST", "sessions/s-1/finish", service.reply({"detail": "Not Found"}, status))
    client.sessions.create().finish()
    assert len(service.requests("sessions/s-1/finish")) == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "success"), (ValueError, "errored"), (KeyboardInterrupt, "interrupted")],
)
def test_the_end_of_a_block_is_told(error, outcome, service, connect):
    try:
        with connect(service.url) as client:
            client.sessions.create()
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    (finish,) = service.requests("sessions/s-1/finish")
    assert finish.body == {"reason": {"type": outcome}}


def test_many_sessions_are_finished_side_by_side(service, connect, monkeypatch):
    monkeypatch.setattr(sessions, "_FAREWELL", 60.0)
    together = threading.Barrier(6)

    def finish(_):
        together.wait(60)
        return service.reply({})

    for number in range(6):
        service.on("POST", f"sessions/s-{number}/finish", finish)
    names = [{"session_id": f"s-{number}"} for number in range(6)]
    service.on("POST", "create_session", *names)
    client = connect(service.url)
    for _ in names:
        client.sessions.create()
    client.close()
    assert len([seen for seen in service.seen if seen.path.endswith("/finish")]) == 6
    assert not together.broken


def test_sessions_are_finished_where_no_thread_can_be_started(service, connect, monkeypatch):
    client = connect(service.url)
    client.sessions.create()
    until(lambda: service.requests("create_session"))
    # As Python 3.12 does once the main thread is over.
    start = threading.Thread.start

    def refuse(thread):
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client.close()
    assert len(service.requests("sessions/s-1/finish")) == 1


@pytest.mark.parametrize(
    ("endpoint", "start"),
    [
        ("create_sampling_session", lambda c: c.create_sampling_client(base_model="m")),
        ("create_model", lambda c: c.create_lora_training_client("m")),
        (
            "load_weights",
            lambda c: c.create_training_client_from_checkpoint(f"tinker://{RUN}/weights/a"),
        ),
    ],
)
def test_a_client_that_cannot_be_made_leaves_no_session(endpoint, start, service, client):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 8})
    service.on("POST", endpoint, service.reply({"detail": "no such thing"}, 403))
    before = heartbeats()

    with pytest.raises(Forbidden):
        start(client)

    until(lambda: not heartbeats() - before)
    assert [s.body for s in service.requests("sessions/s-1/finish")] == [
        {"reason": {"type": "errored"}}
    ]


def test_a_session_that_is_over_is_not_kept(service, client):
    session = client.sessions.create()
    session.finish()
    known = weakref.ref(session)
    del session

    client.sessions.create()

    until(lambda: gc.collect() is not None and known() is None)


def test_project_and_tags_come_from_the_settings(service, connect):
    client = connect(service.url, project_id="p1", tags=("a", "b"))
    client.sessions.create(user_metadata={"k": "v"})
    body = service.requests("create_session")[0].body
    assert (body["project_id"], body["tags"], body["user_metadata"]) == (
        "p1",
        ["a", "b"],
        {"k": "v"},
    )
    assert "display_name" not in body


def test_a_model_id_may_come_at_once(service, client):
    results(service, c={})
    assert client.create_lora_training_client("any").model_id == RUN


def test_flags_are_sent_only_where_they_say_something(service, client):
    results(service, c={"model_id": RUN})
    client.create_lora_training_client("any", train_mlp=False, train_unembed=False)
    config = service.requests("create_model")[0].body["lora_config"]
    assert config == {"rank": 32, "train_mlp": False, "train_unembed": False}


@pytest.mark.parametrize(
    "bad", [{"rank": 0}, {"train_mlp": False, "train_attn": False, "train_unembed": False}]
)
def test_nonsense_is_refused_before_any_request(bad, service, client):
    with pytest.raises(UsageError):
        client.create_lora_training_client("any", **bad)
    assert not service.seen


def test_numbers_advance_only_after_acceptance(service, client):
    results(service, c={"model_id": RUN}, w={"path": f"tinker://{RUN}/final"})
    training = client.create_lora_training_client("any")
    refused = service.reply({"detail": "bad name"}, 422)
    service.on("POST", "save_weights_for_sampler", refused, {"request_id": "w"})
    with pytest.raises(BadRequest):
        training.save_weights_for_sampler("a.b")
    saved = training.save_weights_for_sampler("final", ttl_seconds=3600)
    training.save_state("state", overwrite=True)
    assert saved.path == f"tinker://{RUN}/sampler_weights/final"
    assert saved.response == {"path": f"tinker://{RUN}/final"}
    sent = [(s.path, s.body["seq_id"]) for s in service.seen if "seq_id" in (s.body or {})]
    assert sent == [
        ("save_weights_for_sampler", 1),
        ("save_weights_for_sampler", 1),
        ("save_weights", 2),
    ]
    assert service.requests("save_weights_for_sampler")[1].body["ttl_seconds"] == 3600
    assert service.requests("save_weights")[0].body["overwrite"] is True


def test_a_failed_operation_has_used_its_number(service, client):
    results(service, c={"model_id": RUN}, w=service.reply({"detail": "disk full"}, 400))
    training = client.create_lora_training_client("any")
    for _ in range(2):
        with pytest.raises(OperationFailed, match="disk full"):
            training.save_state("x")
    assert [s.body["seq_id"] for s in service.requests("save_weights")] == [1, 2]


def test_a_result_without_a_path_is_named_by_what_was_asked(service, client):
    results(service, c={"model_id": RUN}, w={"path": None})
    saved = client.create_lora_training_client("any").save_state("final")
    assert saved.path == f"tinker://{RUN}/weights/final"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n"])
def test_names_that_cannot_be_are_refused_here(name, service, client):
    results(service, c={"model_id": RUN})
    with pytest.raises(UsageError):
        client.create_lora_training_client("any").save_weights_for_sampler(name)
    assert not service.requests("save_weights_for_sampler")


def test_a_taken_name_is_a_conflict_at_once(service, client):
    results(service, c={"model_id": RUN})
    taken = service.reply({"detail": "Checkpoint exists"}, 409)
    service.on("POST", "save_weights_for_sampler", taken)
    with pytest.raises(Conflict):
        client.create_lora_training_client("any").save_weights_for_sampler("final")
    assert len(service.requests("save_weights_for_sampler")) == 1


def test_a_checkpoint_is_continued_in_one_call(service, client):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 8})
    results(service, l={"model_id": "s-1:train:0"})
    path = "tinker://r/weights/x"
    training = client.create_training_client_from_checkpoint(path, optimizer=True)
    assert (training.model_id, training.base_model, training.lora_rank) == ("s-1:train:0", "m", 8)
    (load,) = service.requests("load_weights")
    assert load.body == {"path": path, "optimizer": True, "session_id": "s-1", "model_seq_id": 0}


@pytest.mark.parametrize(
    "refusal",
    [(400, "Missing model_id"), (422, [{"loc": ["body", "model_id"], "msg": "required"}])],
)
def test_or_in_two(refusal, service, client):
    status, detail = refusal
    shape = {"lora_rank": 8, "train_mlp": False, "train_attn": True, "train_unembed": None}
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, **shape})
    results(service, c={"model_id": RUN}, l={"type": "load_weights"})
    refused = service.reply({"detail": detail}, status)
    service.on("POST", "load_weights", refused, {"request_id": "l"})
    training = client.create_training_client_from_checkpoint("tinker://r/weights/x")
    assert training.model_id == RUN
    assert service.requests("create_model")[0].body["lora_config"] == {
        "rank": 8,
        "train_mlp": False,
    }
    assert service.requests("create_model")[0].body["model_seq_id"] == 0
    assert service.requests("load_weights")[1].body == {
        "model_id": RUN,
        "seq_id": 1,
        "path": "tinker://r/weights/x",
        "optimizer": False,
    }


def test_the_two_share_one_allowance_of_time(service, connect, naps):
    service.on("POST", "weights_info", {"base_model": "m"})
    service.on("POST", "create_model", {"request_id": "c"})
    results(service, c={"model_id": RUN}, l={"type": "try_again"})

    def refuse(_):
        retry.time.sleep(900)
        return service.reply({"detail": "Missing model_id"}, 400)

    def queue(_):
        retry.time.sleep(200)
        return service.reply({"request_id": "l"})

    service.on("POST", "load_weights", refuse, queue)
    with pytest.raises(TimedOut):
        connect(service.url, timeout=1000).create_training_client_from_checkpoint(
            "tinker://r/weights/x"
        )
    assert not service.requests("retrieve_future")[1:]  # no time is left for the second


# Sampling ------------------------------------------------------------------------------------

SAMPLED = {"sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": None}]}


@pytest.mark.parametrize("models", [{}, {"base_model": "m", "model_path": "tinker://r/x"}])
def test_exactly_one_model_is_sampled(models, service, client):
    with pytest.raises(UsageError):
        client.create_sampling_client(**models)


def test_a_bare_path_is_sent_in_full(service, client):
    client.create_sampling_client(model_path="tinker://r/x")
    body = service.requests("create_sampling_session")[0].body
    assert body["model_path"] == "tinker://r/sampler_weights/x"
    assert body["sampling_session_seq_id"] == 0
    assert "base_model" not in body


@pytest.mark.parametrize("samplers", [404, 500, None])
def test_the_base_model_is_found_by_another_way(samplers, service, client, naps):
    if samplers:
        service.on("GET", "samplers/sample-1", service.reply("x", samplers))
    else:
        service.on("GET", "samplers/sample-1", {"sampler_id": "x", "base_model": None})
    service.on("POST", "weights_info", service.reply({"detail": "samplers have none"}, 400))
    service.on("GET", "training_runs/r", {"training_run_id": "r", "base_model": "m"})
    assert client.create_sampling_client(model_path="tinker://r/x").base_model == "m"


def test_a_busy_service_gets_the_same_request_again(service, client, waits):
    results(service, a=SAMPLED)
    busy = service.reply({"detail": "busy"}, 429, {"Retry-After": "0.2"})
    service.on("POST", "asample", busy, busy, {"request_id": "a"})
    sampling = client.create_sampling_client(base_model="m")
    sampling.sample([1, 2])
    sampling.sample([3])
    first, second, third, fourth = service.requests("asample")
    assert first.body == second.body == third.body
    assert (first.body["seq_id"], fourth.body["seq_id"]) == (0, 1)
    told = [(w.reason, w.retry_in) for w in waits if w.reason]
    assert told == [("the service is busy", 0.2)] * 2


def test_all_samples_hold_back_together(service, client):
    results(service, a=SAMPLED)
    busy = service.reply(None, 429, {"Retry-After": "0.4"})
    service.on("POST", "asample", busy, {"request_id": "a"})
    sampling = client.create_sampling_client(base_model="m")
    first = threading.Thread(target=sampling.sample, args=([1],))
    first.start()
    until(lambda: sampling.backpressure.refusals)
    sampling.sample([2])
    first.join()
    refused, *others = service.requests("asample")
    assert all(seen.at - refused.at >= 0.4 for seen in others)
    assert {seen.body["seq_id"] for seen in others} == {0, 1}


def test_a_service_that_stays_busy_is_told(service, connect):
    service.on("POST", "asample", service.reply({"detail": "busy"}, 429))
    sampling = connect(service.url, timeout=0.8).create_sampling_client(base_model="m")
    with pytest.raises(RateLimited, match="busy"):
        sampling.sample([1])


def test_a_lost_request_is_made_anew_with_another_number(service, client):
    gone = service.reply({"detail": "expired"}, 410)
    service.on("POST", "retrieve_future", gone, SAMPLED)
    client.create_sampling_client(base_model="m").sample([1])
    assert [s.body["seq_id"] for s in service.requests("asample")] == [0, 1]
    service.on("POST", "retrieve_future", gone)
    with pytest.raises(NotFound, match="expired"):
        client.create_sampling_client(base_model="m").sample([1])


def test_sampling_ends_with_the_timeout(service, connect):
    service.on("POST", "retrieve_future", {"type": "try_again"})
    sampling = connect(service.url, timeout=0.3).create_sampling_client(base_model="m")
    with pytest.raises(TimedOut, match=r"^Timed out while awaiting sampling$"):
        sampling.sample([1])


@pytest.mark.parametrize("tokens", [[], [-1], [1.5], ["a"]])
def test_prompts_that_cannot_be_are_refused_here(tokens, service, client):
    with pytest.raises(UsageError):
        client.create_sampling_client(base_model="m").sample(tokens)
    assert not service.requests("asample")


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"top_k": -2},
        {"stop": ("a", "")},
        {"stop": "END"},
    ],
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        SamplingParams(**bad)


def test_parameters_that_every_server_takes():
    assert SamplingParams().body() == {
        "max_tokens": 256,
        "temperature": 1.0,
        "top_k": -1,
        "top_p": 1.0,
    }
    assert SamplingParams(max_tokens=3, seed=0, stop=("a",)).body()["seed"] == 0


def test_a_missing_first_logprob_is_put_back():
    data = {**SAMPLED, "prompt_logprobs": [-1, -2]}
    assert SampleResponse.from_json(data, 3).prompt_logprobs == (None, -1.0, -2.0)
    assert SampleResponse.from_json(data, 2).prompt_logprobs == (-1.0, -2.0)


def test_what_is_not_finite_becomes_null():
    sequence = {"tokens": [1, 2], "logprobs": [float("-inf"), float("nan")], "stop_reason": "stop"}
    topk = [None, [[1, float("nan")]]]
    data = {"sequences": [sequence], "prompt_logprobs": None, "topk_prompt_logprobs": topk}
    shown = SampleResponse.from_json(data).as_dict()
    assert shown["sequences"][0]["logprobs"] == [None, None]
    assert shown["topk_prompt_logprobs"] == [None, [[1, None]]]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"sequences": None},
        {"sequences": [1]},
        {"sequences": [{}]},
        {"sequences": [{"tokens": ["a"]}]},
        {"sequences": [{"tokens": [True]}]},
        {"sequences": [{"tokens": [1], "logprobs": ["x"]}]},
        {"sequences": [{"tokens": [1], "logprobs": 1}]},
        {"sequences": [], "prompt_logprobs": {}},
        {"sequences": [], "topk_prompt_logprobs": [1]},
        {"sequences": [], "topk_prompt_logprobs": [[1]]},
        {"sequences": [], "topk_prompt_logprobs": [[[1]]]},
    ],
)
def test_results_of_another_shape_are_invalid_answers(data):
    with pytest.raises(InvalidResponse):
        SampleResponse.from_json(data)
