"""The hosted service, as its official SDK of version 0.38 expects it."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from tests.contract.dialects.account import (
    FILES,
    KEY,
    TYPES,
    Account,
    Operation,
    Saved,
    tarred,
)
from tests.contract.dialects.wire import Refusal, Reply, Seen, detail, route

PROTOBUF = "application/x-protobuf"


class Official(Account):
    """Opaque ids with colons, protobuf results, a token in place of the key where it is asked."""

    base = "/services/tinker-prod"
    run = "3f0c-0a1b:train:0"
    new_run = "5e5e-1c1c:train:0"
    session = "5e5e-1c1c"
    sampler = "5e5e-1c1c:sample:0"
    exchanges = False

    def admit(self, seen: Seen) -> None:
        if seen.path.startswith("/"):
            return
        raw = seen.path in ("client/config", "auth/token", "auth/apikey/me")
        if seen.key != (KEY if raw or not self.exchanges else self.token):
            refusal = Refusal(401, {"detail": "Invalid API key"})
            refusal.reply.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise refusal

    @property
    def token(self) -> str:
        """A token of somebody whom ``auth whoami`` can tell."""
        claims = {
            "sub": "tml:organization_user:0a1b",
            "org_id": "9f",
            "email": "ada@example.org",
            "iat": 1700000000,
            "exp": 4100000000,
        }
        parts = [{"alg": "none"}, claims, {}]
        coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode() for p in parts]
        return ".".join(part.rstrip("=") for part in coded)

    @route("POST", "client/config")
    def client_config(self, seen: Seen) -> Any:
        return {"pjwt_auth_enabled": True, "credential_default_source": "api_key", "new_field": 1}

    @route("POST", "client/dynamic_config")
    def dynamic_config(self, seen: Seen) -> Any:
        return {"refresh_interval_sec": 300}

    @route("POST", "auth/token")
    def auth_token(self, seen: Seen) -> Any:
        return {"jwt": self.token}

    @route("GET", "auth/apikey/me")
    def apikey(self, seen: Seen) -> Any:
        details = {"org_details": {"name": "Example"}, "user_details": {"email": "ada@example.org"}}
        return {"key_id": 7, "name": "laptop", "note": "", "details": details}

    @route("DELETE", "auth/apikey/me")
    def revoke(self, seen: Seen) -> Any:
        return None

    # ----------------------------------------------------------------- sessions

    @route("POST", "sessions/{session}/finish")
    def finish(self, seen: Seen, session: str) -> Any:
        return None

    @route("GET", "sessions")
    def sessions(self, seen: Seen) -> Any:
        return {"sessions": [self.session]}

    @route("GET", "sessions/{session}")
    def get_session(self, seen: Seen, session: str) -> Any:
        if session != self.session:
            raise detail(404, f"Session {session} not found")
        return {"training_run_ids": [self.run], "sampler_ids": [self.sampler]}

    @route("GET", "sessions/{session}/trace_export")
    def trace_export(self, seen: Seen, session: str) -> Any:
        return {"status": "ready", "url": f"{self.storage_url}/trace"}

    @route("POST", "sessions/search")
    def search(self, seen: Seen) -> Any:
        found = {
            "session_id": self.session,
            "created_at": self.time,
            "owner": "tml:organization_user:0a1b",
            "project_id": "p1",
            "status": {"type": "active"},
            "checkpoints_count": 2,
        }
        return {"sessions": [found], "next_cursor": None}

    # ----------------------------------------------------------------- saving and copying

    @route("POST", "load_weights")
    def load_weights(self, seen: Seen) -> Reply:
        self.runs.append(self.new_run)
        result = {"path": seen.body["path"], "model_id": self.new_run, "type": "load_weights"}
        return self.accept("LoadWeights", result)

    @route("POST", "save_weights_external")
    def save_external(self, seen: Seen) -> Reply:
        return self._save(seen, "external_weights", "SaveWeightsExternal")

    @route("POST", "copy_weights")
    def copy_weights(self, seen: Seen) -> Any:
        run, kind, name = seen.body["source_path"].removeprefix("tinker://").split("/")
        self.of(run, kind, name)
        self.runs.append(self.new_run)
        self.saved.append(Saved(self.new_run, kind, name))
        return {"tinker_path": self.saved[-1].path}

    @route("GET", "training_runs/{run}/checkpoints/{kind}/{name}/external_weights_urls")
    def external_urls(self, seen: Seen, run: str, kind: str, name: str) -> Any:
        self.of(run, kind, name)
        storage = self.storage_url
        return {
            "urls": {file: f"{storage}/{file}?signature=s" for file in FILES},
            "expires": "2126-11-22T00:00:00Z",
        }

    @route("GET", "training_runs/{run}/checkpoints/{kind}/{name}/archive")
    def archive(self, seen: Seen, run: str, kind: str, name: str) -> Reply:
        self.of(run, kind, name)
        location = f"{self.storage_url}/archive"
        return Reply(None, 302, {"Location": location, "Expires": "Fri, 22 Nov 2126 00:00:00 GMT"})

    @property
    def storage_url(self) -> str:
        """Where signed addresses lead: to another origin, which must not see the key."""
        return self.url.removesuffix(self.base).replace("127.0.0.1", "localhost") + "/storage"

    @route("GET", "/storage/{name}")
    def storage(self, seen: Seen, name: str) -> Reply:
        special = {"archive": tarred(gz=False), "trace": b"perfetto"}
        return Reply(special.get(name) or FILES[name])

    @route("POST", "training_runs/{run}/checkpoints/{kind}/{name}/publish")
    def publish(self, seen: Seen, run: str, kind: str, name: str) -> Reply:
        if self.of(run, kind, name).public:
            raise detail(409, "Checkpoint is already public")
        return super().publish(seen, run, kind, name)

    @route("DELETE", "training_runs/{run}/checkpoints/{kind}/{name}/publish")
    def unpublish(self, seen: Seen, run: str, kind: str, name: str) -> Reply:
        if not self.of(run, kind, name).public:
            raise detail(409, "Checkpoint is already private")
        return super().unpublish(seen, run, kind, name)

    def taken(self, saved: Saved) -> bool:
        return TYPES[saved.kind] != "external" and super().taken(saved)

    # ----------------------------------------------------------------- billing

    @route("GET", "billing/usage/events")
    def usage(self, seen: Seen) -> Any:
        event = {
            "bucket_start": "2026-11-20T13:00:00Z",
            "bucket_end": "2026-11-20T14:00:00Z",
            "base_model": "Qwen/Qwen3-8B",
            "user_id": "u1",
            "user_name": "Ada",
            "session_id": self.session,
            "project_id": "p1",
            "estimated_cost_usd": 1.5,
            "event_info": {"type": "training", "token_count": 1000},
        }
        inside = (
            seen.query["starting_on"][:13] <= "2026-11-20T13" < seen.query["ending_before"][:13]
        )
        return {"data": [event] if inside else [], "sessions": {}, "cost_data_through": self.time}

    @route("GET", "billing/usage/checkpoints/current")
    def storage_usage(self, seen: Seen) -> Any:
        row = {
            "project_id": "p1",
            "user_email": "ada@example.org",
            "checkpoint_count": 2,
            "size_bytes": 2000,
            "size_gigabytes": 0.000002,
            "estimated_monthly_cost_usd": 0.01,
        }
        return {"effective_rate_usd_per_gigabyte_month": 0.1, "data": [row]}

    # ----------------------------------------------------------------- results

    def result(self, operation: Operation, seen: Seen) -> Reply:
        if operation.kind == "Sample" and PROTOBUF in seen.headers["accept"]:
            return Reply(sample_message(operation.result), headers={"Content-Type": PROTOBUF})
        return Reply(operation.result)


def sample_message(result: dict[str, Any]) -> bytes:
    """Return ``SampleResponse`` in proto3: zero values of an enum are not written."""
    out = b""
    for sequence in result["sequences"]:
        body = b"\x08\x01" if sequence["stop_reason"] == "length" else b""
        body += _field(2, struct.pack(f"<{len(sequence['tokens'])}i", *sequence["tokens"]))
        body += _field(3, struct.pack(f"<{len(sequence['logprobs'])}f", *sequence["logprobs"]))
        out += _field(1, body)
    if result["prompt_logprobs"] is not None:
        prompt = [float("nan") if x is None else x for x in result["prompt_logprobs"]]
        out += _field(2, struct.pack(f"<{len(prompt)}f", *prompt))
    return out


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value
