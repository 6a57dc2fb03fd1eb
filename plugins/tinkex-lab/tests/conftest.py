"""Every test has a separate home, without the developer's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinkex.testing import isolated


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with isolated(tmp_path_factory.mktemp("home")) as home:
        os.environ["COLUMNS"] = "80"
        yield home
