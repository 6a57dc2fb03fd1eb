"""hatchery-core 0.3: strict metadata, operations that are ready at once, ids in their results only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.contract.dialects.account import Account, validation
from tests.contract.dialects.wire import detail, route
from tests.serving import Reply, Request


class Hatchery(Account):
    """Saving and sampling; its lists are those of any other server here."""

    run = "mdl_0a1b"
    new_run = "mdl_2157"
    sampler = "smp_4d3c"
    lacks: ClassVar[Mapping[str, int]] = {"GET checkpoints": 404, "GET samplers/{sampler}": 404}
    #: Runs that this key may still create.
    places = 5

    def unready(self, request_id: str) -> Reply:
        return self.retrieve_future(self.seen[-1])

    def capabilities(self, seen: Request) -> Any:
        return {"supported_models": [{"model_id": "Qwen/Qwen3"}], "max_rank": 256}

    def create_session(self, seen: Request) -> Reply:
        metadata = seen.json.get("user_metadata", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise validation("user_metadata", "Input should be a valid dictionary")
        return Reply({"session_id": self.session, "info_message": "created"})

    def create_model(self, seen: Request) -> Reply:
        if self.places == 0:
            raise detail(429, "Max 5 concurrent sessions")
        self.places -= 1
        return super().create_model(seen)

    def create_sampling_session(self, seen: Request) -> Reply:
        super().create_sampling_session(seen)
        result = {"sampling_session_id": f"{self.sampler}:0", "base_model": "Qwen/Qwen3-8B"}
        return self.accept(result, model_id=self.sampler, status="pending")

    @route("POST", "unload_model")
    def unload_model(self, seen: Request) -> Reply:
        raise validation("model_id", "Field required")  # as a part of the query
