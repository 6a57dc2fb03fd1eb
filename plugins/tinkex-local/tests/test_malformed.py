"""Invalid values in every field of every body are refused with a message, never with a 500."""

import json
import subprocess
import sys

import pytest

BASE_MODEL = "tinkex/baker-street-2M"
PATH = "tinker://none:train:0/weights/a"
MARK = "@@"

#: JSON texts; some are no JSON, and some are no numbers to most programs.
VALUES = [
    *("null", "true", "-1", "0", "1.5", "1e400", "-1e400", "1e308", "1e-320", "NaN", "Infinity"),
    *("9" * 25, "9" * 400, "18446744073709551616", "9223372036854775808", "-9223372036854775809"),
    *('""', '"x"', r'"\ud800"', r'"\u0000"', json.dumps("x" * 100_000), '"../../etc"'),
    *(f'"{PATH}"', '"tinker://"', "[]", "{}", "[[1]]", "[1e30]", f'["a", {"9" * 30}]'),
    '{"a": 1e400}',
    *(r'{"\ud800": "\udfff"}', f'{{"a": {"9" * 30}}}', "[" * 400 + "]" * 400, "[" * 100_000),
]
WHOLE = [*VALUES, "", "{", '{"a": 1}x', "a=1&b=2", '{"a": 1, "a": 2}', " " * 100, "\ufeff{}"]

CREATED = {"user_metadata": {"a": "b"}, "ttl_seconds": 7200}
LOSS = {
    "data": [
        {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": [5]}]},
            "loss_fn_inputs": {
                "target_tokens": {
                    "data": [5],
                    "dtype": "int64",
                    "shape": [1, 1],
                    "sparse_crow_indices": [0, 1],
                    "sparse_col_indices": [0],
                }
            },
        }
    ],
    "loss_fn": "ppo",
    "loss_fn_config": {"clip_low_threshold": 0.5},
}
# fmt: off
BODIES = {
    "create_session": {"tags": ["a"], "sdk_version": "0", "display_name": "d", **CREATED},
    "session_heartbeat": {"session_id": "s"},
    "sessions/s/finish": {"reason": {"type": "success"}, "detail": "d"},
    "sessions/search": {
        "session_id": "s", "project_ids": ["p"], "user_metadata": {"a": "b"}, "limit": 5,
        "owner": {"type": "user", "owner_urns": ["o"]},
        "display_name": "d",
        "statuses": [{"type": "active", "reasons": ["r"]}],
        "cursor": {"last_created_at": "t", "last_session_id": "s"},
    },
    "create_model": {
        "session_id": "s", "model_seq_id": 0, "base_model": BASE_MODEL, **CREATED,
        "lora_config": {"rank": 4, "seed": 1, "train_mlp": True},
    },
    "get_info": {"model_id": "m"},
    "unload_model": {"model_id": "m"},
    "save_weights": {"model_id": "m", "path": "a", "seq_id": 1, "overwrite": True, **CREATED},
    "save_weights_for_sampler": {"model_id": "m", "sampling_session_seq_id": 1, **CREATED},
    "save_weights_external": {"model_id": "m", "path": "a", "age_encryption_recipients": ["r"]},
    "load_weights": {"path": PATH, "optimizer": False, "session_id": "s", "model_seq_id": 1},
    "copy_weights": {"source_path": PATH, "session_id": "s", "model_seq_id": 1, **CREATED},
    "create_sampling_session": {
        "session_id": "s", "sampling_session_seq_id": 1, "model_path": PATH,
    },
    "asample": {
        "base_model": BASE_MODEL, "num_samples": 1, "target_prompt_logprobs": None,
        "prompt_logprobs": True, "prompt_logprobs_last_n": 1, "topk_prompt_logprobs": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5]}]},
        "sampling_params": {
            "max_tokens": 2, "seed": 1, "stop": ["a"],
            "temperature": 1.0, "top_k": -1, "top_p": 1.0,
        },
    },
    "retrieve_future": {"request_id": "r", "allow_metadata_only": False},
    "weights_info": {"tinker_path": PATH},
    "forward_backward": {"model_id": "m", "seq_id": 1, "forward_backward_input": LOSS},
    "forward": {"model_id": "m", "seq_id": 1, "forward_input": LOSS},
    "optim_step": {"model_id": "m", "seq_id": 1, "adam_params": {"learning_rate": 1.0}},
    "telemetry": {"events": []},
    "client/config": {"sdk_version": "0"},
}
# fmt: on


def places(value, above=()):
    """Yield the way to every member and element."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inside:
        yield (*above, key)
        if isinstance(part, dict | list):
            yield from places(part, (*above, key))


def filled(body, place, text):
    """Return *body* as JSON with *text* at *place*."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = MARK
    return json.dumps(copy).replace(f'"{MARK}"', text)


def texts(body):
    yield from WHOLE
    for place in places(body):
        for value in VALUES:
            yield filled(body, place, value)


@pytest.mark.parametrize("call", BODIES)
def test_no_body_makes_the_service_fail(client, call, caplog):
    for text in texts(BODIES[call]):
        answer = client.request("POST", call, raw=text.encode())
        assert answer.status < 500, text[:300]
        if answer.status >= 400:
            detail = answer.json["detail"]
            assert detail, text[:300]
            if isinstance(detail, list):
                assert all(finding["loc"] and finding["msg"] for finding in detail), text[:300]
        elif call == "asample":
            outcome = client.retrieve(answer.json["request_id"])
            assert outcome.get("category") != "server", text[:300]
    assert "failed" not in caplog.text
    for listing in ("sessions", "training_runs", "checkpoints"):
        assert client.get(listing).status == 200
    assert client.post("sessions/search").status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "NONSENSE"])
def test_another_method_is_405_in_json(client, method):
    for call in BODIES:
        answer = client.request(method, call, raw=b"{}")
        assert answer.status in (404, 405)
        assert answer.json["detail"]


#: A kind of body that holds others, for the first time in a process, by many threads at once.
FIRST_READ = """
import contextlib, sys, threading
from tinkex_local.wire import bodies
from tinkex_local.problems import Problem
sys.setswitchinterval(1e-6)
start = threading.Barrier(16)
def read():
    start.wait()
    with contextlib.suppress(Problem):
        bodies.decode(b'{"prompt": {"chunks": []}, "sampling_params": {}}', bodies.Sample)
threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_may_read_a_kind_of_body_for_the_first_time_together():
    readers = [subprocess.Popen([sys.executable, "-c", FIRST_READ]) for _ in range(6)]
    assert [reader.wait(60) for reader in readers] == [0] * 6
