"""The common base of the dialects: an account with a run, two checkpoints and operations."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tests.contract.dialects.wire import Refusal, Scripted, detail, route
from tests.serving import Reply, Request
from tinkex_local.wire.protobuf import fields, message

KEY = "tml-dialect-0123456789abcdef"
MODEL = "Qwen/Qwen3-8B"
TYPES = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
FILES = {
    "adapter_config.json": b'{"base_model_name_or_path": null, "peft_type": "LORA", "r": 32}',
    "adapter_model.safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}
#: What sampling draws, whatever it is asked.
TOKENS, LOGPROBS = [11, 12], [-0.5, -1.25]
CHECKPOINT = "training_runs/{run}/checkpoints/{kind}/{name}"


@dataclass
class Saved:
    """A checkpoint as the server keeps it."""

    run: str
    kind: str
    name: str
    public: bool = False

    @property
    def path(self) -> str:
        return f"tinker://{self.run}/{self.kind}/{self.name}"


@dataclass
class Operation:
    """Work that was accepted; its first poll comes back without the result."""

    result: Any
    failure: str | None = None
    polls: int = 0


class Account(Scripted):
    """The common base of the dialects; each overrides the responses that differ.

    :cvar run: id of the run that is there from the start.
    :cvar new_run: id of the next one.
    :cvar accepted: status of an accepted operation.
    :cvar created: status of a new session.
    :cvar done: status of a change that has nothing to return.
    """

    run: ClassVar[str] = "r"
    new_run: ClassVar[str] = "n"
    session: ClassVar[str] = "s"
    sampler: ClassVar[str] = "p"
    accepted: ClassVar[int] = 200
    created: ClassVar[int] = 200
    done: ClassVar[int] = 200
    time: ClassVar[str] = "2026-11-20T13:55:34.109929Z"
    fixed: ClassVar[Mapping[str, Any]] = {
        "GET healthz": {"status": "ok"},
        "POST client/config": {"pjwt_auth_enabled": False},
        "POST session_heartbeat": {"type": "session_heartbeat"},
    }
    #: What it says of a loss in addition to the logprobs.
    loss_metrics: ClassVar[Mapping[str, float]] = {"loss:sum": 1.5}
    #: What a listed model contains in addition to its name.
    model: ClassVar[Mapping[str, Any]] = {
        "max_context_length": 32768, "trainable": True, "sampleable": True,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.runs = [self.run]
        self.saved = [Saved(self.run, kind, "final") for kind in ("weights", "sampler_weights")]
        self.training, self.sampling = (saved.path for saved in self.saved)
        self.operations: dict[str, Operation] = {}
        #: Say that the next operation fails, and how.
        self.fails: str | None = None
        self.samplers: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(13)

    def described(self, saved: Saved) -> dict[str, Any]:
        """Return a checkpoint as the lists have it."""
        return {
            "checkpoint_id": f"{saved.kind}/{saved.name}",
            "checkpoint_type": TYPES.get(saved.kind, "training"),
            "time": self.time,
            "tinker_path": saved.path,
            "size_bytes": 1000,
            "public": saved.public,
            "expires_at": None,
        }

    def described_run(self, run: str) -> dict[str, Any]:
        return {
            "training_run_id": run,
            "base_model": MODEL,
            "model_owner": "tml:organization_user:0a1b",
            "is_lora": True,
            "corrupted": False,
            "lora_rank": 32,
            "last_request_time": self.time,
            "last_checkpoint": self._newest(run, "weights"),
            "last_sampler_checkpoint": self._newest(run, "sampler_weights"),
            "user_metadata": None,
        }

    def _newest(self, run: str, kind: str) -> dict[str, Any] | None:
        found = [s for s in self.saved if (s.run, s.kind) == (run, kind)]
        return self.described(found[-1]) if found else None

    def of(self, *where: str) -> Saved:
        """Return the checkpoint with this run, kind and name."""
        for saved in self.saved:
            if (saved.run, saved.kind, saved.name) == where:
                return saved
        raise detail(404, f"Checkpoint not found: {'/'.join(where[1:])}")

    def known_run(self, run: str) -> str:
        if run not in self.runs:
            raise detail(404, f"Training run {run} not found")
        return run

    def page(self, seen: Request, items: list[Any], name: str, size: int) -> dict[str, Any]:
        limit, offset = int(seen.query.get("limit", size)), int(seen.query.get("offset", 0))
        cursor = {"offset": offset, "limit": limit, "total_count": len(items)}
        return {name: items[offset : offset + limit], "cursor": cursor}

    # ----------------------------------------------------------------- work in progress

    def new_id(self) -> str:
        return f"req-{next(self._numbers)}"

    def accept(self, result: Any, **extra: Any) -> Reply:
        """Accept an operation; its result is *result*, unless it should fail."""
        request_id = self.new_id()
        self.operations[request_id] = Operation(result, self.fails)
        self.fails = None
        return Reply({"request_id": request_id, **extra}, self.accepted)

    def unready(self, request_id: str) -> Reply:
        """Return the end of a long poll without a result."""
        state = {"queue_state": "paused_capacity", "queue_state_reason": "short on capacity"}
        return Reply({"type": "try_again", "request_id": request_id, **state})

    def failed(self, operation: Operation) -> Reply:
        """Return the response for an operation that failed."""
        return Reply({"error": operation.failure, "category": "user"})

    def result(self, operation: Operation) -> Reply:
        return Reply(operation.result)

    @route("POST", "retrieve_future")
    def retrieve_future(self, seen: Request) -> Reply:
        request_id = seen.json["request_id"]
        if not isinstance(request_id, str):
            raise validation("request_id", "Input should be a string")
        operation = self.operations.get(request_id)
        if operation is None:
            raise detail(404, "Future not found")
        operation.polls += 1
        if operation.polls == 1:
            return self.unready(request_id)
        return self.failed(operation) if operation.failure else self.result(operation)

    # ----------------------------------------------------------------- sessions and models

    @route("GET", "get_server_capabilities")
    def capabilities(self, seen: Request) -> Any:
        return {"supported_models": [{"model_name": MODEL, **self.model}]}

    @route("POST", "create_session")
    def create_session(self, seen: Request) -> Reply:
        for name in ("tags", "user_metadata", "sdk_version"):
            if name not in seen.json:
                raise validation(name, "Field required")
        if seen.json["user_metadata"] is None:  # hatchery and MinT; tinkex sends {} to all
            raise validation("user_metadata", "Input should be a valid dictionary")
        messages = dict.fromkeys(("info_message", "warning_message", "error_message"))
        return Reply({"session_id": self.session, **messages}, self.created)

    @route("POST", "create_model")
    def create_model(self, seen: Request) -> Reply:
        self.runs.append(self.new_run)
        return self.accept({"model_id": self.new_run, "type": "create_model"})

    @route("POST", "save_weights")
    def save_weights(self, seen: Request) -> Reply:
        return self._save(seen, "weights")

    @route("POST", "save_weights_for_sampler")
    def save_weights_for_sampler(self, seen: Request) -> Reply:
        return self._save(seen, "sampler_weights")

    def _save(self, seen: Request, kind: str) -> Reply:
        self.count(seen)
        saved = Saved(seen.json["model_id"], kind, seen.json["path"])
        if self.taken(saved):
            raise detail(409, f"Checkpoint {saved.name} already exists")
        if self.fails is None:
            self.saved.append(saved)
        return self.accept({"path": self.result_path(saved)})

    def count(self, seen: Request) -> None:
        """Look at the number of a training request."""

    def taken(self, saved: Saved) -> bool:
        return any(other.path == saved.path for other in self.saved)

    def result_path(self, saved: Saved) -> str:
        return saved.path

    @route("POST", "weights_info")
    def weights_info(self, seen: Request) -> Any:
        self.of(*parts(seen.json["tinker_path"]))
        return {"base_model": MODEL, "is_lora": True, "lora_rank": 32}

    # ----------------------------------------------------------------- training

    def read_examples(self, seen: Request) -> Request:
        """Return *seen* with its examples as JSON."""
        is_binary = seen.headers["content-type"] == "application/x-protobuf"
        return replace(seen, body=json.dumps(decoded(seen.body)).encode()) if is_binary else seen

    @route("POST", "forward_backward")
    def forward_backward(self, seen: Request) -> Reply:
        seen = self.read_examples(seen)
        self.count(seen)
        outputs = []
        for datum in seen.json["forward_backward_input"]["data"]:
            size = sum(len(chunk["tokens"]) for chunk in datum["model_input"]["chunks"])
            logprobs = {"data": [-1.5] * size, "dtype": "float32", "shape": [size]}
            outputs.append({"logprobs": logprobs})
        return self.accept({"loss_fn_outputs": outputs, "metrics": self.loss_metrics})

    @route("POST", "optim_step")
    def optim_step(self, seen: Request) -> Reply:
        self.count(seen)
        return self.accept({"metrics": None})

    # ----------------------------------------------------------------- sampling

    @route("POST", "create_sampling_session")
    def create_sampling_session(self, seen: Request) -> Reply:
        self.samplers[self.sampler] = seen.json
        return Reply({"sampling_session_id": self.sampler}, self.created)

    @route("GET", "samplers/{sampler}")
    def get_sampler(self, seen: Request, sampler: str) -> Any:
        path = self.samplers[sampler].get("model_path")
        return {"sampler_id": sampler, "base_model": MODEL, "model_path": path}

    @route("POST", "asample")
    def asample(self, seen: Request) -> Reply:
        sequence = {"stop_reason": "length", "tokens": TOKENS, "logprobs": LOGPROBS}
        prompt = [None, -1.0, -2.0] if seen.json.get("prompt_logprobs") else None
        result = {"sequences": [sequence] * seen.json["num_samples"], "prompt_logprobs": prompt}
        return self.accept(result | {"topk_prompt_logprobs": None})

    # ----------------------------------------------------------------- runs and checkpoints

    @route("GET", "training_runs")
    def list_runs(self, seen: Request) -> Any:
        return self.page(seen, [self.described_run(run) for run in self.runs], "training_runs", 20)

    @route("GET", "training_runs/{run}")
    def get_run(self, seen: Request, run: str) -> Any:
        return self.described_run(self.known_run(run))

    @route("GET", "training_runs/{run}/checkpoints")
    def list_of_run(self, seen: Request, run: str) -> Any:
        self.known_run(run)
        return {"checkpoints": [self.described(s) for s in self.saved if s.run == run]}

    @route("GET", "checkpoints")
    def list_checkpoints(self, seen: Request) -> Any:
        return self.page(seen, [self.described(s) for s in self.saved], "checkpoints", 100)

    @route("DELETE", CHECKPOINT)
    def delete(self, seen: Request, *where: str) -> Reply:
        self.saved.remove(self.of(*where))
        return Reply(None, self.done)

    @route("POST", f"{CHECKPOINT}/publish")
    def publish(self, seen: Request, *where: str) -> Reply:
        self.of(*where).public = True
        return Reply(None, self.done)

    @route("DELETE", f"{CHECKPOINT}/publish")
    def unpublish(self, seen: Request, *where: str) -> Reply:
        self.of(*where).public = False
        return Reply(None, self.done)

    @route("PUT", f"{CHECKPOINT}/ttl")
    def set_ttl(self, seen: Request, *where: str) -> Reply:
        self.of(*where)
        return Reply(None, self.done)


def decoded(encoded: bytes) -> dict[str, Any]:
    """Return the JSON form of a ``ForwardBackwardRequest`` as far as the dialects read it."""
    found: dict[int, list[Any]] = {}
    for number, value in fields(encoded):
        found.setdefault(number, []).append(value)
    data = []
    for datum in found[3]:
        chunks = [message(value) for number, value in fields(message(datum)) if number == 1]
        texts = [message(dict(fields(message(dict(fields(chunk))[1])))[1]) for chunk in chunks]
        tokens = [{"tokens": list(memoryview(text).cast("i"))} for text in texts]
        data.append({"model_input": {"chunks": tokens}})
    return {
        "model_id": found[1][0].decode(),
        "seq_id": found[2][0],
        "forward_backward_input": {"data": data},
    }


def parts(path: str) -> list[str]:
    """Return run, kind and name of a ``tinker://`` path, or what it has of them."""
    return path.removeprefix("tinker://").split("/")


def validation(field: str, message: str, kind: str = "value_error") -> Refusal:
    """Return the form that FastAPI gives to a body it does not accept."""
    return detail(422, [{"type": kind, "loc": ["body", *field.split(".")], "msg": message}])


def tarred(*, gz: bool, first_member_without_name: bool = False) -> bytes:
    """Return the files of a checkpoint as an archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        if first_member_without_name:
            member = tarfile.TarInfo("")
            member.type, member.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(member)
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue()) if gz else stream.getvalue()
