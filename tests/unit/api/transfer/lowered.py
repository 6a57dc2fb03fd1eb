"""Limits that let files of 100 KB take the ways of those of 100 MB, over several connections."""

from __future__ import annotations

from typing import Any

from tinkex.api.transfer import ranges, staging, streams

LOWERED: dict[Any, dict[str, Any]] = {
    ranges: {
        "_PROBE_BYTES": 20_000,
        "_PROBE_SECONDS": 0.0,
        "_BUSY": 100.0,
        "_FAST": 2**60,
        "_MIN_REST": 20_000,
        "_MIN_SECONDS": -1.0,
        "_PART": 20_000,
        "RANGES": 3,
    },
    streams: {"BLOCK": 20_000},
    staging: {"_INTERVAL": 0.01},
}
