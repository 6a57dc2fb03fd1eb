"""Tokenizers: where they are found, and the conversion of text to tokens and back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import tokenizers
from huggingface_hub import constants, try_to_load_from_cache
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tinkex.api.sampling import tokenizer as module
from tinkex.api.sampling.tokenizer import HuggingFaceSource, load_tokenizer, repository_of
from tinkex.exceptions import LocalError, TimedOut, TokenizerError, UsageError
from tinkex.plugins import TokenizerSource

WORDS = {"<s>": 0, "</s>": 1, "<unk>": 2, "hello": 3, "world": 4}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a small tokenizer that begins every text with ``<s>``."""
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", 0)]
    )
    path = tmp_path / "tok"
    path.mkdir()
    made.save(str(path / "tokenizer.json"))
    return path


class Source(TokenizerSource):
    """Knows some models; records the calls."""

    def __init__(self, known: dict[bool, Path | None], error: Exception | None = None) -> None:
        self.known, self.error, self.asked = known, error, []

    def find(self, model: str, *, network: bool) -> Path | None:
        self.asked.append((model, network))
        if self.error:
            raise self.error
        return self.known.get(network)


def test_encoding_and_decoding(directory):
    tokenizer = load_tokenizer(str(directory))
    assert load_tokenizer(str(directory / "tokenizer.json"), sources=[]).encode("hello") == [0, 3]
    assert tokenizer.encode("hello world") == [0, 3, 4]
    assert tokenizer.decode((3, 4, 1)) == "hello world"
    assert tokenizer.decode([3, 1, 4, 1, 1]) == "hello </s> world"
    assert tokenizer.decode([3, 1], strip_end=False) == "hello </s>"
    for tokens in ([], [1], [3, 99999], [3, -1], [3, 2**40]):
        assert tokenizer.decode(tokens) in ("", "hello")
    with pytest.raises(UsageError, match=r"not valid Unicode \(character 2\)"):
        tokenizer.encode("a\udcff")
    text = "hello world " * 8000
    assert len(text) > module._SHORT
    assert tokenizer.encode(text) == tokenizer.inner.encode(text).ids


@pytest.mark.parametrize(
    ("kind", "in_file", "add_bos_token", "new", "old"),
    [
        ("PreTrainedTokenizerFast", True, False, [0, 3], [0, 3]),
        ("PreTrainedTokenizerFast", False, True, [3], [3]),
        ("LlamaTokenizerFast", True, True, [0, 3], [0, 3]),
        ("LlamaTokenizerFast", True, False, [0, 3], [3]),
        ("LlamaTokenizerFast", False, True, [3], [0, 3]),
        ("LlamaTokenizerFast", False, None, [3], [0, 3]),
        ("LlamaTokenizerFast", False, False, [3], [3]),
    ],
)
def test_the_file_of_the_tokenizer_decides_on_bos(
    directory, kind, in_file, add_bos_token, new, old
):
    """*new* are the ids of transformers 5.24, *old* those of 4.57."""
    config = {"tokenizer_class": kind, "bos_token": "<s>", "add_bos_token": add_bos_token}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if not in_file:
        inner = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        inner.post_processor = processors.ByteLevel()
        inner.save(str(directory / "tokenizer.json"))
    assert load_tokenizer(str(directory)).encode("hello") == new
    assert new == old or kind == "LlamaTokenizerFast"


PIECES = {"<unk>": 0, "<s>": 1, "▁Once": 2, "▁upon": 3, "▁": 4, "time": 5, "</s>": 6}
PIECES |= {f"<0x{byte:02X}>": 10 + byte for byte in range(256)}


def sentencepiece(decoder) -> module.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(PIECES, [], byte_fallback=True, unk_token="<unk>"))
    made.add_special_tokens(["<s>", "</s>"])
    made.decoder = decoder
    return module.Tokenizer(made)


LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
)


@pytest.mark.parametrize("decoder", [LLAMA, decoders.Metaspace()])
@pytest.mark.parametrize(
    ("prompt", "tokens", "text"),
    [
        ([1, 2], [3], " upon"),
        ([1, 2], [3, 6], " upon"),
        ([1, 2], [5], "time"),
        ([2], [4, 4, 5], "  time"),
        ([2] * 100, [3], " upon"),
        ((2, -1, 2**40), [3], " upon"),
        ([1, 2], [6], ""),
        ([], [3], "upon"),
    ],
)
def test_the_first_space_of_a_continuation_is_kept(decoder, prompt, tokens, text):
    assert sentencepiece(decoder).decode(tokens, after=prompt) == text


def test_a_continuation_that_completes_a_character_of_the_prompt_is_shown():
    first, second = (10 + byte for byte in "é".encode())
    assert sentencepiece(LLAMA).decode([second, 3], after=[2, first]) == "\ufffd upon"
    assert sentencepiece(LLAMA).decode([first, second], after=[2]) == "é"


class Slow:
    """A tokenizer that fails, or does not return in time."""

    over = threading.Event()

    def encode_batch(self, texts, **options):
        if texts[0].startswith("x"):
            raise ValueError("no")
        self.over.wait(60)


def test_long_texts_have_a_time_limit_and_a_maximum_size(monkeypatch):
    with pytest.raises(ValueError, match="no"):
        module.Tokenizer(Slow()).encode("x" * 100_000)
    with pytest.raises(TimedOut, match="the prompt tokens"):
        module.Tokenizer(Slow()).encode("y" * 100_000, timeout=0.01)
    Slow.over.set()
    monkeypatch.setattr(module, "MAX_TEXT", 10)
    with pytest.raises(UsageError, match="the text is longer than"):
        module.Tokenizer(Slow()).encode("hello world")


def test_local_files_come_before_the_network(directory):
    first, second = Source({True: directory}), Source({False: directory})
    assert load_tokenizer("a/b", sources=[first, second])
    assert first.asked == second.asked == [("a/b", False)]
    assert load_tokenizer("a/b", sources=[first])
    assert first.asked[-1] == ("a/b", True)


def test_a_source_that_fails_does_not_stop_the_others(directory, tmp_path):
    broken = Source({}, ZeroDivisionError("x"))
    empty = Source({False: tmp_path})
    assert load_tokenizer("a/b", sources=[broken, empty, Source({False: directory})])
    with pytest.raises(TokenizerError, match="no tokenizer for 'a/b': Source failed"):
        load_tokenizer("a/b", sources=[broken])


def test_a_broken_plugin_does_not_stop_the_others(tmp_path, monkeypatch, caplog):
    info = tmp_path / "broken_tok-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-tok\nVersion: 1\n")
    entry_point = "[tinkex.tokenizers]\nbroken = no_such_module:Thing\n"
    (info / "entry_points.txt").write_text(entry_point)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TokenizerError, match="no tokenizer for 'a/b'"):
        load_tokenizer("a/b")
    assert "no_such_module" in caplog.text


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("/nonexistent/dir", TokenizerError, "cannot read"),
        ("./nonexistent", TokenizerError, "cannot read"),
        ("~/nonexistent", TokenizerError, "cannot read"),
        ("x.json", TokenizerError, "cannot read"),
        ("~no-such-user/x", LocalError, "no such home directory"),
        ("a\0b", LocalError, "NUL"),
    ],
)
def test_a_path_that_does_not_exist(name, error, message):
    with pytest.raises(error, match=message):
        load_tokenizer(name, sources=[])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{}", "Model missing"),
        ("<html>", "expected value at line 1 column 1"),
        ('{"version": "9"}', "Unknown tokenizer version '9'"),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_refused_with_the_reason(content, reason, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=f"is not a tokenizer: {reason}"):
        load_tokenizer(str(tmp_path))


def test_a_prompt_is_neither_cut_nor_padded_as_the_tokenizer_was_saved(directory):
    inner = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    inner.enable_truncation(16)
    inner.enable_padding(length=2000)
    inner.save(str(directory / "tokenizer.json"))
    tokenizer = load_tokenizer(str(directory))
    assert tokenizer.encode("hello") == [0, 3]
    assert len(tokenizer.encode("hello " * 40)) == 41
    assert len(tokenizer.encode("hello " * 40_000)) == 40_001


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", None)),
        ("Qwen/Qwen3-8B:peft:262144", ("Qwen/Qwen3-8B", None)),
        ("meta-llama/Llama-3.1-8B", module._LLAMA_3),
        ("moonshotai/Kimi-K2.5-Text-Only", module._KIMI_K2_5),
        ("org/model/variant", ("org/model", None)),
        ("gpt2", ("gpt2", None)),
        *((name, None) for name in ("thinkingmachines/Inkling:peft:262144", "TML/x")),
        *((name, None) for name in ("/models/tiny", "a/b/c/d", "../b", "")),
    ],
)
def test_repositories(model, repository):
    assert repository_of(model) == repository


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, server, monkeypatch):
    """The scripted server in place of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def serve(body: object, status: int = 200, **headers: str) -> None:
        for method in ("HEAD", "GET"):
            path = "/Qwen/Qwen3-8B/resolve/main/tokenizer.json"
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            server.on(method, path, server.reply(body, status, names))

    return serve


def test_the_cache_is_read_as_the_hub_library_writes_it(cache, directory):
    home = cache / "models--Qwen--Qwen3-8B"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc123")
    snapshot = home / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    file = snapshot / "tokenizer.json"
    file.write_bytes((directory / "tokenizer.json").read_bytes())
    assert HuggingFaceSource().find("Qwen/Qwen3-8B", network=False) == snapshot
    theirs = try_to_load_from_cache("Qwen/Qwen3-8B", "tokenizer.json", cache_dir=str(cache))
    assert theirs == str(file)
    assert load_tokenizer("Qwen/Qwen3-8B").encode("hello") == [0, 3]


@pytest.mark.parametrize("status", [None, 0, 401, 403, 404, 500])
def test_an_error_of_the_hub_is_one_sentence(status, cache, server, request, monkeypatch):
    """``None``: offline; 0: unreachable."""
    expected = "it is not in the cache, and HF_HUB_OFFLINE is set"
    if status is not None:
        headers = {"X_Error_Code": "RepoNotFound"} if status == 404 else {}
        request.getfixturevalue("hub")({"error": "x"}, status, **headers)
        expected = server.url.partition("://")[2]
    if status == 0:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        expected = "and connection refused by 127.0.0.1:9"
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])
    assert str(caught.value).startswith("no tokenizer for 'Qwen/Qwen3-8B': ")
    assert "\n" not in str(caught.value)
    assert expected in str(caught.value)


def test_a_file_of_the_hub_is_downloaded_into_the_cache(hub, directory, server):
    hub((directory / "tokenizer.json").read_bytes(), ETag='"e1"', X_Repo_Commit="c" * 40)
    assert load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()]).encode("hello") == [0, 3]
    assert any(seen.path.endswith("/special_tokens_map.json") for seen in server.seen)
    server.seen.clear()
    assert load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])
    assert not server.seen


@pytest.fixture
def bytewise(tmp_path: Path):
    """A tokenizer with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return module.Tokenizer(made)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ab", ["a", "b"]),
        ("aé!", ["a", "", "é", "!"]),
        ("\U0001fae8x", ["", "", "", "\U0001fae8", "x"]),
        ("", []),
    ],
)
def test_the_last_token_of_a_character_has_it(bytewise, text, parts):
    tokens = bytewise.encode(text)
    assert bytewise.token_texts(tokens) == parts
    assert bytewise.token_texts(tokens, after=bytewise.encode("né")) == parts


@pytest.mark.parametrize(
    ("cut", "parts"),
    [
        (slice(None, 2), ["a", "\ufffd"]),  # the text ends inside a character
        (slice(2, None), ["\ufffd", "!"]),  # it begins inside one
    ],
)
def test_bytes_that_are_no_character_are_replaced(bytewise, cut, parts):
    assert "".join(bytewise.token_texts(bytewise.encode("aé!")[cut])) == "".join(parts)


def test_the_space_of_the_first_token_is_kept(tmp_path: Path):
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "▁b": 1}, unk_token="a"))
    made.decoder = decoders.Metaspace()
    assert module.Tokenizer(made).token_texts([1, 1], after=[0]) == [" b", " b"]
    assert module.Tokenizer(made).token_texts([1, 1]) == ["b", " b"]
