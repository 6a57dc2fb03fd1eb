"""The Tinker API from Python.

>>> from tinkex.api import ServiceClient
>>> with ServiceClient() as client:                               # doctest: +SKIP
...     for run in client.runs.list():
...         print(run.training_run_id, run.base_model)

Every failure raises a subclass of :class:`tinkex.exceptions.TinkexError`. Exception: an argument of
a wrong type may raise an error of Python, such as ``TypeError``. ``import tinkex.api`` takes almost
no time, because a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.api.client import ServiceClient as ServiceClient
    from tinkex.api.http.pagination import Page as Page
    from tinkex.api.http.retry import Wait as Wait
    from tinkex.api.paths import TinkerPath as TinkerPath
    from tinkex.api.resources.auth import ApiKey as ApiKey
    from tinkex.api.resources.auth import Auth as Auth
    from tinkex.api.resources.auth import Identity as Identity
    from tinkex.api.resources.auth import KeyCheck as KeyCheck
    from tinkex.api.resources.billing import Billing as Billing
    from tinkex.api.resources.billing import Usage as Usage
    from tinkex.api.resources.billing import UsageEvent as UsageEvent
    from tinkex.api.resources.checkpoint_info import Checkpoint as Checkpoint
    from tinkex.api.resources.checkpoint_info import CheckpointInfo as CheckpointInfo
    from tinkex.api.resources.checkpoints import Checkpoints as Checkpoints
    from tinkex.api.resources.models import Model as Model
    from tinkex.api.resources.models import Models as Models
    from tinkex.api.resources.runs import Runs as Runs
    from tinkex.api.resources.runs import TrainingRun as TrainingRun
    from tinkex.api.resources.session_info import SessionInfo as SessionInfo
    from tinkex.api.resources.session_info import SessionQuery as SessionQuery
    from tinkex.api.resources.session_info import SessionSummary as SessionSummary
    from tinkex.api.resources.sessions import Session as Session
    from tinkex.api.resources.sessions import Sessions as Sessions
    from tinkex.api.resources.sessions import Trace as Trace
    from tinkex.api.sampling.client import SamplingClient as SamplingClient
    from tinkex.api.sampling.dataset import SupervisedRow as SupervisedRow
    from tinkex.api.sampling.dataset import read_supervised_rows as read_supervised_rows
    from tinkex.api.sampling.supervised import ExampleBuilder as ExampleBuilder
    from tinkex.api.sampling.supervised import SupervisedExample as SupervisedExample
    from tinkex.api.sampling.tokenizer import Tokenizer as Tokenizer
    from tinkex.api.sampling.tokenizer import load_tokenizer as load_tokenizer
    from tinkex.api.sampling.types import Logprobs as Logprobs
    from tinkex.api.sampling.types import SampledRow as SampledRow
    from tinkex.api.sampling.types import SampledSequence as SampledSequence
    from tinkex.api.sampling.types import SampleResponse as SampleResponse
    from tinkex.api.sampling.types import SampleRow as SampleRow
    from tinkex.api.sampling.types import SamplingParams as SamplingParams
    from tinkex.api.training.client import SavedWeights as SavedWeights
    from tinkex.api.training.client import TrainingClient as TrainingClient
    from tinkex.api.training.types import AdamParams as AdamParams
    from tinkex.api.training.types import Datum as Datum
    from tinkex.api.training.types import ForwardBackwardResult as ForwardBackwardResult
    from tinkex.api.training.types import TrainingFuture as TrainingFuture
    from tinkex.api.transfer.adapter import AdapterMismatch as AdapterMismatch
    from tinkex.api.transfer.download import Download as Download
    from tinkex.api.transfer.download import DownloadResult as DownloadResult
    from tinkex.api.transfer.progress import Progress as Progress
    from tinkex.api.transfer.remote import RemoteFiles as RemoteFiles
    from tinkex.api.transfer.verify import VerifiedFile as VerifiedFile
    from tinkex.api.transfer.verify import verify as verify

#: Module below this package → the public names that it defines.
_NAMES = {
    "client": "ServiceClient",
    "http.pagination": "Page",
    "http.retry": "Wait",
    "paths": "TinkerPath",
    "resources.auth": "ApiKey Auth Identity KeyCheck",
    "resources.billing": "Billing Usage UsageEvent",
    "resources.checkpoint_info": "Checkpoint CheckpointInfo",
    "resources.checkpoints": "Checkpoints",
    "resources.models": "Model Models",
    "resources.runs": "Runs TrainingRun",
    "resources.session_info": "SessionInfo SessionQuery SessionSummary",
    "resources.sessions": "Session Sessions Trace",
    "sampling.client": "SamplingClient",
    "sampling.dataset": "SupervisedRow read_supervised_rows",
    "sampling.supervised": "ExampleBuilder SupervisedExample",
    "sampling.tokenizer": "Tokenizer load_tokenizer",
    "sampling.types": "Logprobs SampledRow SampledSequence SampleResponse SampleRow SamplingParams",
    "training.client": "SavedWeights TrainingClient",
    "training.types": "AdamParams Datum ForwardBackwardResult TrainingFuture",
    "transfer.adapter": "AdapterMismatch",
    "transfer.download": "Download DownloadResult",
    "transfer.progress": "Progress",
    "transfer.remote": "RemoteFiles",
    "transfer.verify": "VerifiedFile verify",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
