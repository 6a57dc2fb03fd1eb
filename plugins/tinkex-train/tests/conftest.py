"""``train sft`` on the local service, with an engine that trains in numpy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bigram import BigramEngine
from tinkex.testing import Invocation, invoke, local_service

MODEL = "tinkex/baker-street-2M"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> BigramEngine:
    """The engine of the local service."""
    made = BigramEngine()
    monkeypatch.setattr("tinkex_local.engines.choice._installed", lambda: iter([made]))
    return made


@pytest.fixture
def home(tmp_path: Path, engine: BigramEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, which has a file with ten rows."""
    with local_service(tmp_path / "home"):
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        Path("data.jsonl").write_text(
            "".join(json.dumps({"text": f"{n} green bottles"}) + "\n" for n in range(10))
        )
        yield tmp_path / "work"


class Sft:
    """Runs ``train sft``."""

    def __call__(self, *words: str, data: str = "data.jsonl", **more: Any) -> Invocation:
        model = [] if {"--base-model", "--model-path"} & set(words) else ["--base-model", MODEL]
        return invoke(["train", "sft", data, *model, *words], **more)

    def train(self, *words: str, output: str = "out", **more: Any) -> Invocation:
        """Train for ten steps."""
        options = ["--batch-size", "2", "--epochs", "2", "--learning-rate", "0.05"]
        return self(*options, "--rank", "4", "--output", output, *words, **more)


@pytest.fixture
def sft(home: Path) -> Sft:
    return Sft()
