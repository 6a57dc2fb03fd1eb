"""The main job from beginning to end, as the hosted service speaks."""

from __future__ import annotations

import struct

import pytest

from tinkex.api import SamplingParams, ServiceClient

RUN = "3f2a:train:0"
SAMPLER = f"tinker://{RUN}/sampler_weights/final"


@pytest.fixture
def service(server):
    """The scripted server with the calls of every session."""
    server.on("POST", "create_session", {"session_id": "s-1", "info_message": "Welcome."})
    server.on("POST", "sessions/s-1/finish", None)
    models = [{"model_name": "Qwen/Qwen3-8B", "max_context_length": 32768, "trainable": True}]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    return server


def test_save_creates_session_model_and_checkpoint_then_finishes(service, client, waits):
    service.on("POST", "create_model", {"request_id": "r0"})
    service.on("POST", "save_weights_for_sampler", {"request_id": "r1"})
    again = {"type": "try_again", "request_id": "r0", "queue_state": "paused_capacity"}
    service.on(
        "POST",
        "retrieve_future",
        again,
        {"model_id": RUN, "type": "create_model"},
        {"path": SAMPLER, "size_bytes": 1234},
    )
    with client.create_lora_training_client("Qwen/Qwen3-8B", rank=8, seed=7) as training:
        saved = training.save_weights_for_sampler("final")
    assert (saved.model_id, saved.path) == (RUN, SAMPLER)
    assert saved.response == {"path": SAMPLER, "size_bytes": 1234}
    (session,) = service.requests("create_session")
    assert session.body["tags"] == []
    assert session.body["user_metadata"] is None
    (model,) = service.requests("create_model")
    assert model.body == {
        "session_id": "s-1",
        "model_seq_id": 0,
        "base_model": "Qwen/Qwen3-8B",
        "lora_config": {"rank": 8, "seed": 7},
    }
    (save,) = service.requests("save_weights_for_sampler")
    assert save.body == {"model_id": RUN, "seq_id": 1, "path": "final"}
    (finish,) = service.requests("sessions/s-1/finish")
    assert finish.body == {"reason": {"type": "success"}}
    assert [w.note for w in waits if w.note] == ["Welcome."]
    assert [w.queue_state for w in waits if w.queue_state] == ["paused_capacity"]


def test_sample_in_json(service, client: ServiceClient):
    service.on("POST", "create_sampling_session", {"sampling_session_id": "s-1:sample:0"})
    service.on("POST", "asample", {"request_id": "42"})
    result = {"sequences": [{"stop_reason": "length", "tokens": [11, 12], "logprobs": [-0.5, -1]}]}
    service.on("POST", "retrieve_future", result)
    params = SamplingParams(max_tokens=2, stop=("\n",))
    with client.create_sampling_client(base_model="Qwen/Qwen3-8B") as sampling:
        assert sampling.base_model == "Qwen/Qwen3-8B"
        response = sampling.sample([5, 6, 7], params, num_samples=1)
    assert response.as_dict() == {
        "sequences": [{"tokens": [11, 12], "logprobs": [-0.5, -1.0], "stop_reason": "length"}],
        "prompt_logprobs": None,
        "topk_prompt_logprobs": None,
        "type": "sample",
    }
    (asked,) = service.requests("asample")
    assert asked.headers["x-tinker-sampling-backpressure"] == "1"
    assert asked.body == {
        "sampling_session_id": "s-1:sample:0",
        "seq_id": 0,
        "num_samples": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "sampling_params": {
            "max_tokens": 2,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
            "stop": ["\n"],
        },
    }


def test_sample_in_protobuf_from_a_checkpoint(service, client: ServiceClient):
    service.on("POST", "create_sampling_session", {"sampling_session_id": "x"})
    service.on("GET", "samplers/x", {"sampler_id": "x", "base_model": "Qwen/Qwen3-8B"})
    service.on("POST", "asample", {"request_id": "r"})
    sequence = b"\x12\x08" + struct.pack("<2i", 8, 9) + b"\x1a\x08" + struct.pack("<2f", -0.5, -2)
    body = b"\x0a" + bytes([len(sequence)]) + sequence
    headers = {"Content-Type": "application/x-protobuf"}
    service.on("POST", "retrieve_future", service.reply(body, headers=headers))
    with client.create_sampling_client(model_path=SAMPLER) as sampling:
        assert sampling.base_model == "Qwen/Qwen3-8B"
        (only,) = sampling.sample([1]).sequences
    assert (only.tokens, only.logprobs, only.stop_reason) == ((8, 9), (-0.5, -2.0), "stop")
    (poll,) = service.requests("retrieve_future")
    assert poll.headers["accept"] == "application/x-protobuf, application/json"
    assert poll.body == {"request_id": "r", "allow_metadata_only": False}


def test_publish_unpublish_ttl_and_delete(service, client: ServiceClient):
    place = f"training_runs/{RUN}/checkpoints/sampler_weights/final"
    for method, path in (
        ("POST", "/publish"),
        ("DELETE", "/publish"),
        ("PUT", "/ttl"),
        ("DELETE", ""),
    ):
        service.on(method, place + path, service.reply(status=204))
    client.checkpoints.publish(SAMPLER)
    client.checkpoints.unpublish(SAMPLER)
    client.checkpoints.set_ttl(SAMPLER, 3600)
    client.checkpoints.set_ttl(SAMPLER, None)
    client.checkpoints.delete(SAMPLER)
    assert [(s.method, s.path.removeprefix(place), s.body) for s in service.seen] == [
        ("POST", "/publish", None),
        ("DELETE", "/publish", None),
        ("PUT", "/ttl", {"ttl_seconds": 3600}),
        ("PUT", "/ttl", {"ttl_seconds": None}),
        ("DELETE", "", None),
    ]
