"""The Tinker API from Python.

>>> from tinkex.api import ServiceClient
>>> with ServiceClient() as client:                               # doctest: +SKIP
...     for run in client.runs.list():
...         print(run.training_run_id, run.base_model)

Every call raises a subclass of :class:`tinkex.exceptions.TinkexError` and nothing else.
Names are imported when first used, so that ``import tinkex.api`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.api.checkpoints import Checkpoint, CheckpointInfo, Checkpoints
    from tinkex.api.client import ServiceClient
    from tinkex.api.download import Download
    from tinkex.api.meter import Progress
    from tinkex.api.models import Model, Models
    from tinkex.api.moving import Moved
    from tinkex.api.paging import Page
    from tinkex.api.paths import TinkerPath
    from tinkex.api.runs import Runs, TrainingRun
    from tinkex.api.samples import SampledSequence, SampleResponse, SamplingParams
    from tinkex.api.sampling import SamplingClient
    from tinkex.api.sessions import Session, Sessions
    from tinkex.api.tokenizer import Tokenizer, load_tokenizer
    from tinkex.api.training import SavedWeights, TrainingClient
    from tinkex.api.verifying import VerifiedFile, verify
    from tinkex.api.waiting import Wait

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Checkpoints",
    "Download",
    "Model",
    "Models",
    "Moved",
    "Page",
    "Progress",
    "Runs",
    "SampleResponse",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "SavedWeights",
    "ServiceClient",
    "Session",
    "Sessions",
    "TinkerPath",
    "Tokenizer",
    "TrainingClient",
    "TrainingRun",
    "VerifiedFile",
    "Wait",
    "load_tokenizer",
    "verify",
]

_HOME = {
    "Checkpoint": "checkpoints",
    "CheckpointInfo": "checkpoints",
    "Checkpoints": "checkpoints",
    "Download": "download",
    "Model": "models",
    "Models": "models",
    "Moved": "moving",
    "Page": "paging",
    "Progress": "meter",
    "Runs": "runs",
    "SampleResponse": "samples",
    "SampledSequence": "samples",
    "SamplingClient": "sampling",
    "SamplingParams": "samples",
    "SavedWeights": "training",
    "ServiceClient": "client",
    "Session": "sessions",
    "Sessions": "sessions",
    "TinkerPath": "paths",
    "Tokenizer": "tokenizer",
    "TrainingClient": "training",
    "TrainingRun": "runs",
    "VerifiedFile": "verifying",
    "Wait": "waiting",
    "load_tokenizer": "tokenizer",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
