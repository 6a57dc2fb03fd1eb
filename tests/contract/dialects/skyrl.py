"""SkyRL 0.3 and its main branch: no keys, naive times, ids of digits, bare sampler paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.contract.dialects.account import (
    CHECKPOINT,
    Account,
    Operation,
    Saved,
    tarred,
    validation,
)
from tests.contract.dialects.wire import crash, detail, route
from tests.serving import Reply, Request

#: What pydantic and FastAPI publish of the name of a checkpoint.
NAME = {
    "anyOf": [{"type": "string", "maxLength": 255, "pattern": "^[a-zA-Z0-9_-]+$"}, {"type": "null"}]
}


class SkyRL(Account):
    """Version 0.3."""

    run = "model_0a1b2c3d"
    new_run = "model_21576abd"
    session = "session_0a1b2c3d"
    sampler = "sampling_4d3c2b1a"
    time = "2026-11-20T13:55:34.109929"
    model: ClassVar[Mapping[str, Any]] = {}
    loss_metrics: ClassVar[Mapping[str, float]] = {}
    lacks: ClassVar[Mapping[str, int]] = {
        "GET checkpoints": 404,
        f"DELETE {CHECKPOINT}": 404,
        f"POST {CHECKPOINT}/publish": 404,
        f"DELETE {CHECKPOINT}/publish": 404,
        f"PUT {CHECKPOINT}/ttl": 404,
    }
    #: What it says of the first token of a prompt.
    first_logprobs: ClassVar[list[None]] = []
    fixed: ClassVar[Mapping[str, Any]] = {
        "GET /openapi.json": {
            "openapi": "3.1.0",
            "components": {
                "schemas": {"SaveWeightsForSamplerRequest": {"properties": {"path": NAME}}}
            },
        }
    }
    #: Further runs that it has places for.
    places = 8
    #: Its runs were unloaded, or their sessions have ended.
    unloaded = False

    def described(self, saved: Saved) -> dict[str, Any]:
        full = super().described(saved)
        kept = ("checkpoint_type", "time", "tinker_path")
        return {"checkpoint_id": saved.name} | {name: full[name] for name in kept}

    def described_run(self, run: str) -> dict[str, Any]:
        nothing = {"last_checkpoint": None, "last_sampler_checkpoint": None}
        return super().described_run(run) | nothing | {"model_owner": "default"}

    def page(self, seen: Request, items: list[Any], name: str, size: int) -> dict[str, Any]:
        page = super().page(seen, items, name, size)
        if not page[name]:
            page["cursor"]["total_count"] = 0
        return page

    def new_id(self) -> str:
        return super().new_id().removeprefix("req-")

    def accept(self, result: Any, **extra: Any) -> Reply:
        reply = super().accept(result, **extra)
        request_id = reply.body["request_id"]
        return Reply({**reply.body, "future_id": request_id, "status": "pending"}, reply.status)

    def unready(self, request_id: str) -> Reply:
        return Reply({"detail": "Timeout waiting for result"}, 408)

    def failed(self, operation: Operation) -> Reply:
        return Reply({"detail": operation.failure}, 400)

    def result(self, operation: Operation) -> Reply:
        unknown = ("type", "topk_prompt_logprobs")
        return Reply({k: v for k, v in operation.result.items() if k not in unknown})

    def retrieve_future(self, seen: Request) -> Reply:
        request_id = seen.json["request_id"]
        if isinstance(request_id, str) and not request_id.isdecimal():
            raise crash()
        return super().retrieve_future(seen)

    def create_model(self, seen: Request) -> Reply:
        if "lora_config" not in seen.json:
            raise validation("lora_config", "Field required")
        if self.places == 0:
            self.fails = "Maximum number of LoRA adapters (9) reached"
        self.places -= self.fails is None
        self.runs.append(self.new_run)  # which stays in the list, also if this fails
        return self.accept({"model_id": self.new_run}, model_id=self.new_run)

    def read_examples(self, seen: Request) -> Request:
        if seen.headers["content-type"] != "application/json":
            raise crash()  # it fails to describe bytes that are not JSON
        return seen

    @route("POST", "unload_model")
    def unload_model(self, seen: Request) -> Reply:
        self.known_run(seen.json["model_id"])
        self.places += 1
        return self.accept({"model_id": seen.json["model_id"]})

    @route("POST", "load_weights")
    def load_weights(self, seen: Request) -> Reply:
        if "model_id" not in seen.json:
            raise validation("model_id", "Field required", "missing")
        if "/sampler_weights/" in seen.json["path"]:
            raise detail(400, "Not a training checkpoint")
        return self.accept({"type": "load_weights"})

    def _save(self, seen: Request, kind: str) -> Reply:
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,255}", seen.json["path"]):
            raise validation("path", "String should match pattern '^[a-zA-Z0-9_-]+$'")
        return super()._save(seen, kind)

    def result_path(self, saved: Saved) -> str:
        bare = saved.kind == "sampler_weights"
        return f"tinker://{saved.run}/{saved.name}" if bare else saved.path

    def weights_info(self, seen: Request) -> Any:
        if "/weights/" not in seen.json["tinker_path"]:
            raise detail(400, "Invalid tinker path: expected tinker://<run>/weights/<name>")
        return super().weights_info(seen)

    def asample(self, seen: Request) -> Reply:
        params = seen.json["sampling_params"]
        if ":" in seen.json["sampling_session_id"] or "seq_id" not in seen.json:
            raise validation("sampling_session_id", "Value error")
        if params.get("max_tokens") is None:
            raise detail(400, "max_tokens is currently required")
        if not isinstance(params.get("stop") or [], list):
            raise validation("sampling_params.stop", "Input should be a valid list")
        path = self.samplers[seen.json["sampling_session_id"]].get("model_path")
        if path and self.unloaded:
            raise detail(400, f"Model {path.split('/')[2]} not loaded")
        reply = super().asample(seen)
        if seen.json.get("prompt_logprobs"):
            found = self.operations[reply.body["request_id"]].result
            found["prompt_logprobs"] = [*self.first_logprobs, -1.0, -2.0]
        return reply

    @route("GET", "training_runs/{run}/checkpoints/{name}/archive")
    def archive(self, seen: Request, run: str, name: str) -> Reply:
        self.of(run, "sampler_weights", name)
        location = f"{self.url}/api/v1/training_runs/{run}/checkpoints/{name}/download"
        return Reply(None, 302, {"Location": location})

    @route("GET", "training_runs/{run}/checkpoints/{name}/download")
    def download(self, seen: Request, run: str, name: str) -> Reply:
        self.of(run, "sampler_weights", name)
        return Reply(tarred(gz=True, first_member_without_name=True))


class SkyRLMain(SkyRL):
    """The main branch: deletes, takes numbers at their word, and knows the length of a prompt."""

    lacks: ClassVar[Mapping[str, int]] = {
        k: v for k, v in SkyRL.lacks.items() if k.endswith(("publish", "ttl", "GET checkpoints"))
    }
    done = 204
    first_logprobs: ClassVar[list[None]] = [None]

    def __init__(self) -> None:
        super().__init__()
        self._bodies: dict[tuple[str, int], Any] = {}

    def load_weights(self, seen: Request) -> Reply:
        if "model_id" in seen.json and seen.json.get("seq_id") != 1:
            raise detail(400, f"LoadWeights is not permitted with seq_id {seen.json['seq_id']}")
        return super().load_weights(seen)

    def read_examples(self, seen: Request) -> Request:
        return Account.read_examples(self, seen)

    def count(self, seen: Request) -> None:
        number = (seen.json["model_id"], seen.json["seq_id"])
        if self._bodies.setdefault(number, seen.json) != seen.json:
            raise detail(409, "Training request sequence number was reused")
