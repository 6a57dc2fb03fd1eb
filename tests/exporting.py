"""An adapter and its base model in files, and the command that exports it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests import toy_models
from tests.toy_models import load, toy
from tinkex.testing import Invocation, invoke

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPES = ("float32", "bfloat16")


class World:
    """A base model and an adapter for it, in directories below *root*."""

    def __init__(self, root: Path, family: str, dtype: str = "float32", files: int = 1) -> None:
        self.toy, self.root = toy(family), root
        self.base, self.adapter, self.out = (root / name for name in ("base", "adapter", "out"))
        self.weights = toy_models.write_base(self.base, self.toy, dtype, files)
        self.tensors = toy_models.write_adapter(self.adapter, self.toy, dtype)

    @property
    def argv(self) -> list[str]:
        places = ["--base", str(self.base), "--output", str(self.out)]
        return ["checkpoint", "export", str(self.adapter), *places]

    def export(self, *words: str, code: int = 0) -> Invocation:
        done = invoke([*self.argv, *words])
        assert done.exit_code == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert (done.stdout, self.out.exists()) == ("", False)
            assert list(self.root.glob(".tinkex*")) == []
        return done

    def exported(self) -> dict[str, Any]:
        """Return the tensors in the files of the result."""
        found: dict[str, Any] = {}
        for file in self.out.glob("*.safetensors"):
            found |= load(file)
        return found

    def config(self) -> Any:
        return json.loads((self.out / CONFIG).read_text())

    def rewrite(self, rename: Any = None, **config: Any) -> None:
        """Change the names of the tensors, and members of the configuration."""
        if rename is not None:
            changed = {rename(name): one for name, one in self.tensors.items()}
            toy_models.save(self.adapter / WEIGHTS, changed)
        known = json.loads((self.adapter / CONFIG).read_text())
        (self.adapter / CONFIG).write_text(json.dumps({**known, **config}))


def failure(done: Invocation, words: str, hint: str = "") -> None:
    sentence, advice = done.stderr.splitlines()[-2:]
    assert re.search(words, sentence), done.stderr
    assert advice.startswith("Hint: ")
    assert hint in advice
