"""Tokenizers: where they are found, and the conversion of text to tokens and back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, processors

from tinkex.api.sampling import tokenizer as module
from tinkex.api.sampling.tokenizer import (
    HuggingFaceSource,
    Repository,
    load_tokenizer,
    repository_of,
)
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
    assert tokenizer.encode("hello world") == [0, 3, 4]
    assert tokenizer.decode([3, 4]) == "hello world"
    assert tokenizer.decode((3, 4, 1)) == "hello world"
    assert tokenizer.decode([3, 1, 4, 1, 1]) == "hello </s> world"
    assert tokenizer.decode([3, 1], strip_end=False) == "hello </s>"


@pytest.mark.parametrize("tokens", [[], [1], [3, 99999], [3, -1], [3, 2**40]])
def test_no_token_id_breaks_decoding(tokens, directory):
    assert load_tokenizer(str(directory)).decode(tokens) in ("", "hello")


def test_text_that_is_not_unicode_is_refused(directory):
    with pytest.raises(UsageError, match="Unicode"):
        load_tokenizer(str(directory)).encode("a\udcff")


def test_long_texts_give_the_same_tokens(directory):
    tokenizer = load_tokenizer(str(directory))
    text = "hello world " * 8000
    assert len(text) > module._SHORT
    assert tokenizer.encode(text) == [0, *([3, 4] * 8000)] == tokenizer.inner.encode(text).ids


def test_a_long_text_has_a_time_limit():
    over = threading.Event()

    class Slow:
        def encode_batch(self, texts, **options):  # unlike encode(), it lets other threads run
            over.wait(60)

    with pytest.raises(TimedOut, match="the tokens of the prompt"):
        module.Tokenizer(Slow()).encode("x" * 100_000, timeout=0.01)
    over.set()


def test_texts_and_files_have_a_limit(directory, monkeypatch):
    tokenizer = load_tokenizer(str(directory))
    monkeypatch.setattr(module, "MAX_TEXT", 10)
    assert tokenizer.encode("hello") == [0, 3]
    with pytest.raises(UsageError, match="the text is longer than"):
        tokenizer.encode("hello world")
    monkeypatch.setattr(module, "MAX_FILE", 10)
    with pytest.raises(TokenizerError, match="too large for a tokenizer"):
        load_tokenizer(str(directory))


def test_an_error_in_a_long_text_is_raised(directory):
    class Broken:
        def encode_batch(self, texts, **options):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        module.Tokenizer(Broken()).encode("x" * 100_000)


def test_a_file(directory):
    assert load_tokenizer(str(directory / "tokenizer.json"), sources=[]).encode("hello")


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


def test_a_broken_plugin_does_not_stop_the_others(plugin_free, directory, caplog):
    plugin_free("broken-tok", "tinkex.tokenizers", "broken", "no_such_module:Thing")
    with pytest.raises(TokenizerError, match="no tokenizer for 'a/b'"):
        load_tokenizer("a/b")
    assert "no_such_module" in caplog.text


@pytest.fixture
def plugin_free(tmp_path, monkeypatch):
    """Return a function that installs an entry point, as metadata only."""

    def install(name: str, group: str, key: str, value: str) -> None:
        info = tmp_path / "site" / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{key} = {value}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


@pytest.mark.parametrize("name", ["/nonexistent/dir", "./nonexistent", "~/nonexistent", "x.json"])
def test_a_path_that_does_not_exist(name):
    with pytest.raises(TokenizerError, match="cannot read"):
        load_tokenizer(name, sources=[])


@pytest.mark.parametrize(
    ("name", "message"), [("~no-such-user/x", "no such home directory"), ("a\0b", "NUL")]
)
def test_a_path_that_no_file_can_have(name, message):
    with pytest.raises(LocalError, match=message):
        load_tokenizer(name, sources=[])


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"version": "1.0"}'])
def test_a_file_that_is_not_a_tokenizer(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:peft:262144", "Qwen/Qwen3-8B"),
        ("meta-llama/Llama-3.1-8B", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"),
        ("org/model/variant", "org/model"),
        ("gpt2", "gpt2"),
        ("thinkingmachines/Inkling:peft:262144", None),
        ("TML/x", None),
        ("/models/tiny", None),
        ("a/b/c/d", None),
        ("../b", None),
        ("", None),
    ],
)
def test_repositories(model, repository):
    found = repository_of(model)
    assert (found.name if found else None) == repository


def test_kimi_is_pinned():
    found = repository_of("moonshotai/Kimi-K2.5-Text-Only")
    assert found == Repository("moonshotai/Kimi-K2.5", "4d01dfe0332d63057c186e0b262165819efb6611")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_the_cache_is_read_as_the_hub_library_writes_it(cache, directory):
    from huggingface_hub import try_to_load_from_cache

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


def test_offline_and_not_in_the_cache_is_one_sentence(cache):
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])
    assert str(caught.value) == (
        "no tokenizer for 'Qwen/Qwen3-8B': it is not in the cache, and HF_HUB_OFFLINE is set"
    )


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_an_error_of_the_hub_is_one_sentence(status, cache, server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    path = "/Qwen/Qwen3-8B/resolve/main/tokenizer.json"
    headers = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
    for method in ("HEAD", "GET"):
        server.on(method, path, server.reply({"error": "x"}, status, headers))
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])
    assert "\n" not in str(caught.value)
    assert server.url.partition("://")[2] in str(caught.value)


def test_an_unreachable_hub_is_one_sentence(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TokenizerError, match=r"and connection refused by 127\.0\.0\.1:9$"):
        load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])


def test_a_file_of_the_hub_is_downloaded_into_the_cache(cache, directory, server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    content = (directory / "tokenizer.json").read_bytes()
    headers = {"ETag": '"e1"', "X-Repo-Commit": "c" * 40}
    path = "/Qwen/Qwen3-8B/resolve/main/tokenizer.json"
    for method in ("HEAD", "GET"):
        server.on(method, path, server.reply(content, headers=headers))
    assert load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()]).encode("hello") == [0, 3]
    server.seen.clear()
    assert load_tokenizer("Qwen/Qwen3-8B", sources=[HuggingFaceSource()])
    assert not server.seen
