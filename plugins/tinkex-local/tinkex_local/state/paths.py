"""``tinker://`` paths: ``tinker://<run>/<kind>/<name>``."""

from __future__ import annotations

from dataclasses import dataclass

from tinkex_local.problems import bad_request

SCHEME = "tinker://"
TRAINING, SAMPLER, EXTERNAL = "weights", "sampler_weights", "external_weights"
#: Kind → its name in lists.
TYPES = {TRAINING: "training", SAMPLER: "sampler", EXTERNAL: "external"}


@dataclass(frozen=True)
class TinkerPath:
    """The parts of a checkpoint's path."""

    run_id: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        """The id of the checkpoint within its run."""
        return f"{self.kind}/{self.name}"


def parse(text: str) -> TinkerPath:
    """Parse *text* as a path.

    :raises Problem: *text* is not a path.
    """
    parts = text.removeprefix(SCHEME).split("/")
    if not text.startswith(SCHEME) or len(parts) != 3 or parts[1] not in TYPES or "" in parts:
        raise bad_request(
            f"Invalid checkpoint tinker path {text[:300]!r}: "
            f"expected {SCHEME}<run>/<{'|'.join(TYPES)}>/<name>"
        )
    return TinkerPath(*parts)
