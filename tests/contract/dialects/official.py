"""The hosted service, as expected by version 0.38 of its official SDK."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.contract.dialects.account import (
    CHECKPOINT,
    FILES,
    KEY,
    MODEL,
    TYPES,
    Account,
    Saved,
    parts,
    tarred,
)
from tests.contract.dialects.wire import Refusal, detail, route
from tests.serving import Reply, Request

CLAIMS = {
    "sub": "tml:organization_user:0a1b",
    "org_id": "9f",
    "email": "ada@example.org",
    "iat": 1700000000,
    "exp": 4100000000,
}
IDENTITY = {
    "key_id": 7,
    "name": "laptop",
    "note": "",
    "details": {"org_details": {"name": "Example"}, "user_details": {"email": "ada@example.org"}},
}
USAGE = {
    "bucket_start": "2026-11-20T13:00:00Z",
    "bucket_end": "2026-11-20T14:00:00Z",
    "base_model": MODEL,
    "user_id": "u1",
    "user_name": "Ada",
    "session_id": "5e5e-1c1c",
    "project_id": "p1",
    "estimated_cost_usd": 1.5,
    "event_info": {"type": "training", "token_count": 1000},
}
STORAGE = {
    "project_id": "p1",
    "user_email": "ada@example.org",
    "checkpoint_count": 2,
    "size_bytes": 2000,
    "size_gigabytes": 0.000002,
    "estimated_monthly_cost_usd": 0.01,
}
SESSION = {
    "session_id": "5e5e-1c1c",
    "created_at": Account.time,
    "owner": "tml:organization_user:0a1b",
    "project_id": "p1",
    "status": {"type": "active"},
    "checkpoints_count": 2,
}


class Official(Account):
    """Opaque ids with colons, a token in place of the key where it is asked."""

    base = "/services/tinker-prod"
    run = "3f0c-0a1b:train:0"
    new_run = "5e5e-1c1c:train:0"
    session = "5e5e-1c1c"
    sampler = "5e5e-1c1c:sample:0"
    exchanges = False
    #: A token whose claims ``auth whoami`` shows.
    token = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none"}, CLAIMS, {})
    )
    fixed: ClassVar[Mapping[str, Any]] = {
        "POST client/config": {
            "pjwt_auth_enabled": True, "credential_default_source": "api_key", "new_field": 1,
        },
        "POST client/dynamic_config": {"refresh_interval_sec": 300},
        "POST auth/token": {"jwt": token},
        "GET auth/apikey/me": IDENTITY,
        "DELETE auth/apikey/me": None,
        "POST sessions/{session}/finish": None,
        "GET sessions": {"sessions": [session]},
        "POST sessions/search": {"sessions": [SESSION], "next_cursor": None},
        "GET billing/usage/checkpoints/current": {
            "effective_rate_usd_per_gigabyte_month": 0.1, "data": [STORAGE],
        },
    }  # fmt: skip

    def admit(self, seen: Request) -> None:
        if seen.path.startswith("/"):
            return
        raw = seen.path in ("client/config", "auth/token", "auth/apikey/me")
        if seen.headers.get("x-api-key") != (KEY if raw or not self.exchanges else self.token):
            scheme = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise Refusal(401, {"detail": "Invalid API key"}, **scheme)

    # ----------------------------------------------------------------- sessions

    @route("GET", "sessions/{session}")
    def get_session(self, seen: Request, session: str) -> Any:
        if session != self.session:
            raise detail(404, f"Session {session} not found")
        return {"training_run_ids": [self.run], "sampler_ids": [self.sampler]}

    @route("GET", "sessions/{session}/trace_export")
    def trace_export(self, seen: Request, session: str) -> Any:
        return {"status": "ready", "url": f"{self.storage_url}/trace"}

    # ----------------------------------------------------------------- saving and copying

    @route("POST", "load_weights")
    def load_weights(self, seen: Request) -> Reply:
        self.runs.append(self.new_run)
        result = {"path": seen.json["path"], "model_id": self.new_run, "type": "load_weights"}
        return self.accept(result)

    @route("POST", "save_weights_external")
    def save_external(self, seen: Request) -> Reply:
        return self._save(seen, "external_weights")

    @route("POST", "copy_weights")
    def copy_weights(self, seen: Request) -> Any:
        source = self.of(*parts(seen.json["source_path"]))
        self.runs.append(self.new_run)
        self.saved.append(Saved(self.new_run, source.kind, source.name))
        return {"tinker_path": self.saved[-1].path}

    @route("GET", f"{CHECKPOINT}/external_weights_urls")
    def external_urls(self, seen: Request, *where: str) -> Any:
        self.of(*where)
        urls = {file: f"{self.storage_url}/{file}?signature=s" for file in FILES}
        return {"urls": urls, "expires": "2126-11-22T00:00:00Z"}

    @route("GET", f"{CHECKPOINT}/archive")
    def archive(self, seen: Request, *where: str) -> Reply:
        self.of(*where)
        location = f"{self.storage_url}/archive"
        return Reply(None, 302, {"Location": location, "Expires": "Fri, 22 Nov 2126 00:00:00 GMT"})

    @property
    def storage_url(self) -> str:
        """Where signed addresses lead: to another origin, which must not see the key."""
        return self.url.removesuffix(self.base).replace("127.0.0.1", "localhost") + "/storage"

    @route("GET", "/storage/{name}")
    def storage(self, seen: Request, name: str) -> Reply:
        special = {"archive": tarred(gz=False), "trace": b"perfetto"}
        return Reply(special.get(name) or FILES[name])

    def taken(self, saved: Saved) -> bool:
        return TYPES[saved.kind] != "external" and super().taken(saved)

    @route("GET", "billing/usage/events")
    def usage(self, seen: Request) -> Any:
        first, end = (seen.query[name][:13] for name in ("starting_on", "ending_before"))
        data = [USAGE] if first <= "2026-11-20T13" < end else []
        return {"data": data, "sessions": {}, "cost_data_through": self.time}
