"""A model and a prompt, from the command line and from files."""

from __future__ import annotations

import io
import json

import pytest

from tinkex.commands.inputs import ModelPath, nearly_token_ids, read_model_path, read_prompt
from tinkex.exceptions import LocalError, UsageError
from tinkex.testing import invoke

PATH = "tinker://run/sampler_weights/a"


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"Write a haiku\n", "Write a haiku"),
        (b"two\nlines\r\n", "two\nlines"),
        (b"\xef\xbb\xbfbom", "bom"),
        (b"[1, 2, 3]\n", [1, 2, 3]),
        (b' \n {"tokens": [4, 5]} ', [4, 5]),
        *((text, text.decode()) for text in (b'["a"]', b"[1, true]", b"[1.5]", b"[1, 2", b"3")),
        (b'{"token": [1]}', '{"token": [1]}'),
        (b"[" * 50_000, "[" * 50_000),
    ],
)
def test_files_with_text_or_token_ids(tmp_path, content, prompt):
    (tmp_path / "prompt").write_bytes(content)
    assert read_prompt(None, str(tmp_path / "prompt")) == prompt


def test_standard_input():
    assert read_prompt(None, "-", io.TextIOWrapper(io.BytesIO(b"[7]"))) == [7]
    assert read_prompt(None, "-", io.StringIO("text\n")) == "text"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        *((content, UsageError, "empty") for content in (b"", b"\n", b"[]", b'{"tokens": []}')),
        (b"[-1]", UsageError, "token ids must be from 0 to 2147483647: item 1 is -1"),
        (b"[7, 2147483648]", UsageError, "token ids must be from 0 .*: item 2 is 2147483648"),
        (b"caf\xe9", LocalError, "not UTF-8"),
        (None, LocalError, "No such file"),
    ],
)
def test_files_without_a_prompt(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "prompt").write_bytes(content)
    with pytest.raises(error, match=message):
        read_prompt(None, str(tmp_path / "prompt"))


@pytest.mark.parametrize(
    ("text", "file", "message"),
    [(None, None, "required"), ("a", "b", "use either --prompt or"), ("", None, "empty")],
)
def test_exactly_one_prompt_is_given(text, file, message):
    with pytest.raises(UsageError, match=message):
        read_prompt(text, file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[1.0, 2.0]", "item 1 is 1.0"),
        ("[1, null, 3]", "item 2 is null"),
        ('["1", "2"]', 'item 1 is "1"'),
        ("[[1, 2, 3]]", "item 1 is [1, 2, 3]"),
        ("[1, true]", "item 2 is true"),
        ('{"input_ids": [1, 2, 3]}', "it has no 'tokens' field"),
        ('{"chunks": [{"type": "encoded_text", "tokens": [1]}]}', "it has no 'tokens' field"),
        ('{"prompt": "hi"}', "it has no 'tokens' field"),
        ('{"tokens": [1, 2.5]}', "item 2 is 2.5"),
        ('{"tokens": null}', "it is null"),
        ('[{"role": "user", "content": "hi"}]', 'item 1 is {"role": "user", "content": "hi"}'),
        *(
            (text, "it is not JSON")
            for text in ("[1, 2, 3,]", "[1 2 3]", "1, 2, 3", "(1, 2)", "tensor([[1, 2],\n [3, 4]])")
        ),
        *(
            (text, None)
            for text in ("Hi", "", "[INST] 1 2 [/INST]", "3", "3.14", "{x", "[x](y)", "[" * 50_000)
        ),
        ("1 2" + " " * 100_000 + "x", None),
    ],
)
def test_a_file_that_is_nearly_token_ids_is_text_with_a_reason(tmp_path, content, why):
    (tmp_path / "prompt").write_text(content + "\n")
    if content:
        assert read_prompt(None, str(tmp_path / "prompt")) == content
    assert nearly_token_ids(content) == why


ADAPTER = {"base_model_name_or_path": "org/model", "r": 8}
DOWNLOADED = {"tinker_path": PATH, "base_model": "org/other", "lora_rank": 4}


@pytest.mark.parametrize(
    ("files", "name", "model"),
    [
        *(
            ({}, text, ModelPath(PATH))
            for text in (PATH, f" {PATH}/ ", f"`{PATH.upper()[:6]}{PATH[6:]}`")
        ),
        ({"adapter_config.json": ADAPTER}, "", ModelPath(None, "org/model", 8)),
        (
            {"adapter_config.json": ADAPTER, "tinkex.lock.json": DOWNLOADED},
            *("", ModelPath(PATH, "org/other", 4)),
        ),
        (
            {"checkpoint.json": {"base_model": "org/model", "weights_path": PATH}},
            *("checkpoint.json", ModelPath(PATH, "org/model", None)),
        ),
    ],
)
def test_models(tmp_path, files, name, model):
    for file, values in files.items():
        (tmp_path / file).write_text(json.dumps(values))
    assert read_model_path(name if PATH[6:] in name else str(tmp_path / name)) == model


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "tinkex.lock.json"]
)
def test_a_file_in_a_downloaded_directory_means_the_directory(tmp_path, name):
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff\x00")
    (tmp_path / "tinkex.lock.json").write_text(json.dumps(DOWNLOADED))
    assert read_model_path(str(tmp_path / name)) == ModelPath(PATH, "org/other", 4)
    metadata = {"base_model": "org/model", "weights_path": "tinker://other/weights/x"}
    (tmp_path / "saved.json").write_text(json.dumps(metadata))
    assert read_model_path(str(tmp_path / "saved.json")).tinker_path == "tinker://other/weights/x"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("{}", UsageError, "does not specify its base model"),
        ("[]", UsageError, "does not specify its base model"),
        (
            '{"base_model_name_or_path": 3, "r": true}',
            UsageError,
            "does not specify its base model",
        ),
        ("{", LocalError, "is not valid JSON"),
        (None, LocalError, "does not exist"),
    ],
)
def test_directories_without_a_model(tmp_path, config, error, message):
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(error, match=message):
        read_model_path(str(tmp_path if config is not None else tmp_path / "none"))


@pytest.mark.parametrize("name", ["", "notes.json"])
def test_a_path_that_is_no_model_is_not_taken_for_an_adapter(tmp_path, name):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UsageError, match="neither a checkpoint path nor a base model") as caught:
        read_model_path(str(tmp_path / name))
    assert "base_model_name_or_path" not in str(caught.value.hint)


@pytest.mark.parametrize("name", ["an export", "an export/adapter_config.json"])
def test_an_adapter_without_a_checkpoint_can_be_added_to_the_local_service(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an export").mkdir()
    (tmp_path / "an export" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    done = invoke(["run", "--model-path", name, "--prompt", "x", "--api-key", "k"])
    assert "does not refer to a checkpoint on the service" in done.stderr
    assert "To sample from its base model: --base" in done.stderr
    assert done.stderr.endswith("service first: tinkex local checkpoint add 'an export'\n")
