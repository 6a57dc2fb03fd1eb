"""Models of other architectures, models that cannot be used, memory, and adapters in PEFT."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.training import LORA, MODEL, example, finish, sample_spec, with_peft, write_adapter
from tinkex_local.engines import AdamParams, Run
from tinkex_local.problems import OperationError
from tinkex_local.state.adapter import TENSORS
from tinkex_local.state.models import LocalModel
from tinkex_torch import engine as module
from tinkex_torch import gradients, sampling
from tinkex_torch.adapter import Adapter
from tinkex_torch.base import BaseModel

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[3]
#: No two sizes are equal, so that no shape fits by accident.
SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def random_model(kind: str, directory: Path) -> Any:
    """Write a small model of random weights and an adapter for it, both by their own libraries."""
    import peft
    import transformers

    classes = {
        "llama": (transformers.LlamaConfig, {"tie_word_embeddings": False}),
        "mistral": (transformers.MistralConfig, {"sliding_window": 8}),
        "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
        "gemma2": (transformers.Gemma2Config, {"sliding_window": 8, "query_pre_attn_scalar": 12}),
    }
    config_class, changes = classes[kind]
    torch.manual_seed(1)
    sizes = {name: value for name, value in SIZES.items() if kind != "qwen2" or name != "head_dim"}
    model = transformers.AutoModelForCausalLM.from_config(config_class(**sizes, **changes))
    model.save_pretrained(directory / "base")
    lora = peft.LoraConfig(r=5, lora_alpha=11, target_modules=TARGETS, init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora)
    adapted.save_pretrained(directory / "adapter", save_embedding_layers=False)
    return adapted.eval()


@pytest.mark.filterwarnings("ignore:Model has `tie_word", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gemma2"])
def test_other_architectures_equal_transformers_and_peft(kind, tmp_path):
    plain = random_model(kind, tmp_path)
    base = BaseModel(tmp_path / "base", "cpu")
    adapter = Adapter.read(tmp_path / "adapter", base.device)
    base.check(adapter)
    data = [example(length, length) for length in (20, 13)]
    for datum in data:
        datum.tokens[:] %= 90
        datum.inputs["target_tokens"][:] %= 90

    _, found_loss, gradient = gradients.compute(
        base, adapter, data, [0, 1], "cross_entropy", {}, backward=True
    )
    total = 0.0
    for datum in data:
        logits = plain(torch.from_numpy(datum.tokens)[None]).logits[0]
        targets = torch.from_numpy(datum.inputs["target_tokens"])
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        loss.backward()
        total += loss.item()
    assert found_loss == pytest.approx(total, rel=1e-5)
    found = adapter.split(gradient)
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            value = found.pop(name.replace(".default.", "."))
            assert (value - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name
    assert not found

    spec = sample_spec(tokens=tuple(range(5, 20)), temperature=0.0, max_tokens=16)
    reader = sampling.Reader(base, adapter)
    sequence = finish(sampling.sample(reader, spec, lambda tokens: False)).sequences[0]
    with torch.no_grad():
        everything = torch.tensor([[*spec.tokens, *sequence.tokens]])
        expected = plain(everything).logits[0, 14:-1].log_softmax(-1)
    assert sequence.tokens == expected.argmax(-1).tolist()
    assert sequence.logprobs == pytest.approx(expected.max(-1).values.tolist(), abs=1e-4)


def test_a_saved_run_gives_the_same_in_peft(engine, run, tmp_path):
    for number in range(3):
        steps = engine.forward(
            MODEL, run, [example(20, number)], "cross_entropy", {}, backward=True
        )
        finish(steps)
        engine.optim_step(MODEL, run, AdamParams(learning_rate=1e-2))
    engine.save(MODEL, run, tmp_path, optimizer=False)
    model = with_peft(tmp_path)
    factors = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert len(factors) == len(load_file(tmp_path / TENSORS))
    tokens = example(40, 9).tokens
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None]).logits[0].log_softmax(-1).numpy()
    spec = sample_spec(tokens=tuple(tokens.tolist()), max_tokens=1, prompt_logprobs=39)
    found = finish(engine.sample(MODEL, spec, tmp_path)).prompt_logprobs[1:]
    assert found == pytest.approx([expected[i, t] for i, t in enumerate(tokens[1:])], abs=1e-5)
    without = finish(engine.sample(MODEL, spec)).prompt_logprobs[1:]
    assert np.abs(np.subtract(found, without)).max() > 0.1


def test_an_adapter_of_zeros_changes_nothing(engine, tmp_path):
    zeros = write_adapter(tmp_path / "zeros", scale=0.0)
    spec = sample_spec(max_tokens=20)
    assert finish(engine.sample(MODEL, spec, zeros)) == finish(engine.sample(MODEL, spec))


def copied(directory: Path) -> LocalModel:
    return LocalModel("copy", shutil.copytree(module.BUILT_IN[MODEL.name], directory / "copy"))


def test_which_models_are_served(engine, tmp_path, monkeypatch):
    assert engine.serves(MODEL)
    model = copied(tmp_path)
    assert engine.serves(model)
    (model.directory / "model.safetensors").rename(model.directory / "pytorch_model.bin")
    assert not engine.serves(model)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not engine.serves(MODEL)


def test_a_list_of_models_does_not_import_pytorch():
    code = """
import sys
from tests.training import MODEL
from tinkex_torch.engine import TorchEngine
print(TorchEngine().serves(MODEL), {"torch", "transformers"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True set()\n", done.stderr


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),  # no tensors
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("config.json", b"not JSON"),
        ("config.json", b'{"model_type": "qwen3", "hidden_size": 64}'),
    ],
)
def test_a_model_that_cannot_be_loaded_is_an_error(file, content, engine, trained, tmp_path):
    model = copied(tmp_path)
    (model.directory / file).write_bytes(content)
    with pytest.raises(OperationError, match=r"(cannot load|has no tensor)"):
        engine.load(model, Run("damaged", LORA), trained, optimizer=False)


def test_code_in_a_model_directory_is_not_run(engine, trained, tmp_path):
    model, mark = copied(tmp_path), tmp_path / "ran"
    config = json.loads((model.directory / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    (model.directory / "config.json").write_text(json.dumps(config))
    (model.directory / "own.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(OperationError):
        engine.load(model, Run("own", LORA), trained, optimizer=False)
    assert not mark.exists()


def test_an_adapter_of_another_model_is_an_error(engine, tmp_path):
    tensors = "base_model.model.model.layers.{}.mlp.up_proj.lora_{}.weight"
    for layer, width, message in (
        (9, 192, "no module model.layers.9"),
        (0, 96, "has a different shape"),
    ):
        write_adapter(tmp_path)
        factors = {"A": np.zeros((8, width), np.float32), "B": np.zeros((512, 8), np.float32)}
        named = {tensors.format(layer, key): value for key, value in factors.items()}
        save_file(named, tmp_path / TENSORS)
        with pytest.raises(OperationError, match=message):
            engine.load(MODEL, Run("other", LORA), tmp_path, optimizer=False)
    save_file({"unknown": np.zeros(3, np.float32)}, tmp_path / TENSORS)
    with pytest.raises(OperationError, match="pair of lora_A and lora_B: unknown"):
        engine.load(MODEL, Run("other", LORA), tmp_path, optimizer=False)


def test_exhausted_memory_fails_the_request_only(engine, run):
    def forward(count: int, length: int) -> Any:
        data = [example(length, number) for number in range(count)]
        return finish(engine.forward(MODEL, run, data, "cross_entropy", {}, backward=True))

    before = forward(2, 5)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (16 << 20), limits[1]))
    try:
        with pytest.raises(OperationError, match="not enough memory") as caught:
            forward(8, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert caught.value.category == "user"
    assert forward(2, 5).metrics == before.metrics
    doubled = engine.optim_step(MODEL, run, AdamParams(learning_rate=0.0))
    forward(2, 5)
    single = engine.optim_step(MODEL, run, AdamParams(learning_rate=0.0))
    norm = "unclipped_grad_l2:mean"
    assert doubled[norm] == pytest.approx(2 * single[norm], rel=1e-5)


def test_models_and_adapters_in_memory_are_limited(engine, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MODELS", 1)
    monkeypatch.setattr(module, "ADAPTERS", 1)
    model, other = copied(tmp_path), write_adapter(tmp_path / "other", scale=0.1)
    spec = sample_spec()
    first = [finish(engine.sample(MODEL, spec, adapter)) for adapter in (trained, other)]
    again = [finish(engine.sample(model, spec, adapter)) for adapter in (trained, other)]
    assert again == first
    assert first[0] != first[1]
