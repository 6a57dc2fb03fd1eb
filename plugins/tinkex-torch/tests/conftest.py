"""An engine, and a trained adapter in it and in PEFT."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training import LORA, MODEL, with_peft, write_adapter
from tinkex_local.engines import Run
from tinkex_torch.engine import TorchEngine  # sets what OpenMP reads when PyTorch is imported

# make test needs no PyTorch: without it, these files are not even read.
if not importlib.util.find_spec("torch"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def engine() -> Any:
    return TorchEngine("cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an adapter that changes the model."""
    return write_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def run(engine: Any, trained: Path) -> Iterator[Run]:
    """Return a run that begins with the trained adapter."""
    run = Run("test:train:0", LORA)
    engine.load(MODEL, run, trained, optimizer=False)
    yield run
    engine.unload(run)


@pytest.fixture(scope="session")
def reference(trained: Path) -> Any:
    """Return the default model with the trained adapter in PEFT, whose factors are trainable."""
    return with_peft(trained, is_trainable=True)
