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
    from tinkex.api.client import ServiceClient
    from tinkex.api.http.pagination import Page
    from tinkex.api.http.retry import Wait
    from tinkex.api.paths import TinkerPath
    from tinkex.api.resources.auth import ApiKey, Auth, Identity, KeyCheck
    from tinkex.api.resources.billing import Billing, Usage, UsageEvent
    from tinkex.api.resources.checkpoint_info import Checkpoint, CheckpointInfo
    from tinkex.api.resources.checkpoints import Checkpoints
    from tinkex.api.resources.models import Model, Models
    from tinkex.api.resources.runs import Runs, TrainingRun
    from tinkex.api.resources.session_info import SessionInfo, SessionQuery, SessionSummary
    from tinkex.api.resources.sessions import Session, Sessions, Trace
    from tinkex.api.resources.training import SavedWeights, TrainingClient
    from tinkex.api.sampling.client import SamplingClient
    from tinkex.api.sampling.tokenizer import Tokenizer, load_tokenizer
    from tinkex.api.sampling.types import (
        SampledRow,
        SampledSequence,
        SampleResponse,
        SampleRow,
        SamplingParams,
    )
    from tinkex.api.transfer.download import Download, DownloadResult
    from tinkex.api.transfer.progress import Progress
    from tinkex.api.transfer.verify import VerifiedFile, verify

__all__ = [
    "ApiKey",
    "Auth",
    "Billing",
    "Checkpoint",
    "CheckpointInfo",
    "Checkpoints",
    "Download",
    "DownloadResult",
    "Identity",
    "KeyCheck",
    "Model",
    "Models",
    "Page",
    "Progress",
    "Runs",
    "SampleResponse",
    "SampleRow",
    "SampledRow",
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
    "ApiKey": "resources.auth",
    "Auth": "resources.auth",
    "Billing": "resources.billing",
    "Checkpoint": "resources.checkpoint_info",
    "CheckpointInfo": "resources.checkpoint_info",
    "Checkpoints": "resources.checkpoints",
    "Download": "transfer.download",
    "DownloadResult": "transfer.download",
    "Identity": "resources.auth",
    "KeyCheck": "resources.auth",
    "Model": "resources.models",
    "Models": "resources.models",
    "Page": "http.pagination",
    "Progress": "transfer.progress",
    "Runs": "resources.runs",
    "SampleResponse": "sampling.types",
    "SampleRow": "sampling.types",
    "SampledRow": "sampling.types",
    "SampledSequence": "sampling.types",
    "SamplingClient": "sampling.client",
    "SamplingParams": "sampling.types",
    "SavedWeights": "resources.training",
    "ServiceClient": "client",
    "Session": "resources.sessions",
    "SessionInfo": "resources.session_info",
    "SessionQuery": "resources.session_info",
    "SessionSummary": "resources.session_info",
    "Sessions": "resources.sessions",
    "TinkerPath": "paths",
    "Tokenizer": "sampling.tokenizer",
    "Trace": "resources.sessions",
    "TrainingClient": "resources.training",
    "TrainingRun": "resources.runs",
    "Usage": "resources.billing",
    "UsageEvent": "resources.billing",
    "VerifiedFile": "transfer.verify",
    "Wait": "http.retry",
    "load_tokenizer": "sampling.tokenizer",
    "verify": "transfer.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
