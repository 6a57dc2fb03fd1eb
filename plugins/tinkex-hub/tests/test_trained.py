"""An adapter that the local service has trained: exported, merged, and as the service samples it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinkex.api import SamplingParams, ServiceClient
from tinkex.testing import invoke, local_service

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

MODEL = "tinkex/baker-street-2M"
TOKENS = list(range(300, 340))


def logprobs(model: Any) -> Any:
    """Return the log-probability of each token of :data:`TOKENS` but the first."""
    import torch

    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        every = torch.log_softmax(model.eval()(input_ids=ids).logits.float(), -1)
    return every[0, :-1].gather(1, ids[0, 1:, None])[:, 0]


def run(*words: str) -> Any:
    done = invoke(words)
    assert done.exit_code == 0, done.stderr
    return done.rows if "json" in words else done.stdout


def test_the_service_peft_and_the_merged_model_agree(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tinkex_torch.engine import BUILT_IN

    base = str(BUILT_IN[MODEL])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{n} green bottles"}) + "\n" for n in range(8)))
    with local_service(tmp_path / "home"):
        training = ["--epochs", "4", "--batch-size", "4", "--learning-rate", "3e-3"]
        output = ["--rank", "4", "--name", "trained", "--output", str(tmp_path / "training")]
        run("train", "sft", str(rows), "--base-model", MODEL, *training, *output)
        paths = run("checkpoint", "list", "-f", "json", "--type", "sampler", "--limit", "1")
        path = paths[0]["tinker_path"]
        with ServiceClient() as client:
            sampler = client.create_sampling_client(model_path=path)
            answer = sampler.sample(TOKENS, SamplingParams(max_tokens=1), prompt_logprobs=True)
        assert answer.prompt_logprobs is not None
        sampled = torch.tensor(answer.prompt_logprobs[1:])
        for to in ("peft", "merged"):
            words = ["--to", to, "--base", base, "--output", str(tmp_path / to)]
            run("checkpoint", "export", path, *words)
        found = run("checkpoint", "inspect", str(tmp_path / "peft"), "-f", "json")
    assert found["update_norm"] > 0.1
    assert (found["untrained"], found["peft"]["loads"]) == ([], "all")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert (logprobs(model) - sampled).abs().max() > 0.1
    in_peft = logprobs(PeftModel.from_pretrained(model, tmp_path / "peft"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert merged.config.tie_word_embeddings is False
    torch.testing.assert_close(in_peft, sampled, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(in_peft, logprobs(merged), rtol=1e-5, atol=1e-5)
