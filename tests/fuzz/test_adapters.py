"""Files of adapters with any content: they are read or refused, and compared without an error."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.test_input import JSON
from tinkex.api.transfer.adapter import examine, fixed
from tinkex.api.transfer.content import check
from tinkex.api.transfer.directory import Directory
from tinkex.columns import printable

CONFIG_FILE = Path("adapter_config.json")
MODULE = st.sampled_from(["base_model.model.x.q_proj", "lm_head", "a.experts", "\ud800", "\x1b[2J"])
TENSOR = st.builds("{}.lora_{}.weight".format, MODULE, st.text(max_size=2))
PLACES = st.lists(st.integers(0, 3) | JSON, max_size=3)
HEADER = st.dictionaries(
    TENSOR | st.text(max_size=5), JSON | PLACES.map(lambda p: {"data_offsets": p})
)
WHOLE = st.lists(TENSOR, max_size=4).map(lambda names: {n: {"data_offsets": [0, 0]} for n in names})
CONFIG = JSON | st.fixed_dictionaries({"target_modules": JSON, "target_parameters": JSON})


@given(
    (HEADER | WHOLE).map(lambda h: json.dumps(h).encode()) | st.binary(),
    CONFIG,
    st.binary(max_size=3),
)
@example(b"[" * 5000, {}, b"")
@example(b'{"w":' * 5000, {}, b"")
def test_an_adapter_is_parsed_or_rejected(tried, tmp_path_factory, header, config, rest):
    tried()
    place = tmp_path_factory.getbasetemp()
    files = {"adapter_config.json": json.dumps(config).encode()}
    files["adapter_model.safetensors"] = len(header).to_bytes(8, "little") + header + rest
    for name, content in files.items():
        (place / name).write_bytes(content)
        with (place / name).open("rb") as file, suppress(ValueError):
            check(name, file)
    directory = Directory.at(place)
    try:
        found = examine(directory, CONFIG_FILE)
        if found is not None:
            assert "\n" not in printable(str(found))
            new = json.loads(fixed(directory, CONFIG_FILE, found)[0])
            assert new["target_modules"] == list(found.modules)
    finally:
        os.close(directory.fileno())
