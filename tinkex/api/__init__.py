"""The Tinker API from Python.

>>> from tinkex.api import ServiceClient
>>> with ServiceClient() as client:                               # doctest: +SKIP
...     for run in client.runs.list():
...         print(run.training_run_id, run.base_model)

Whatever goes wrong is a subclass of :class:`tinkex.exceptions.TinkexError`; only arguments of other
types than those that are annotated raise what Python makes of them.
Names are imported when first used, so that ``import tinkex.api`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.api.auth import ApiKey, Auth, Identity, KeyCheck
    from tinkex.api.billing import Billing, Usage, UsageEvent
    from tinkex.api.bulk import SampledRow, SampledRows, SampleRow
    from tinkex.api.checkpoints import Checkpoint, Checkpoints
    from tinkex.api.client import ServiceClient
    from tinkex.api.download import Download
    from tinkex.api.lineage import CheckpointInfo
    from tinkex.api.meter import Progress
    from tinkex.api.models import Model, Models
    from tinkex.api.moving import Moved
    from tinkex.api.paging import Page
    from tinkex.api.pastsessions import SessionInfo, SessionQuery, SessionSummary
    from tinkex.api.paths import TinkerPath
    from tinkex.api.runs import Runs, TrainingRun
    from tinkex.api.samples import SampledSequence, SampleResponse, SamplingParams
    from tinkex.api.sampling import SamplingClient
    from tinkex.api.sessions import Session, Sessions
    from tinkex.api.tokenizer import Tokenizer, load_tokenizer
    from tinkex.api.traces import Trace
    from tinkex.api.training import SavedWeights, TrainingClient
    from tinkex.api.verifying import VerifiedFile, verify
    from tinkex.api.waits import Wait

__all__ = [
    "ApiKey",
    "Auth",
    "Billing",
    "Checkpoint",
    "CheckpointInfo",
    "Checkpoints",
    "Download",
    "Identity",
    "KeyCheck",
    "Model",
    "Models",
    "Moved",
    "Page",
    "Progress",
    "Runs",
    "SampleResponse",
    "SampleRow",
    "SampledRow",
    "SampledRows",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "SavedWeights",
    "ServiceClient",
    "Session",
    "SessionInfo",
    "SessionQuery",
    "SessionSummary",
    "Sessions",
    "TinkerPath",
    "Tokenizer",
    "Trace",
    "TrainingClient",
    "TrainingRun",
    "Usage",
    "UsageEvent",
    "VerifiedFile",
    "Wait",
    "load_tokenizer",
    "verify",
]

_HOME = {
    "ApiKey": "auth",
    "Auth": "auth",
    "Billing": "billing",
    "Checkpoint": "checkpoints",
    "CheckpointInfo": "lineage",
    "Checkpoints": "checkpoints",
    "Download": "download",
    "Identity": "auth",
    "KeyCheck": "auth",
    "Model": "models",
    "Models": "models",
    "Moved": "moving",
    "Page": "paging",
    "Progress": "meter",
    "Runs": "runs",
    "SampleResponse": "samples",
    "SampleRow": "bulk",
    "SampledRow": "bulk",
    "SampledRows": "bulk",
    "SampledSequence": "samples",
    "SamplingClient": "sampling",
    "SamplingParams": "samples",
    "SavedWeights": "training",
    "ServiceClient": "client",
    "Session": "sessions",
    "SessionInfo": "pastsessions",
    "SessionQuery": "pastsessions",
    "SessionSummary": "pastsessions",
    "Sessions": "sessions",
    "TinkerPath": "paths",
    "Tokenizer": "tokenizer",
    "Trace": "traces",
    "TrainingClient": "training",
    "TrainingRun": "runs",
    "Usage": "billing",
    "UsageEvent": "billing",
    "VerifiedFile": "verifying",
    "Wait": "waits",
    "load_tokenizer": "tokenizer",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
