"""TuFT 0.2: unknown fields are errors, keys are checked, archives are directories of its host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.contract.dialects.account import (
    CHECKPOINT,
    FILES,
    KEY,
    MODEL,
    Account,
    Operation,
    Saved,
    parts,
    validation,
)
from tests.contract.dialects.wire import Refusal, crash, detail, route
from tests.serving import Reply, Request

#: Members that a body may have; any other is refused.
KNOWN: dict[str, set[str]] = {
    "create_session": {"type", "tags", "user_metadata", "sdk_version", "project_id"},
    "create_model": {
        "type", "session_id", "model_seq_id", "base_model", "lora_config", "user_metadata",
    },
    "create_sampling_session": {
        "type", "session_id", "sampling_session_seq_id", "base_model", "model_path",
    },
    "save_weights": {
        "type", "model_id", "path", "seq_id", "ttl_seconds", "overwrite", "user_metadata",
    },
    "save_weights_for_sampler": {
        "type", "model_id", "path", "sampling_session_seq_id", "seq_id", "ttl_seconds",
        "user_metadata",
    },
    "asample": {
        "type", "prompt", "sampling_params", "num_samples", "sampling_session_id", "seq_id",
        "base_model", "model_path", "prompt_logprobs", "topk_prompt_logprobs",
    },
    "optim_step": {"type", "model_id", "seq_id", "adam_params"},
    "retrieve_future": {"type", "request_id", "allow_metadata_only"},
    "weights_info": {"type", "tinker_path"},
}  # fmt: skip
OPEN = ("healthz", "get_server_capabilities")


class TuFT(Account):
    """Version 0.2."""

    run = "77aa0000-0000-4000-8000-000000000001"
    new_run = "77aa0000-0000-4000-8000-000000000002"
    session = "5f0e0000-0000-4000-8000-000000000003"
    sampler = "5f0e0000-0000-4000-8000-000000000004"
    accepted, created, done = 202, 201, 204
    lacks: ClassVar[Mapping[str, int]] = {f"PUT {CHECKPOINT}/ttl": 405}
    fixed: ClassVar[Mapping[str, Any]] = {
        "POST auth/token": {"jwt": "eyJhbGciOiJub25lIn0.e30."},  # which it does not take back
        "GET sessions": {"sessions": [session]},
    }
    model: ClassVar[Mapping[str, Any]] = {
        "max_context_length": 32768, "capabilities": ["training", "sampling"],
    }  # fmt: skip
    #: Where archives lie; a test sets it.
    directory: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}
        self.without_files: set[tuple[str, str]] = set()

    def admit(self, seen: Request) -> None:
        if seen.path in OPEN:
            return
        key = seen.headers.get("x-api-key")
        if key is None:
            raise detail(401, "Missing API key")
        if key != KEY:
            raise detail(403, "Invalid API key")
        if seen.path in KNOWN:
            for name in seen.json.keys() - KNOWN[seen.path]:
                raise validation(name, "Extra inputs are not permitted", "extra_forbidden")

    def count(self, seen: Request) -> None:
        wanted = self.numbers.get(seen.json["model_id"], 1)
        if seen.json["seq_id"] != wanted:
            self.fails = f"Sequence conflict: expected {wanted}, got {seen.json['seq_id']}."
        self.numbers[seen.json["model_id"]] = seen.json["seq_id"] + 1

    def missing(self, status: int) -> Refusal:
        # A greedy route for DELETE matches every address below a run's checkpoints.
        here = self.seen[-1].path
        below = here.startswith("training_runs/") and "/checkpoints/" in here
        return super().missing(405 if below or here == "sessions/search" else status)

    def described(self, saved: Saved) -> dict[str, Any]:
        return super().described(saved) | {"checkpoint_id": saved.name}

    def described_run(self, run: str) -> dict[str, Any]:
        return super().described_run(run) | {"model_owner": "ada"}

    @route("POST", "client/config")
    def client_config(self, seen: Request) -> Any:
        if "sdk_version" not in seen.json:
            raise validation("sdk_version", "Field required")
        return {"pjwt_auth_enabled": False}

    @route("GET", "sessions/{session}")
    def get_session(self, seen: Request, session: str) -> Any:
        if session != self.session:
            raise crash()
        return {"training_run_ids": [self.run], "sampler_ids": [], "user_metadata": None}

    @route("POST", "session_heartbeat")
    def session_heartbeat(self, seen: Request) -> Any:
        if seen.json["session_id"] != self.session:
            raise crash()
        return {"type": None}

    def create_model(self, seen: Request) -> Reply:
        if seen.json["base_model"] != MODEL:
            raise detail(400, f"Base model {seen.json['base_model']} is not supported")
        return super().create_model(seen)

    def read_examples(self, seen: Request) -> Request:
        if seen.headers["content-type"] != "application/x-protobuf":
            raise detail(415, "Unsupported media type")
        return super().read_examples(seen)

    @route("POST", "load_weights")
    def load_weights(self, seen: Request) -> Reply:
        if "model_id" not in seen.json:
            raise detail(400, "Missing model_id")
        self.count(seen)
        return self.accept({"path": seen.json["path"], "type": None})

    def accept(self, result: Any, **extra: Any) -> Reply:
        return super().accept({**result, "type": None}, model_id=None, **extra)

    def failed(self, operation: Operation) -> Reply:
        return Reply({"detail": f"Future failed: {operation.failure}"}, 422)

    def taken(self, saved: Saved) -> bool:
        return False  # it overwrites in silence

    def create_sampling_session(self, seen: Request) -> Reply:
        path = seen.json.get("model_path")
        if path is not None:
            if len(parts(path)) != 3:
                raise crash()
            saved = self.of(*parts(path))
            if (saved.run, saved.name) in self.without_files:
                raise detail(404, f"Checkpoint {saved.name} not found")
        return super().create_sampling_session(seen)

    def get_sampler(self, seen: Request, sampler: str) -> Any:
        return super().get_sampler(seen, sampler) | {"model_path": "/var/lib/tuft/checkpoints/0"}

    def list_checkpoints(self, seen: Request) -> Any:
        found = [self.described(s) for s in self.saved if s.kind == "weights"]
        return self.page(seen, found, "checkpoints", 100)

    def _misread(self, run: str, kind: str, name: str) -> Saved:
        """Return the checkpoint that a change means: the kind is cut off, training comes first."""
        if kind not in ("weights", "sampler_weights"):
            raise detail(400, "Invalid checkpoint reference")
        for saved in sorted(self.saved, key=lambda saved: saved.kind != "weights"):
            if (saved.run, saved.name) == (run, name):
                return saved
        raise crash()

    def delete(self, seen: Request, *where: str) -> Reply:
        gone = self._misread(*where)
        self.saved.remove(gone)
        # Both kinds of one name are one directory: the other is still listed, without its files.
        self.without_files.add((gone.run, gone.name))
        return Reply(None, self.done)

    @route("DELETE", "training_runs/{run}/checkpoints/{name}")
    def delete_bare(self, seen: Request, run: str, name: str) -> Reply:
        return self.delete(seen, run, "weights", name)

    def publish(self, seen: Request, *where: str) -> Reply:
        self._misread(*where).public = True
        return Reply(None, self.done)

    def unpublish(self, seen: Request, *where: str) -> Reply:
        raise detail(400, "Invalid checkpoint reference")

    @route("GET", f"{CHECKPOINT}/archive")
    def archive(self, seen: Request, *where: str) -> Reply:
        self.of(*where)
        for file, content in FILES.items():
            (self.directory / file).write_bytes(content)
        return Reply(None, 302, {"Location": self.directory.as_uri()})

    def known_run(self, run: str) -> str:
        if run not in self.runs:
            raise crash()
        return run

    def weights_info(self, seen: Request) -> Any:
        run, *rest = parts(seen.json["tinker_path"])
        if len(rest) != 2:
            raise crash()
        self.known_run(run)
        # It describes any name in a run.
        return {"base_model": MODEL, "is_lora": True, "lora_rank": 32}
