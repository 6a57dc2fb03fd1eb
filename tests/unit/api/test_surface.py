"""The main job from beginning to end, as the hosted service speaks."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tinkex.api import SamplingParams, ServiceClient
from tinkex.exceptions import UsageError

RUN = "3f2a:train:0"
SAMPLER = f"tinker://{RUN}/sampler_weights/final"
CHECKPOINT = {
    "checkpoint_id": "sampler_weights/final",
    "checkpoint_type": "sampler",
    "tinker_path": SAMPLER,
    "time": "2026-11-22T12:34:56.789Z",
    "size_bytes": 1234,
    "public": True,
    "expires_at": None,
    "something_new": {"a": 1},
}
RUN_RECORD = {
    "training_run_id": RUN,
    "base_model": "Qwen/Qwen3-8B",
    "model_owner": "me@example.org",
    "is_lora": True,
    "lora_rank": 16,
    "corrupted": False,
    "last_request_time": "2026-11-22T12:34:56",
    "last_checkpoint": None,
    "last_sampler_checkpoint": CHECKPOINT,
}


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def service(server):
    """The scripted server with the calls of every session."""
    server.on("POST", "create_session", {"session_id": "s-1", "info_message": "Welcome."})
    server.on("POST", "sessions/s-1/finish", None)
    models = [{"model_name": "Qwen/Qwen3-8B", "max_context_length": 32768, "trainable": True}]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    return server


def test_list_reads_every_field_and_ignores_others(service, client: ServiceClient):
    cursor = {"offset": 0, "limit": 20, "total_count": 1}
    service.on("GET", "checkpoints", {"checkpoints": [CHECKPOINT], "cursor": cursor})
    page = client.checkpoints.list()
    assert (len(page), page.total, page.note) == (1, 1, None)
    found = page[0]
    assert found.tinker_path == SAMPLER
    assert found.run_id == RUN
    assert found.time == datetime(2026, 11, 22, 12, 34, 56, 789000, UTC)
    assert (found.size_bytes, found.public, found.expires_at) == (1234, True, None)
    assert service.seen[0].query == {"limit": "20", "offset": "0"}
    assert len(service.seen) == 1


def test_runs_list_and_get(service, client: ServiceClient):
    service.on("GET", "training_runs", {"training_runs": [RUN_RECORD]})
    service.on("GET", f"training_runs/{RUN}", RUN_RECORD)
    listed, got = client.runs.list()[0], client.runs.get(RUN)
    assert listed == got
    assert got.last_request_time == datetime(2026, 11, 22, 12, 34, 56, tzinfo=UTC)
    assert got.last_sampler_checkpoint
    assert got.last_sampler_checkpoint.tinker_path == SAMPLER


def test_info_joins_the_list_and_weights_info(service, client: ServiceClient):
    service.on("GET", f"training_runs/{RUN}/checkpoints", {"checkpoints": [CHECKPOINT]})
    facts = {"base_model": "Qwen/Qwen3-8B", "is_lora": True, "lora_rank": 16, "train_mlp": True}
    service.on("POST", "weights_info", facts)
    info = client.checkpoints.info(SAMPLER)
    assert (info.base_model, info.is_lora, info.lora_rank) == ("Qwen/Qwen3-8B", True, 16)
    assert (info.train_mlp, info.train_attn) == (True, None)
    assert (info.size_bytes, info.public) == (1234, True)


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


def test_a_model_that_is_not_offered_is_refused_before_anything_is_made(service, client):
    with pytest.raises(UsageError, match="does not offer the base model 'gpt-9'") as caught:
        client.create_lora_training_client("gpt-9")
    assert caught.value.hint == "It offers Qwen/Qwen3-8B."
    assert not service.requests("create_session")


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


def test_download_by_archive(service, client: ServiceClient, tmp_path: Path):
    place = f"training_runs/{RUN}/checkpoints/sampler_weights/final/archive"
    location = {"Location": f"{service.url}/signed/a.tar?sig=secret"}
    service.on("GET", place, service.reply(status=302, headers=location))
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"\0" * 700_000}
    service.on("GET", "/signed/a.tar", service.reply(archive(**files)))
    progress = []
    target = tmp_path / "new" / "dir"
    done = client.checkpoints.download(SAMPLER, target, on_progress=progress.append)
    assert done.files == [("adapter_config.json", 2), ("adapter_model.safetensors", 700_000)]
    assert (done.directory, done.bytes) == (target, 700_002)
    names = [name for name, _ in done.files]
    assert sorted(p.name for p in target.iterdir()) == sorted([*names, "tinkex.lock.json"])
    lock = json.loads((target / "tinkex.lock.json").read_text())
    assert [file["name"] for file in lock["files"]] == names
    assert (target / "adapter_model.safetensors").read_bytes() == files["adapter_model.safetensors"]
    assert progress[-1].done_bytes == progress[-1].total_bytes > 700_000
    assert len(progress) >= 3
