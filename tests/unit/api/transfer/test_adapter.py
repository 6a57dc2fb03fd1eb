"""Configurations of adapters that name other modules than their tensors."""

from __future__ import annotations

from typing import Any

import pytest

from tinkex.api import AdapterMismatch

Q, K, HEAD = "model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.k_proj", "lm_head"
EXPERT, FUSED = "model.layers.0.mlp.experts.3.up_proj", "model.layers.0.mlp.experts"
PARAMETERS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def names(*modules: str) -> list[str]:
    """Return the names of the tensors of *modules* in an adapter."""
    return [f"base_model.model.{module}.lora_{side}.weight" for module in modules for side in "AB"]


@pytest.mark.parametrize(
    ("modules", "modules_listed", "unlisted"),
    [
        ((Q, K), None, ("k_proj", "q_proj")),
        ((Q, K), [], ("k_proj", "q_proj")),
        ((Q, K), 7, ("k_proj", "q_proj")),
        ((Q, K), ["q_proj", 7], ("k_proj",)),
        ((Q, K), ["attn.q_proj", "j_proj"], ("k_proj", "q_proj")),
        ((Q, HEAD, EXPERT), "all-linear", ("lm_head",)),
        ((Q, EXPERT), ["q_proj", "experts"], ("up_proj",)),
    ],
)
def test_modules_that_peft_would_ignore_are_named(modules, modules_listed, unlisted):
    found = AdapterMismatch.find({"target_modules": modules_listed}, names(*modules))
    assert found is not None
    assert (found.unlisted, found.is_fixable) == (unlisted, True)
    assert found.modules == tuple(sorted(module.rpartition(".")[2] for module in modules))
    assert str(found) == (
        f"target_modules in adapter_config.json lacks {', '.join(unlisted)}, "
        "so PEFT may ignore the corresponding tensors"
    )


@pytest.mark.parametrize(
    ("modules", "config"),
    [
        ((Q, K), {"target_modules": ["k_proj", "q_proj", "v_proj"]}),
        ((Q, K), {"target_modules": ["self_attn.k_proj", Q]}),
        ((Q, K, EXPERT), {"target_modules": "all-linear"}),
        ((Q, K), {"target_modules": r".*\.[qk]_proj"}),
        ((Q, FUSED, f"{FUSED}.base_layer"), {"target_modules": ["q_proj"], **PARAMETERS}),
        ((), {"target_modules": None}),
    ],
    ids=["listed", "longer", "all", "a regular expression", "fused experts", "no tensors"],
)
def test_adapters_that_peft_loads_whole_are_not_complained_of(modules, config):
    assert AdapterMismatch.find(config, [*names(*modules), "lm_head.weight"]) is None


@pytest.mark.parametrize(
    ("tensor", "unknown"),
    [
        *((f"base_model.model.{path}.lora_A.weight", path.replace(".0.", ".*.")) for path in (
            "model.unembed_tokens",
            "model.layers.0.mlp.experts.w1",
            "model.layers.0.attn.q_proj",
            "model.layers.0.linear_attn.in_proj_k",
            FUSED,
        )),
        (f"{Q}.lora_A.weight", "model.layers.*.self_attn.q_proj"),
    ],
)  # fmt: skip
def test_names_of_the_hosted_service_must_be_converted(tensor, unknown):
    config: dict[str, Any] = {"target_modules": "all-linear"}
    found = AdapterMismatch.find(config, [tensor, *names(K, HEAD)])
    assert found is not None
    assert (found.unknown, found.is_fixable) == ((unknown,), False)
    assert str(found) == f"PEFT ignores tensors whose names it does not know: {unknown}"


def test_a_hostile_configuration_costs_no_time_or_room():
    tensors = names(*(f"{'x.' * 500}m{number}" for number in range(2_000)))
    listed = [f"a.b.c{number}" for number in range(100_000)]
    found = AdapterMismatch.find({"target_modules": listed, "target_parameters": 5}, tensors)
    assert found is not None
    assert len(str(found)) < 10_000
