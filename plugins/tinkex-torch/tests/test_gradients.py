"""Loss and gradients equal a plain computation with PyTorch and PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import MODEL, example, finish
from tinkex_local.engines import LOSSES, AdamParams, Datum
from tinkex_local.problems import OperationError
from tinkex_torch import gradients
from tinkex_torch.adapter import Adapter
from tinkex_torch.base import BaseModel
from tinkex_torch.engine import BUILT_IN

pytestmark = pytest.mark.train
LENGTHS = (5, 17, 9, 17, 1)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(BUILT_IN["tinkex/baker-street-2M"], "cpu")


@pytest.fixture(scope="module")
def adapter(base: BaseModel, trained: Path) -> Adapter:
    return Adapter.read(trained, base.device)


def plain_loss(name: str, lp: Any, inputs: Mapping[str, Any], config: Mapping[str, float]) -> Any:
    """Return the sum as the reference defines it, written as formulas."""
    if name == "cross_entropy":
        return -(inputs["weights"] * lp).sum()
    q, a = inputs["logprobs"], inputs["advantages"]
    rho = torch.exp(lp - q)
    if name == "importance_sampling":
        return -(rho * a).sum()
    if name == "dro":
        return -(lp * a - 0.5 * config["beta"] * (lp - q) ** 2).sum()
    clipped = torch.clamp(rho, config["clip_low_threshold"], config["clip_high_threshold"])
    if name == "ppo":
        return -torch.min(rho * a, clipped * a).sum()
    assert name == "cispo"
    return -(clipped.detach() * lp * a).sum()


def plain(model: Any, data: list[Datum], name: str, config: Mapping[str, float]) -> Any:
    """Return loss, logprobs and gradients of PEFT's tensors, one example at a time."""
    model.zero_grad()
    total, outputs = 0.0, []
    for datum in data:
        inputs = {key: torch.from_numpy(value) for key, value in datum.inputs.items()}
        logits = model(torch.from_numpy(datum.tokens)[None]).logits[0]
        targets = inputs["target_tokens"].reshape(len(datum.tokens), -1)
        lp = (
            torch.log_softmax(logits, -1)
            .gather(-1, targets)
            .reshape(datum.inputs["target_tokens"].shape)
        )
        loss = plain_loss(name, lp, inputs, config)
        loss.backward()
        total += loss.item()
        outputs.append(lp.detach().numpy())
    found = {
        key.replace(".default.", "."): parameter.grad
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return total, outputs, found


def examples(name: str, seed: int = 0) -> list[Datum]:
    random = np.random.default_rng(seed)
    data = []
    for number, length in enumerate(LENGTHS):
        if name == "cross_entropy":  # any real numbers, not only 0 and 1
            inputs = {"weights": random.normal(0, 1, length)}
        else:
            near = random.normal(-7.5, 1.0, length)  # ratios on both sides of the thresholds
            inputs = {"logprobs": near, "advantages": random.normal(0, 1, length)}
        arrays = {key: value.astype(np.float32) for key, value in inputs.items()}
        data.append(example(length, number, **arrays))
    return data


def computed(base: BaseModel, adapter: Adapter, data: list[Datum], name: str) -> Any:
    """Return the sums over the batches of all examples."""
    outputs: list[Any] = [None] * len(data)
    loss, gradient = 0.0, torch.zeros_like(adapter.vector)
    config = LOSSES[name].config
    for indices in gradients.batches(data, base.vocabulary):
        found, part, slope = gradients.compute(
            base, adapter, data, indices, name, config, backward=True
        )
        for index, logprobs in zip(indices, found, strict=True):
            outputs[index] = logprobs
        loss += part
        gradient += slope
    return loss, outputs, adapter.split(gradient)


def assert_equal(found: Any, expected: Any) -> None:
    (loss, outputs, gradient), (loss2, outputs2, gradient2) = found, expected
    assert loss == pytest.approx(loss2, rel=1e-5)
    for one, other in zip(outputs, outputs2, strict=True):
        assert one.dtype == np.float32
        assert one.shape == other.shape
        assert one == pytest.approx(other, abs=1e-5)
    assert gradient.keys() == gradient2.keys()
    for name, value in gradient.items():
        assert (value - gradient2[name]).norm() <= 1e-5 * gradient2[name].norm(), name


@pytest.mark.parametrize("name", LOSSES)
def test_loss_logprobs_and_gradients_equal_plain_torch_and_peft(name, base, adapter, reference):
    data = examples(name)
    expected = plain(reference, data, name, LOSSES[name].config)
    assert_equal(computed(base, adapter, data, name), expected)


def test_several_targets_for_each_position(base, adapter, reference):
    random = np.random.default_rng(1)
    data = []
    for length, width in ((6, 3), (4, 1), (8, 3), (3, 2)):
        targets = random.integers(0, 2048, (length, width))
        weights = random.normal(0, 1, (length, width)).astype(np.float32)
        data.append(
            Datum(random.integers(0, 2048, length), {"target_tokens": targets, "weights": weights})
        )
    expected = plain(reference, data, "cross_entropy", {})
    assert_equal(computed(base, adapter, data, "cross_entropy"), expected)


def test_batches_contain_each_example_once_with_little_padding(monkeypatch):
    monkeypatch.setattr(gradients, "TOKENS", 64)
    data = [example(length, 0) for length in (30, 2, 31, 100, 3, 2, 29)]
    groups = gradients.batches(data, 2048)
    assert sorted(index for group in groups for index in group) == list(range(7))
    assert [[len(data[index].tokens) for index in group] for group in groups] == [
        [100],
        [31, 30],
        [29, 3],
        [2, 2],
    ]
    assert len(gradients.batches(data, gradients.LOGITS)) == 7  # a large vocabulary: one by one


def test_a_loss_without_gradient_leaves_none(base, adapter):
    data = examples("cross_entropy")
    found = gradients.compute(base, adapter, data, [0, 1], "cross_entropy", {}, backward=False)
    assert found[2] is None


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_tokens_without_advantage_may_have_any_logprob(name, base, adapter):
    arrays = {"logprobs": np.full(4, -1e9, np.float32), "advantages": np.zeros(4, np.float32)}
    data = [example(4, 0, **arrays)]
    loss, _, gradient = computed(base, adapter, data, name)
    assert loss == 0
    assert not any(value.any() for value in gradient.values())


def norm(engine: Any, run: Any) -> float:
    """Return the norm of the accumulated gradient, which is discarded; weights do not change."""
    params = AdamParams(learning_rate=0.0)
    return float(engine.optim_step(MODEL, run, params)["unclipped_grad_l2:mean"])


def forward(engine: Any, run: Any, data: list[Datum], *, backward: bool = True) -> Any:
    steps = engine.forward(MODEL, run, data, "cross_entropy", {}, backward=backward)
    return finish(steps)


def test_gradients_of_requests_add_up_until_the_step(engine, run):
    data = examples("cross_entropy")
    whole = forward(engine, run, data)
    at_once = norm(engine, run)
    parts = [forward(engine, run, data[:2]), forward(engine, run, data[2:])]
    assert norm(engine, run) == pytest.approx(at_once, rel=1e-5)
    assert norm(engine, run) == 0.0
    total = sum(part.metrics["loss:sum"] for part in parts)
    assert total == pytest.approx(whole.metrics["loss:sum"], rel=1e-5)
    outputs = [output["logprobs"] for part in parts for output in part.outputs]
    for one, other in zip(outputs, whole.outputs, strict=True):
        assert one == pytest.approx(other["logprobs"], abs=1e-5)


def test_a_loss_that_is_not_finite_is_an_error_and_adds_nothing(engine, run):
    good, bad = examples("cross_entropy"), example(4, 1, weights=np.full(4, np.nan, np.float32))
    forward(engine, run, good)
    with pytest.raises(OperationError, match="for datum 1 is not finite") as caught:
        forward(engine, run, [good[0], bad, good[1]])
    assert caught.value.category == "user"
    with_failure = norm(engine, run)
    forward(engine, run, good)
    assert with_failure == norm(engine, run)


def test_a_closed_generator_and_a_forward_pass_add_nothing(engine, run, monkeypatch):
    monkeypatch.setattr(gradients, "TOKENS", 8)  # several steps
    steps = engine.forward(
        MODEL, run, examples("cross_entropy"), "cross_entropy", {}, backward=True
    )
    next(steps)
    next(steps)
    steps.close()
    forward(engine, run, examples("cross_entropy"), backward=False)
    assert norm(engine, run) == 0.0
