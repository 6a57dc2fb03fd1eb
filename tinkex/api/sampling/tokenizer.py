"""Tokenizers: from text to the token ids that the service speaks, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinkex import plugins
from tinkex.api.http.concurrency import run_in_thread
from tinkex.api.sampling import chat
from tinkex.exceptions import (
    LocalError,
    PluginError,
    SettingsError,
    TimedOut,
    TinkexError,
    UsageError,
)
from tinkex.files import user_path
from tinkex.plugins import Timeouts, TokenizerSource

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"
HINT = "Name another one or a local directory with --tokenizer, or give the prompt as token ids."

#: Bytes of text, as UTF-8, that are encoded at most: no model reads a hundredth of it.
MAX_TEXT = 64 * 1024 * 1024
#: Bytes of a ``tokenizer.json`` that is read; the largest known have some 35 million.
MAX_FILE = 512 * 1024 * 1024
#: Bytes of text up to which encoding takes no time worth a thread.
_SHORT = 64 * 1024

#: Seconds to connect to the hub, and to wait for its first answer.
_HUB_TIMEOUTS = Timeouts(connect=5.0, read=10.0)

_log = logging.getLogger("tinkex.tokenizer")


class Tokenizer:
    """A model's tokenizer.

    :ivar inner: the :class:`tokenizers.Tokenizer` behind it.
    :ivar directory: where it was read, and where its chat template lies; ``None`` if nowhere.
    """

    def __init__(self, inner: tokenizers.Tokenizer, directory: Path | None = None) -> None:
        self.inner = inner
        self.directory = directory

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        :raises LocalError: it cannot be read or is none.
        """
        import tokenizers

        try:
            if path.stat().st_size > MAX_FILE:
                raise LocalError(f"{path} is too large for a tokenizer", hint=HINT)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise LocalError(f"cannot read {path}: {reason}", hint=HINT) from error
        try:
            return cls(tokenizers.Tokenizer.from_str(text), path.parent)
        except Exception as error:  # the library raises nothing narrower
            raise LocalError(f"{path} is not a tokenizer", hint=HINT) from error

    def encode(self, text: str, *, special: bool = True, timeout: float | None = None) -> list[int]:
        """Return the token ids of *text*.

        :param special: add the special tokens that the model expects around a text.
        :param timeout: seconds that it may take; by default as long as it takes.
        :raises UsageError: *text* is not valid Unicode, or longer than 64 MB.
        :raises TimedOut: the time is up.
        """
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise UsageError("the text is not valid Unicode") from error
        if size > MAX_TEXT:
            most = MAX_TEXT // 1024**2
            raise UsageError(f"the text is longer than {most} MB", hint="Give a shorter prompt.")
        if size <= _SHORT:
            return list(self.inner.encode(text, add_special_tokens=special).ids)
        try:
            # Unlike encode(), encode_batch() lets other threads run, this one among them.
            many = self.inner.encode_batch
            return run_in_thread(
                lambda: list(many([text], add_special_tokens=special)[0].ids), timeout
            )
        except TimeoutError as error:
            raise TimedOut("Timed out while awaiting the tokens of the prompt") from error

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], *, timeout: float | None = None
    ) -> list[int]:
        """Return the token ids of the prompt for the reply to *messages*.

        :param messages: ``{"role": …, "content": …}`` each, as the model's chat template has it.
        :param timeout: seconds that it may take; by default as long as it takes.
        :raises UsageError: they are no messages, or the tokenizer has no chat template.
        :raises LocalError: the template cannot be read.
        """
        # The template writes the special tokens itself.
        return self.encode(self.template.render(messages), special=False, timeout=timeout)

    @cached_property
    def template(self) -> chat.ChatTemplate:
        """The chat template, read or fetched when first needed.

        :raises UsageError: there is none.
        """
        if self.directory is None:
            raise chat.no_template("given")
        found = chat.ChatTemplate.from_directory(self.directory)
        if found is None and _fetch_beside(self.directory, (chat.CONFIG, chat.TEMPLATE)):
            found = chat.ChatTemplate.from_directory(self.directory)
        if found is None:
            raise chat.no_template(f"in {self.directory}")
        return found

    def decode(self, tokens: Sequence[int], *, strip_end: bool = True) -> str:
        """Return the text of *tokens*, special tokens included.

        :param strip_end: leave out the special tokens that end the text.
        """
        shown = list(tokens)
        while strip_end and shown and shown[-1] in self._special:
            shown.pop()
        # Servers may know tokens that this tokenizer does not: a padded vocabulary.
        known = [token for token in shown if 0 <= token < 2**32]
        return str(self.inner.decode(known, skip_special_tokens=False))

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.inner.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)


def load_tokenizer(name: str, *, sources: Iterable[TokenizerSource] | None = None) -> Tokenizer:
    """Return the tokenizer of a model.

    Every source is asked for what is on this machine before any may use the network.

    :param name: a model's name, a directory with ``tokenizer.json``, or such a file.
    :param sources: who to ask; the plugins of ``tinkex.tokenizers`` by default.
    :raises SettingsError: nobody knows it.
    :raises LocalError: it is there and cannot be read.
    """
    local = _local(name)
    if local is not None:
        return Tokenizer.from_file(local)
    known = list(_plugins() if sources is None else sources)
    troubles: list[TinkexError] = []
    for network in (False, True):
        for source in known:
            directory = _ask(source, name, network, troubles)
            if directory is not None:
                return Tokenizer.from_file(directory / FILE)
    raise _nobody_knows(name, troubles)


def _local(name: str) -> Path | None:
    """Return the file that *name* means on this machine, or ``None`` for a model's name."""
    path = user_path(name)
    try:
        if path.is_dir():
            # A directory beside us may have a model's name by chance.
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
        except Exception as error:  # a broken plugin must not cost the others
            _log.warning("the tokenizer source %s does not work: %s", entry_point.name, error)
    return sources


def _ask(
    source: TokenizerSource, name: str, network: bool, troubles: list[TinkexError]
) -> Path | None:
    try:
        found = source.find(name, network=network)
        return Path(found) if found is not None and (Path(found) / FILE).is_file() else None
    except TinkexError as error:
        troubles.append(error)
    except Exception as error:  # whatever a plugin does, the others are still asked
        kind = type(source).__name__
        _log.debug("the tokenizer source %s failed", kind, exc_info=True)
        troubles.append(PluginError(f"{kind} failed ({type(error).__name__})"))
    return None


def _nobody_knows(name: str, troubles: list[TinkexError]) -> SettingsError:
    why = f": {troubles[-1]}" if troubles else ""
    hint = next((t.hint for t in reversed(troubles) if t.hint), None) or HINT
    return SettingsError(f"no tokenizer for {name!r}{why}", hint=hint)


class Repository(NamedTuple):
    """Where a tokenizer is published: a repository of the hub and a revision, if fixed."""

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
    """Return where the tokenizer of *model* is published, or ``None`` if nowhere.

    :param model: a base model's name; a variant after ``:`` shares the model's tokenizer.
    """
    model = model.partition(":")[0]
    if model.startswith(("TML/", "thinkingmachines/")):
        return None
    if model in _PINNED:
        return _PINNED[model]
    if model.startswith("meta-llama/Llama-3"):
        return _LLAMA_3  # the original is behind a licence form
    parts = model.split("/")
    if not all(parts) or len(parts) > 3 or any(part in (".", "..") for part in parts):
        return None
    return Repository("/".join(parts[:2]))


class HuggingFaceSource(TokenizerSource):
    """Tokenizers of the Hugging Face cache and hub.

    Obeys HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.
    """

    def find(self, model: str, *, network: bool) -> Path | None:
        """Return the directory of *model*'s tokenizer in the cache.

        :raises SettingsError: it could not be fetched.
        """
        repository = repository_of(model)
        if repository is None:
            return None
        return _fetched(repository) if network else _cached(repository)


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


def hub_state() -> tuple[str, str | None, bool]:
    """Return the hub's address, why it cannot be asked (``None``: it answers), and if there is
    a token for it."""
    from huggingface_hub import constants, get_token

    from tinkex.api.http import probe

    address, has_token = str(constants.ENDPOINT), bool(get_token())
    if constants.HF_HUB_OFFLINE:
        return address, "HF_HUB_OFFLINE is set", has_token
    try:
        status = probe.head(address, _HUB_TIMEOUTS)
    except TinkexError as error:
        return address, str(error), has_token
    return address, f"it fails (HTTP {status})" if status >= 500 else None, has_token


def _fetched(repository: Repository) -> Path | None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise SettingsError("it is not in the cache, and HF_HUB_OFFLINE is set", hint=HINT)
    _refuse_unreachable(repository)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        file = hf_hub_download(repository.name, FILE, revision=repository.revision)
    except Exception as error:  # the HTTP library behind it changes between versions
        raise _hub_error(error, repository) from error
    return Path(file).parent


def _fetch_beside(directory: Path, names: Sequence[str]) -> bool:
    """Fetch more files of the repository whose snapshot in the cache *directory* is.

    :returns: whether it is one, and may have them now.
    :raises SettingsError: the hub cannot be reached.
    """
    folder, revision = directory.parent.parent.name, directory.name
    if directory.parent.name != "snapshots" or not folder.startswith("models--"):
        return False
    repository = Repository("/".join(folder.split("--")[1:]), revision)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    _refuse_unreachable(repository)
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for name in names:
        try:
            hf_hub_download(repository.name, name, revision=revision)
        except errors.EntryNotFoundError:
            continue
        except Exception as error:  # the HTTP library behind it changes between versions
            raise _hub_error(error, repository) from error
    return True


def _refuse_unreachable(repository: Repository) -> None:
    """Ask the hub once before its library does, which tries for half a minute.

    :raises SettingsError: it cannot be reached or does not work.
    """
    from huggingface_hub import constants

    from tinkex.api.http import errors, probe

    address = (
        f"{constants.ENDPOINT}/{repository.name}/resolve/{repository.revision or 'main'}/{FILE}"
    )
    try:
        status = probe.head(address, _HUB_TIMEOUTS)
    except TinkexError as error:
        raise SettingsError(f"it is not in the cache, and {error}", hint=HINT) from error
    if status >= 500:
        host = errors.host_of(address)
        raise SettingsError(f"it is not in the cache, and {host} fails (HTTP {status})", hint=HINT)


def _hub_error(error: Exception, repository: Repository) -> SettingsError:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    host = constants.ENDPOINT.partition("://")[2] or constants.ENDPOINT
    if isinstance(error, hub.GatedRepoError):
        hint = f"Accept its licence at {constants.ENDPOINT}/{repository.name} and set HF_TOKEN."
        return SettingsError(f"{repository.name} on {host} asks for a licence", hint=hint)
    if isinstance(error, (hub.RepositoryNotFoundError, hub.RevisionNotFoundError)):
        return SettingsError(f"{host} has no public repository {repository.name}", hint=HINT)
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(
        error, hub.LocalEntryNotFoundError
    ):
        return SettingsError(f"{repository.name} on {host} has no {FILE}", hint=HINT)
    return SettingsError(f"it is not in the cache, and {host} cannot be reached", hint=HINT)
