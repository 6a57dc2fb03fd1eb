"""Tokenizers: lookup, and conversion of text to token ids and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinkex import plugins
from tinkex.api.http.concurrency import run_in_thread
from tinkex.api.sampling import chat
from tinkex.api.sampling.stops import StopSequences, stop_sequences
from tinkex.api.sampling.types import TAIL
from tinkex.exceptions import (
    ChatTemplateError,
    PluginError,
    TimedOut,
    TinkexError,
    TokenizerError,
    UsageError,
)
from tinkex.files import user_path
from tinkex.plugins import Timeouts, TokenizerSource

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"

#: Maximum size of a text in UTF-8 bytes: a hundred times the context of any model.
MAX_TEXT = 64 * 1024 * 1024
#: Maximum size in bytes of a text that is encoded without a separate thread.
_SHORT = 64 * 1024

#: The tokens in the header of the final channel, in the GPT-OSS format ("harmony").
_FINAL_CHANNEL = ("<|channel|>", "final", "<|message|>")
#: Maximum number of tokens that form one character: its bytes in UTF-8.
_MOST_PARTS = 4

#: Seconds to connect to the hub, and to wait for its response.
_HUB_TIMEOUTS = Timeouts(connect=5.0, read=10.0)

_log = logging.getLogger("tinkex.tokenizer")


class Tokenizer:
    """A model's tokenizer.

    :ivar inner: the :class:`tokenizers.Tokenizer` behind it.
    :ivar directory: the directory with its files, including the chat template, if there is one.
    """

    def __init__(self, inner: tokenizers.Tokenizer, directory: Path | None = None) -> None:
        self.inner = inner
        self.directory = directory

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        :raises TokenizerError: it cannot be read, or is not a tokenizer.
        """
        import tokenizers

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise TokenizerError(f"cannot read {path}: {reason}") from error
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises no more specific exception
            reason = " ".join(str(error).split())[:200]
            raise TokenizerError(f"{path} is not a tokenizer: {reason}") from error
        # A tokenizer saved after training has padding and truncation; transformers ignores both.
        inner.no_truncation()
        inner.no_padding()
        return cls(inner, path.parent)

    def encode(self, text: str, *, special: bool = True, timeout: float | None = None) -> list[int]:
        """Return the token ids of *text*.

        :param special: add the special tokens that the model expects around its input.
        :param timeout: maximum number of seconds; ``None`` for no limit.
        :raises UsageError: *text* is not valid Unicode, or longer than 64 MiB.
        :raises TimedOut: it took longer than *timeout*.
        """
        if _size_of(text) <= _SHORT:
            return list(self.inner.encode(text, add_special_tokens=special).ids)
        try:
            # Unlike encode(), encode_batch() releases the GIL.
            many = self.inner.encode_batch
            return run_in_thread(
                lambda: list(many([text], add_special_tokens=special)[0].ids), timeout
            )
        except TimeoutError as error:
            raise TimedOut("Timed out while awaiting the prompt tokens") from error

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of *text*, without additional special tokens, and their spans.

        A span is the index of a token's first character and the index after its last one.

        :raises UsageError: *text* is not valid Unicode, or longer than 64 MiB.
        """
        _size_of(text)
        encoding = self.inner.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], *, timeout: float | None = None
    ) -> list[int]:
        """Render *messages* with the chat template and return the token ids of the prompt.

        :param messages: ``{"role": …, "content": …}`` each; the content is a string, or a list of
            ``{"type": "text", "text": …}``.
        :param timeout: maximum number of seconds; ``None`` for no limit.
        :raises UsageError: *messages* are not messages, or not valid for the template.
        :raises ChatTemplateError: the tokenizer has no usable chat template.
        """
        # The template contains the special tokens.
        return self.encode(self.template.render(messages), special=False, timeout=timeout)

    @cached_property
    def template(self) -> chat.ChatTemplate:
        """The chat template, read on first use.

        :raises ChatTemplateError: the tokenizer has no usable template.
        """
        found = chat.ChatTemplate.from_directory(self.directory) if self.directory else None
        if found is None:
            where = f" in {self.directory}" if self.directory else ""
            raise ChatTemplateError(f"the tokenizer{where} has no chat template")
        return found

    @cached_property
    def stop_sequences(self) -> StopSequences:
        """The end of turn of the chat template, and the tokens that end any text of the model.

        :raises ChatTemplateError: the tokenizer has no usable template.
        """
        template, directory = self.template, self.directory
        assert directory is not None  # it has a template
        ids = [self.end_of_text, *chat.generation_ends(directory)]
        known = {n: self.inner.id_to_token(n) for n in ids if n is not None and 0 <= n < 2**32}
        ends = {number: text for number, text in known.items() if text is not None}
        added = {n: token.content for n, token in self.inner.get_added_tokens_decoder().items()}
        return stop_sequences(template, added, ends)

    @cached_property
    def end_of_text(self) -> int | None:
        """The token that ends a text, if the tokenizer's files specify one.

        :raises ChatTemplateError: they cannot be read.
        """
        names = chat.special_tokens(self.directory) if self.directory else {}
        token = self.inner.token_to_id(names.get("eos_token", ""))
        return None if token is None else int(token)

    @cached_property
    def added_tokens(self) -> frozenset[str]:
        """The text of special and added tokens, such as ``<|im_end|>``."""
        added = self.inner.get_added_tokens_decoder()
        return frozenset(token.content for token in added.values())

    def decode(
        self,
        tokens: Sequence[int],
        *,
        strip_end: bool = True,
        after: Sequence[int] = (),
        special: bool = True,
    ) -> str:
        """Return the text of *tokens*.

        :param strip_end: omit the special tokens at the end.
        :param after: the preceding tokens, or the last of them: decoders such as SentencePiece drop
            the space at the beginning of a text, which a continuation needs.
        :param special: include the special tokens.
        """
        kept = list(tokens)
        while strip_end and kept and kept[-1] in self._special:
            kept.pop()
        if after and kept:
            before = self._decode(after[-TAIL:], special)
            whole = self._decode([*after[-TAIL:], *kept], special)
            if whole.startswith(before):  # it does not complete a character of the prompt
                return whole.removeprefix(before)
        return self._decode(kept, special)

    def decode_reply(self, tokens: Sequence[int]) -> str:
        """Return the text of a sampled reply, without special tokens and the end of turn.

        For a GPT-OSS reply, this is the text of the final channel.

        :raises ChatTemplateError: the tokenizer has no usable template.
        """
        stops = self.stop_sequences
        kept = stops.cut(tokens)
        text = self.decode(kept, special=False)
        if _FINAL_CHANNEL[0] in self.added_tokens:
            _, found, final = self.decode(kept).rpartition("".join(_FINAL_CHANNEL))
            text = final if found else text
        for string in stops.strings:
            text = text.removesuffix(string)
        return text

    def token_texts(self, tokens: Sequence[int], *, after: Sequence[int] = ()) -> list[str]:
        """Return the text of each of *tokens*, including special tokens.

        If several tokens form one character, the last one has it and the others are empty.

        :param after: the preceding tokens; see :meth:`decode`.
        """
        texts: list[str] = []
        context, pending = list(after[-TAIL:]), list[int]()
        for position, token in enumerate(tokens, 1):
            pending.append(token)
            text = self.decode(pending, strip_end=False, after=context)
            is_part = text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < _MOST_PARTS
            if is_part and position < len(tokens):
                texts.append("")
                continue
            texts.append(text)
            context, pending = [*context, *pending][-TAIL:], []
        return texts

    def _decode(self, tokens: Sequence[int], special: bool) -> str:
        # Servers may return tokens beyond the vocabulary, because they pad it.
        known = [token for token in tokens if 0 <= token < 2**32]
        return str(self.inner.decode(known, skip_special_tokens=not special))

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.inner.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)


def _size_of(text: str) -> int:
    """Return the size of *text* in UTF-8 bytes.

    :raises UsageError: it is not valid Unicode, or longer than :data:`MAX_TEXT`.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        where = f"character {error.start + 1}"
        raise UsageError(f"the text is not valid Unicode ({where})") from error
    if size > MAX_TEXT:
        most = MAX_TEXT // 1024**2
        raise UsageError(f"the text is longer than {most} MiB", hint="Use a shorter text.")
    return size


def load_tokenizer(name: str, *, sources: Iterable[TokenizerSource] | None = None) -> Tokenizer:
    """Return the tokenizer of a model.

    All sources are searched on this machine before any source uses the network.

    :param name: a model's name, a directory with ``tokenizer.json``, or such a file.
    :param sources: the sources; by default the plugins of ``tinkex.tokenizers``.
    :raises TokenizerError: the tokenizer is not found, or cannot be read.
    """
    local = _local(name)
    if local is not None:
        return Tokenizer.from_file(local)
    known = list(_plugins() if sources is None else sources)
    errors: list[TinkexError] = []
    for network in (False, True):
        for source in known:
            directory = _find(source, name, network, errors)
            if directory is not None:
                return Tokenizer.from_file(directory / FILE)
    reason = f": {errors[-1]}" if errors else ""
    hint = next((error.hint for error in reversed(errors) if error.hint), None)
    raise TokenizerError(f"no tokenizer for {name!r}{reason}", hint=hint)


def _local(name: str) -> Path | None:
    """Return the local file that *name* refers to, or ``None`` if it is a model's name."""
    path = user_path(name)
    try:
        if path.is_dir():
            # A directory may have the same name as a model.
            if (path / FILE).is_file() or name.startswith(("/", ".", "~")):
                return path / FILE
            return None
        if path.is_file() or name.endswith(".json"):
            return path
    except (OSError, ValueError):
        return None
    return path if name.startswith(("/", "./", "../", "~")) else None


def _plugins() -> list[TokenizerSource]:
    sources: list[TokenizerSource] = []
    for entry_point in plugins.entry_points(plugins.TOKENIZERS):
        try:
            sources.append(plugins.load(entry_point)())
        except Exception as error:  # the other plugins still work
            _log.warning("skipping the tokenizer source %s: %s", entry_point.name, error)
    return sources


def _find(
    source: TokenizerSource, name: str, network: bool, errors: list[TinkexError]
) -> Path | None:
    try:
        found = source.find(name, network=network)
        return Path(found) if found is not None and (Path(found) / FILE).is_file() else None
    except TinkexError as error:
        errors.append(error)
    except Exception as error:  # a plugin may raise any exception; the others are still searched
        kind = type(source).__name__
        _log.debug("the tokenizer source %s failed", kind, exc_info=True)
        errors.append(PluginError(f"{kind} failed ({type(error).__name__})"))
    return None


class Repository(NamedTuple):
    """The repository of a tokenizer on the hub, and the revision if pinned."""

    name: str
    revision: str | None = None


_LLAMA_3 = Repository("thinkingmachineslabinc/meta-llama-3-instruct-tokenizer")
_KIMI_K2_5 = Repository("moonshotai/Kimi-K2.5", "4d01dfe0332d63057c186e0b262165819efb6611")
_PINNED = {
    "moonshotai/Kimi-K2-Thinking": Repository(
        "moonshotai/Kimi-K2-Thinking", "612681931a8c906ddb349f8ad0f582cb552189cd"
    ),
    "moonshotai/Kimi-K2.5": _KIMI_K2_5,
    "moonshotai/Kimi-K2.5-Text-Only": _KIMI_K2_5,
    "moonshotai/Kimi-K2.6": Repository(
        "moonshotai/Kimi-K2.6", "b5aabbfb20227ed42becbf5541dbffd213942c58"
    ),
    "moonshotai/Kimi-K3": Repository(
        "moonshotai/Kimi-K3", "f831ab66814297da540d832a5235f8e904f29d06"
    ),
}


def repository_of(model: str) -> Repository | None:
    """Return the repository with the tokenizer of *model*, or ``None`` if it is not published.

    :param model: a base model's name; a variant after ``:`` shares the model's tokenizer.
    """
    model = model.partition(":")[0]
    if model.startswith(("TML/", "thinkingmachines/")):
        return None
    if model in _PINNED:
        return _PINNED[model]
    if model.startswith("meta-llama/Llama-3"):
        return _LLAMA_3  # the original requires acceptance of a license
    parts = model.split("/")
    if not all(parts) or len(parts) > 3 or any(part in (".", "..") for part in parts):
        return None
    return Repository("/".join(parts[:2]))


class HuggingFaceSource(TokenizerSource):
    """Finds tokenizers in the Hugging Face cache and on the hub.

    Reads HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.
    """

    def find(self, model: str, *, network: bool) -> Path | None:
        """Return the directory of *model*'s tokenizer in the cache.

        :raises TokenizerError: it could not be downloaded.
        """
        repository = repository_of(model)
        if repository is None:
            return None
        if not network:
            return _cached(repository)
        return _download(repository)


def _cached(repository: Repository) -> Path | None:
    # The hub library's own function for this takes 0.3 s to import.
    from huggingface_hub import constants

    folder = "--".join(["models", *repository.name.split("/")])
    home = Path(constants.HF_HUB_CACHE) / folder
    revision = repository.revision
    if revision is None:
        try:
            revision = (home / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    directory = home / "snapshots" / revision
    return directory if (directory / FILE).is_file() else None


def hub_state(path: str = "") -> tuple[str, str | None, bool]:
    """Return the hub's URL, why it is unavailable (``None``: it is available), and whether a
    token for it is configured.

    :param path: path of the request to the hub.
    """
    from huggingface_hub import constants, get_token

    from tinkex.api.http import errors, probe

    address, has_token = str(constants.ENDPOINT), bool(get_token())
    if constants.HF_HUB_OFFLINE:
        return address, "HF_HUB_OFFLINE is set", has_token
    try:
        status = probe.head(address + path, _HUB_TIMEOUTS)
    except TinkexError as error:
        return address, str(error), has_token
    problem = f"{errors.host_of(address)} returned HTTP {status}" if status >= 500 else None
    return address, problem, has_token


def _download(repository: Repository) -> Path:
    """Download the tokenizer and its chat template, if any; return their directory.

    :raises TokenizerError: the hub is unavailable, or the tokenizer does not exist.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:  # checked before an import that takes 0.2 s
        raise TokenizerError("it is not in the cache, and HF_HUB_OFFLINE is set")
    # A single request first, because the library retries for half a minute.
    _, problem, _ = hub_state(f"/{repository.name}/resolve/{repository.revision or 'main'}/{FILE}")
    if problem:
        raise TokenizerError(f"it is not in the cache, and {problem}")
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for name in (chat.CONFIG, chat.TEMPLATE, chat.SPECIAL, chat.GENERATION_CONFIG, FILE):
        try:
            file = hf_hub_download(repository.name, name, revision=repository.revision)
        except Exception as error:  # raised by an HTTP library that varies with the version
            if name == FILE or not isinstance(error, errors.EntryNotFoundError):
                raise _hub_error(error, repository) from error
    return Path(file).parent


def _hub_error(error: Exception, repository: Repository) -> TokenizerError:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    host = constants.ENDPOINT.partition("://")[2] or constants.ENDPOINT
    if isinstance(error, hub.GatedRepoError):
        hint = f"Accept the license at {constants.ENDPOINT}/{repository.name} and set HF_TOKEN."
        return TokenizerError(
            f"{repository.name} on {host} requires accepting a license", hint=hint
        )
    if isinstance(error, (hub.RepositoryNotFoundError, hub.RevisionNotFoundError)):
        return TokenizerError(f"{host} has no public repository {repository.name}")
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(
        error, hub.LocalEntryNotFoundError
    ):
        return TokenizerError(f"{repository.name} on {host} has no {FILE}")
    return TokenizerError(f"it is not in the cache, and the download from {host} failed")
