"""The optimizer, its files, and runs that are moved to disk."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.full_disk import files_up_to
from tests.training import LORA, MODEL, example, finish, write_adapter
from tinkex_local.engines import AdamParams, Run
from tinkex_local.problems import OperationError
from tinkex_local.state.adapter import TENSORS
from tinkex_torch.adapter import Adapter
from tinkex_torch.runs import OPTIMIZER, Runs, TrainingState

pytestmark = pytest.mark.train
CPU = torch.device("cpu")
#: Every value may change with each step.
STEPS = (
    AdamParams(learning_rate=1e-2),
    AdamParams(learning_rate=3e-3, weight_decay=0.1, grad_clip_norm=1.0),
    AdamParams(learning_rate=1e-3, beta1=0.8, beta2=0.99, eps=1e-8),
    AdamParams(learning_rate=5e-3, grad_clip_norm=1e6),
)


def state_of(directory: Path) -> TrainingState:
    return TrainingState(Adapter.read(directory, CPU))


def gradient(seed: int, like: TrainingState) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.adapter.vector.shape, generator=generator)


def test_steps_equal_those_of_adamw_in_torch(trained):
    state = state_of(trained)
    plain = torch.nn.Parameter(state.adapter.vector.clone())
    optimizer = torch.optim.AdamW([plain])
    for seed, params in enumerate(STEPS):
        found = gradient(seed, state)
        state.accumulate(found)
        plain.grad = found.clone()
        norm = found.norm().item()
        if params.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_([plain], params.grad_clip_norm)
        optimizer.param_groups[0].update(
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.eps,
            weight_decay=params.weight_decay,
        )
        optimizer.step()
        assert state.step(params) == {"unclipped_grad_l2:mean": pytest.approx(norm)}
        assert torch.allclose(state.adapter.vector, plain.data, rtol=1e-6, atol=1e-8)


def test_a_step_without_gradients_changes_nothing(trained):
    state = state_of(trained)
    state.accumulate(gradient(0, state))
    state.step(STEPS[0])
    before = state.adapter.vector.clone()
    assert state.step(STEPS[1]) == {"unclipped_grad_l2:mean": 0.0}
    assert torch.equal(state.adapter.vector, before)
    assert state.steps == 1


def test_gradients_that_are_not_finite_are_discarded_with_an_error(trained):
    state = state_of(trained)
    before = state.adapter.vector.clone()
    bad = gradient(0, state)
    bad[3] = torch.inf
    state.accumulate(bad)
    with pytest.raises(OperationError, match="gradients are not finite"):
        state.step(STEPS[0])
    assert torch.equal(state.adapter.vector, before)
    assert (state.steps, state.gradient) == (0, None)


def train(engine: Any, run: Run, first: int, last: int) -> list[float]:
    """Return the losses of some steps, each on other data."""
    losses = []
    for number in range(first, last):
        data = [example(12, 10 * number + index) for index in range(3)]
        steps = engine.forward(MODEL, run, data, "cross_entropy", {}, backward=True)
        losses.append(finish(steps).metrics["loss:sum"])
        engine.optim_step(MODEL, run, STEPS[number % len(STEPS)])
    return losses


def saved(engine: Any, run: Run, directory: Path, *, optimizer: bool = True) -> Path:
    directory.mkdir()
    engine.save(MODEL, run, directory, optimizer=optimizer)
    return directory


def test_a_run_that_was_saved_and_loaded_continues_as_if_it_was_not_interrupted(
    engine, run, tmp_path
):
    losses = train(engine, run, 0, 3)
    checkpoint = saved(engine, run, tmp_path / "middle")
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "adapter_config.json",
        TENSORS,
        OPTIMIZER,
    ]
    losses += train(engine, run, 3, 6)
    end = load_file(saved(engine, run, tmp_path / "end") / TENSORS)

    other = Run("test:train:1", LORA)
    engine.load(MODEL, other, checkpoint, optimizer=True)
    assert train(engine, other, 3, 6) == losses[3:]
    again = load_file(saved(engine, other, tmp_path / "again") / TENSORS)
    assert {name: value.tobytes() for name, value in again.items()} == {
        name: value.tobytes() for name, value in end.items()
    }

    engine.load(MODEL, other, checkpoint, optimizer=False)
    fresh = train(engine, other, 3, 6)
    assert fresh[0] == losses[3]
    assert fresh[1:] != losses[4:]
    engine.unload(other)


def test_loading_discards_gradients(engine, run, trained):
    steps = engine.forward(MODEL, run, [example(5, 0)], "cross_entropy", {}, backward=True)
    finish(steps)
    engine.load(MODEL, run, trained, optimizer=False)
    assert engine.optim_step(MODEL, run, STEPS[0]) == {"unclipped_grad_l2:mean": 0.0}


def test_the_files_are_those_of_the_service(engine, run, trained, tmp_path):
    directory = saved(engine, run, tmp_path / "saved", optimizer=False)
    assert sorted(path.name for path in directory.iterdir()) == ["adapter_config.json", TENSORS]
    for name in ("adapter_config.json",):
        assert (directory / name).read_bytes() == (trained / name).read_bytes()
    found, expected = load_file(directory / TENSORS), load_file(trained / TENSORS)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_without_optimizer_is_not_started_fresh_silently(engine, run, trained):
    with pytest.raises(OperationError, match="no optimizer state"):
        engine.load(MODEL, run, trained, optimizer=True)


@pytest.mark.parametrize("damage", ["empty", "short", "other rank"])
def test_damaged_files_are_an_error_and_leave_the_run(damage, engine, run, tmp_path):
    train(engine, run, 0, 1)
    checkpoint = saved(engine, run, tmp_path / "saved")
    for name in (TENSORS, OPTIMIZER):
        path, content = checkpoint / name, (checkpoint / name).read_bytes()
        if damage == "other rank":
            other = Run("test:train:2", replace(LORA, rank=4))
            small = write_adapter(tmp_path / f"small-{name}", other.spec)
            engine.load(MODEL, other, small, optimizer=False)
            train(engine, other, 0, 1)
            path.write_bytes((saved(engine, other, tmp_path / f"o-{name}") / name).read_bytes())
            engine.unload(other)
        else:
            path.write_bytes(content[: {"empty": 0, "short": 1000}[damage]])
        if (name, damage) != (TENSORS, "other rank"):  # consistent: the service compares the rank
            with pytest.raises(OperationError, match="damaged"):
                engine.load(MODEL, run, checkpoint, optimizer=True)
        path.write_bytes(content)
    assert train(engine, run, 1, 2)  # still loaded


def test_a_full_disk_is_the_error_of_the_system(engine, run, tmp_path):
    directory = tmp_path / "full"
    directory.mkdir()
    with files_up_to(1000), pytest.raises(OSError, match="File too large"):
        engine.save(MODEL, run, directory, optimizer=True)


def advanced(runs: Runs, names: str, seed: int) -> None:
    """Add a gradient to each run and step every second one, which leaves the others pending."""
    for number, name in enumerate(names):
        runs[name].accumulate(gradient(seed + number, runs[name]))
        if (seed + number) % 2:
            runs[name].step(STEPS[seed % len(STEPS)])


@pytest.mark.parametrize("full_disk", [False, True])
def test_runs_beyond_the_limit_of_memory_are_moved_to_disk_and_back(full_disk, trained):
    names = "abc"
    states = [state_of(trained) for _ in names]
    plenty, little = Runs(), Runs(memory=states[0].size)
    for name, state in zip(names, states, strict=True):
        plenty[name], little[name] = state_of(trained), state
    assert [len(state.adapter.vector) > 0 for state in states] == [False, False, True]
    for seed in range(4):
        advanced(plenty, names, seed)
        with files_up_to(1000) if full_disk else nullcontext():
            advanced(little, names, seed)
    for name in names:
        one, other = plenty[name], little[name]
        assert one.steps == other.steps > 0
        assert torch.equal(one.adapter.vector, other.adapter.vector)
        assert torch.equal(one.second, other.second)
        assert (one.gradient is None) == (other.gradient is None)
    for name in names:
        little.drop(name)


def test_a_run_that_is_not_loaded_is_an_error(engine):
    with pytest.raises(OperationError, match="not loaded"):
        engine.optim_step(MODEL, Run("unknown", LORA), STEPS[0])
    engine.unload(Run("unknown", LORA))
