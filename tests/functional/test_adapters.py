"""Downloads that no loader of adapters could use, or use only in part, and their repair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.storage import ARCHIVES, RUN, SEPARATE, Store, storing
from tests.weights import weights

CONFIG, LARGE, LOCK = "adapter_config.json", "adapter_model.safetensors", "tinkex.lock.json"
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
LACKS = (
    f"target_modules in {CONFIG} lacks {', '.join(MODULES)}, "
    "so PEFT may ignore the corresponding tensors"
)
HTML = b"<!DOCTYPE html><title>Sign in</title>"


def adapter(names: list[str]) -> bytes:
    return weights(b"x", [f"{name}.lora_{side}.weight" for name in names for side in "AB"])


#: What SkyRL 0.3 writes.
SKYRL = {
    CONFIG: b'{"r": 8, "target_modules": null, "task_type": null, "peft_type": "LORA"}',
    LARGE: adapter([f"base_model.model.model.layers.0.mlp.{name}" for name in MODULES]),
}


@pytest.fixture
def store(tinkex) -> Iterator[Store]:
    with storing(dict(SKYRL)) as store:
        tinkex.environment |= {"TINKER_BASE_URL": store.url, "TINKER_API_KEY": "tml-test"}
        yield store


def replaced(target: Path, name: str, content: bytes) -> None:
    """Replace a file, as if an early version of tinkex had downloaded this."""
    (target / name).write_bytes(content)
    lock = json.loads((target / LOCK).read_text())
    for file in lock["files"]:
        if file["name"] == name:
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (target / LOCK).write_text(json.dumps(lock))


# ---------------------------------------------------------------- weights that are none


@pytest.mark.parametrize("path", [SEPARATE, ARCHIVES["tar.gz"]])
@pytest.mark.parametrize(
    ("name", "content", "clause"),
    [
        (LARGE, HTML, f"{LARGE} is an HTML page, not a safetensors file"),
        (LARGE, b"", f"{LARGE} is an empty file, not a safetensors file"),
        (CONFIG, b"[]", f"{CONFIG} is a JSON array, not a JSON object"),
        ("w.safetensors", HTML, "w.safetensors is an HTML page, not a safetensors file"),
    ],
)
def test_a_web_page_in_place_of_weights_fails_the_download(
    name, content, clause, path, tinkex, store, target
):
    store.files = {**SKYRL, name: content}
    done = tinkex(f"checkpoint download {path} --output {target}", code=1)
    assert clause in done.stderr
    assert (done.stdout, list(target.parent.glob("*target*"))) == ("", [])
    store.files = dict(SKYRL)
    tinkex(f"checkpoint download {path} --output {target}")
    assert (target / LARGE).read_bytes() == SKYRL[LARGE]


@pytest.mark.parametrize("name", [LARGE, CONFIG])
def test_verify_shows_a_web_page_that_was_downloaded_as_weights(name, tinkex, store, target):
    tinkex(f"checkpoint download {SEPARATE} --output {target}")
    replaced(target, name, HTML)
    done = tinkex(f"checkpoint verify {target} -f json", code=1)
    (row,) = (row for row in done.rows if row["status"] != "ok")
    assert (row["file"], row["status"]) == (str(target / name), "invalid")
    assert row["reason"].startswith("is an HTML page, not ")
    assert "1 of 2 files failed verification: invalid content" in done.stderr
    (target / {LARGE: CONFIG, CONFIG: LARGE}[name]).unlink()
    done = tinkex(f"checkpoint verify {target}", code=1)
    assert (
        "2 of 2 files failed verification: mismatch with the manifest or invalid content"
        in done.stderr
    )


# ---------------------------------------------------------------- adapters that PEFT loads in part


def test_an_adapter_that_peft_loads_in_part_is_warned_of_and_fixed(tinkex, store, target):
    done = tinkex(f"checkpoint download {SEPARATE} --output {target}")
    assert done.stdout == f"Downloaded to {target}\n"
    hint = f"Hint: To add missing modules: tinkex checkpoint verify {target} --fix-config\n"
    assert done.stderr == f"Warning: {target}: {LACKS}\n{hint}"
    done = tinkex(f"checkpoint verify {target}")
    assert done.stderr == f"Warning: {target}: {LACKS}\n{hint}2 files verified.\n"
    assert json.loads((target / CONFIG).read_text())["target_modules"] is None

    done = tinkex(f"checkpoint verify {target} --fix-config")
    assert f"set target_modules to: {', '.join(MODULES)}" in done.stdout
    assert done.stderr == "2 files verified.\n"
    assert json.loads((target / CONFIG).read_text()) == {
        **json.loads(SKYRL[CONFIG]), "target_modules": MODULES, "task_type": "CAUSAL_LM"
    }  # fmt: skip
    original = json.loads((target / LOCK).read_text())["files"][0]["original"]
    assert original == {"target_modules": None, "task_type": None}
    assert tinkex(f"checkpoint verify {target} --fix-config").stderr == "2 files verified.\n"


def test_an_adapter_in_a_directory_of_its_archive_is_fixed_there(tinkex, store, target):
    path = ARCHIVES["tar"]
    store.files = {f"final/{name}": content for name, content in SKYRL.items()}
    assert f"Warning: {target}: {LACKS}" in tinkex(f"checkpoint download {path} -o {target}").stderr
    assert "Warning: " not in tinkex(f"checkpoint verify {target} --fix-config").stderr
    assert json.loads((target / "final" / CONFIG).read_text())["target_modules"] == MODULES
    assert tinkex(f"checkpoint verify {target} --strict").stderr == "2 files verified.\n"


def test_a_fix_that_was_killed_is_completed_by_the_same_command(tinkex, store, target):
    tinkex(f"checkpoint download {SEPARATE} --output {target}")
    tinkex(f"checkpoint verify {target} --fix-config")
    fixed = (target / CONFIG).read_bytes()
    (target / CONFIG).write_bytes(SKYRL[CONFIG])  # the lock file is written first
    tinkex(f"checkpoint verify {target}", code=1)
    tinkex(f"checkpoint verify {target} --fix-config")
    assert (target / CONFIG).read_bytes() == fixed
    assert b'"original": {\n        "target_modules": null' in (target / LOCK).read_bytes()


def test_a_configuration_that_was_edited_is_not_overwritten(tinkex, store, target):
    tinkex(f"checkpoint download {SEPARATE} --output {target}")
    (target / CONFIG).write_text('{"target_modules": ["q_proj"]}')
    done = tinkex(f"checkpoint verify {target} --fix-config", code=1)
    assert "1 of 2 files failed verification: mismatch with" in done.stderr
    assert (target / CONFIG).read_text() == '{"target_modules": ["q_proj"]}'


def test_a_configuration_that_is_nested_too_deeply_is_refused(tinkex, store, target):
    tinkex(f"checkpoint download {SEPARATE} --output {target}")
    replaced(target, CONFIG, b'{"x": ' + b"[" * 3_000 + b"]" * 3_000 + b"}")
    done = tinkex(f"checkpoint verify {target} --fix-config", code=1)
    assert "a bug in tinkex" not in done.stderr


def test_several_adapters_are_warned_of_once(tinkex, store, target):
    warning = f"Warning: {target}/sampler_weights/tar and 1 more: {LACKS}\n"
    done = tinkex(f"checkpoint sync {RUN} {target}")
    assert done.stderr.count("Warning: ") == 1
    assert warning in done.stderr
    assert tinkex(f"checkpoint verify {target} --fix-config").stderr == "4 files verified.\n"
    done = tinkex(f"checkpoint sync {RUN} {target}")
    assert done.stderr == "0 downloaded, 2 already present.\n"


def test_names_of_the_hosted_service_are_not_fixed_but_named(tinkex, store, target):
    config = b'{"r": 8, "target_modules": "all-linear"}'
    names = ["model.layers.3.mlp.experts.w1", "model.unembed_tokens"]
    store.files = {CONFIG: config, LARGE: adapter([f"base_model.model.{name}" for name in names])}
    tinkex(f"checkpoint download {SEPARATE} --output {target}")
    done = tinkex(f"checkpoint verify {target} --fix-config")
    assert "know: model.layers.*.mlp.experts.w1, model.unembed_tokens\n" in done.stderr
    assert f"tinkex checkpoint export {target} --output DIR" in done.stderr
    assert (target / CONFIG).read_bytes() == config


def test_an_adapter_whose_configuration_is_right_is_downloaded_quietly(tinkex, store, target):
    store.files[CONFIG] = json.dumps({"r": 8, "target_modules": MODULES}).encode()
    assert tinkex(f"checkpoint download {SEPARATE} --output {target}").stderr == ""
