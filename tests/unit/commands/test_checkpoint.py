"""``checkpoint``: what saving refuses."""

from __future__ import annotations

import pytest

from tinkex.testing import invoke


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--model-path", "tinker://r/sampler_weights/a"], "has no training state to resume from"),
        (["--model-path", "tinker://r/weights/a", "--rank", "4"], "--rank cannot change"),
        (["--model-path", "tinker://r/weights/a", "--seed", "4"], "--seed cannot change"),
        (
            ["--model-path", "tinker://r/weights/a", "--no-train-mlp"],
            "--no-train-mlp cannot change",
        ),
    ],
)
def test_options_that_a_saved_checkpoint_fixes(argv, what, tmp_path):
    done = invoke(["checkpoint", *argv, "--output", str(tmp_path / "x"), "--api-key", "k"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr
