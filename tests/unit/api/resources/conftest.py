"""Records and lists as the service sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.api.conftest import Seen, Server

TIME = "2026-11-22T12:00:00Z"


def checkpoint(run: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "checkpoint_id": f"{kind}/{name}",
        "checkpoint_type": "training" if kind == "weights" else "sampler",
        "tinker_path": f"tinker://{run}/{kind}/{name}",
        "time": TIME,
        **more,
    }


def run(name: str, **more: Any) -> dict[str, Any]:
    return {"training_run_id": name, "base_model": "m", "last_request_time": TIME, **more}


@pytest.fixture
def paged(server: Server) -> Callable[..., None]:
    """Return a function that serves the list *name* in pages, with or without a total."""

    def paged(name: str, records: list[Any], *, total: bool = True) -> None:
        def serve(seen: Seen) -> Any:
            limit, offset = int(seen.query["limit"]), int(seen.query["offset"])
            page = {name: records[offset : offset + limit]}
            return server.reply(page | ({"cursor": {"total_count": len(records)}} if total else {}))

        server.on("GET", name, serve)

    return paged
