"""Every test has a separate home, without the developer's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinkex.testing import invoke, isolated, local_service


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with isolated(tmp_path_factory.mktemp("home")) as home:
        os.environ["COLUMNS"] = "80"
        yield home


@pytest.fixture(scope="session")
def model_directory() -> Path:
    """Return the directory with the files of the local service's model."""
    local = pytest.importorskip("tinkex_local")
    return Path(local.__file__).parent / "models" / "baker-street-2M"


@pytest.fixture(scope="session")
def service(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings for a local service with two models of the same weights."""
    with local_service(tmp_path_factory.mktemp("service")) as files:
        done = invoke(["local", "model", "add", "other", str(model_directory)])
        assert done.exit_code == 0, done
    return {"TINKEX_LOCAL_HOME": str(files), "TINKEX_PROFILE": "local"}
