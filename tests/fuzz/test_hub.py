"""Adapters and base models with any content: they are converted and merged, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.test_input import JSON
from tinkex.exceptions import TinkexError

pytest.importorskip("tinkex_hub")

from tinkex_hub import base_model, directories, loaders, lora, norms, peft_format
from tinkex_hub.placement import place

MODULE = st.sampled_from(
    [
        *("model.layers.0.mlp.up_proj", "model.layers.0.mlp.experts.w1", "model.unembed_tokens"),
        *(
            "model.layers.0.mlp.experts.base_layer",
            "model.layers.1.linear_attn.in_proj_q",
            "\ud800",
        ),
    ]
)
NUMBERS = st.lists(st.integers(-1, 3), max_size=3)
TENSOR = st.builds("base_model.model.{}.lora_{}.weight".format, MODULE, st.sampled_from("ABC"))
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", 7]),
        "shape": NUMBERS | JSON,
        "data_offsets": st.lists(st.integers(0, 12), min_size=2, max_size=2) | JSON,
    }
)
HEADER = st.dictionaries(TENSOR | st.just("__metadata__"), ENTRY | JSON, max_size=4)
PAIR = st.builds(
    lambda module: {
        f"base_model.model.{module}.lora_A.weight": {
            "dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]
        },
        f"base_model.model.{module}.lora_B.weight": {
            "dtype": "F32", "shape": [1, 1], "data_offsets": [8, 12]
        },
    },
    MODULE,
)  # fmt: skip
CONFIG = st.fixed_dictionaries(
    {"r": st.integers(0, 2) | JSON, "lora_alpha": st.integers(0, 2) | JSON},
    optional=dict.fromkeys(("rank_pattern", "target_modules", "peft_type", "use_rslora"), JSON),
)
BASE = st.fixed_dictionaries({}, optional={"model_type": JSON, "text_config": JSON})


@given(
    (HEADER | PAIR).map(lambda h: json.dumps(h).encode()) | st.binary(),
    CONFIG | JSON,
    BASE | JSON,
    st.binary(max_size=12),
)
@example(b"[" * 5000, {"r": 1, "lora_alpha": 1}, {}, b"")
@example(b'{"w":' * 5000, {"r": 1, "lora_alpha": 1}, {}, b"")
def test_an_adapter_is_converted_or_rejected(
    tried, tmp_path_factory, header, config, base_config, data
):
    tried()
    root: Path = tmp_path_factory.getbasetemp()
    shutil.rmtree(root / "out", ignore_errors=True)
    weights = len(header).to_bytes(8, "little") + header + data
    (root / "config.json").write_text(json.dumps(base_config))
    (root / "model.safetensors").write_bytes(weights)
    (root / "adapter_config.json").write_text(json.dumps(config))
    (root / "adapter_model.safetensors").write_bytes(weights)
    try:
        found = directories.read_json(root, "adapter_config.json")
        with directories.open_file(root, "adapter_model.safetensors") as file:
            adapter = lora.Adapter.open(found, file, "adapter")
            loaders.in_peft(adapter)
            loaders.in_vllm(adapter)
            for kind in norms.kinds(adapter):
                norms.norms(adapter, kind)
            places = place(adapter, None)
            (root / "out").mkdir()
            peft_format.write(adapter, places, None, root / "out")
            place(adapter, base_model.from_directory(root))
    except TinkexError:
        pass
