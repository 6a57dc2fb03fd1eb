"""The inputs of commands that sample: a model and a prompt."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from tinkex.exceptions import LocalError, UsageError
from tinkex.files import read_bytes, user_path

#: File that PEFT writes next to every adapter (``peft.LoraConfig``).
ADAPTER_CONFIG = "adapter_config.json"
#: Several numbers without words: token ids as printed by Python, NumPy or a table.
_NUMBERS = re.compile(
    r"(?:\w+(?=\())? [\s,;()\[\]{}]* [\d.+-]+ (?: [\s,;()\[\]{}]+ [\d.+-]+ )+ [\s,;()\[\]{}]*", re.X
)
_EXAMPLE = "For example: --prompt 'Once upon a time', or --prompt-file prompt.txt."


@dataclass(frozen=True)
class ModelPath:
    """The model specified by ``--model-path``.

    :ivar tinker_path: the checkpoint on the service, if known.
    :ivar base_model: name of the base model, if known.
    :ivar lora_rank: rank of the adapter, if known.
    """

    tinker_path: str | None = None
    base_model: str | None = None
    lora_rank: int | None = None


def read_model_path(text: str, resolve: Callable[[str], str] | None = None) -> ModelPath:
    """Return the model that *text* specifies.

    :param text: a ``tinker://`` path, the directory of a downloaded checkpoint or of an adapter,
        a file in it, the metadata file that ``tinkex checkpoint --output`` wrote, or, if no such
        file exists, a checkpoint's short name.
    :param resolve: returns the path of a short name, see :mod:`tinkex.api.resources.names`.
    :raises LocalError: the path does not exist, or a file cannot be read.
    :raises UsageError: the base model is unknown.
    """
    from tinkex.api.paths import is_path, pasted

    if is_path(text):
        return ModelPath(tinker_path=pasted(text))
    path = user_path(text)
    # Anything else counts as a missing file: ./model, model/, ~/model, adapter.json.
    may_be_a_name = "@" in text or ":" in text or "~" in text[1:]
    if resolve is not None and not path.exists() and may_be_a_name:
        return ModelPath(tinker_path=resolve(text))
    if path.is_file():
        is_part, known = (path.parent / ADAPTER_CONFIG).is_file(), ModelPath()
        if not is_part or path.suffix == ".json":
            known = _from_json(_load(path), "weights_path")
        if known.tinker_path or not is_part:
            return _checked(known, text)
        path = path.parent
    if not path.is_dir():
        raise LocalError(
            f"--model-path does not exist: {text}",
            hint="Specify tinker://RUN/sampler_weights/NAME, or a directory that contains "
            f"{ADAPTER_CONFIG}.",
        )
    return _checked(_from_directory(path), text)


def _from_directory(directory: Path) -> ModelPath:
    """Return what the manifest and the adapter's configuration in *directory* say."""
    from tinkex.api.transfer import manifest

    known = _from_json(_load(directory / manifest.NAME), "tinker_path")
    config = _load(directory / ADAPTER_CONFIG)
    base_model, rank = config.get("base_model_name_or_path"), config.get("r")
    return ModelPath(
        known.tinker_path,
        known.base_model or (base_model if isinstance(base_model, str) else None),
        known.lora_rank or (rank if type(rank) is int else None),
    )


def _from_json(values: dict[str, Any], path_key: str) -> ModelPath:
    from tinkex.api.paths import is_path

    path, base_model, rank = (values.get(k) for k in (path_key, "base_model", "lora_rank"))
    return ModelPath(
        path if isinstance(path, str) and is_path(path) else None,
        base_model if isinstance(base_model, str) else None,
        rank if type(rank) is int else None,
    )


def _checked(model: ModelPath, text: str) -> ModelPath:
    if model.tinker_path or model.base_model:
        return model
    path = user_path(text)
    if not (path if path.is_dir() else path.parent).joinpath(ADAPTER_CONFIG).is_file():
        hint = "Specify a file written by 'tinkex checkpoint --output', or an adapter's directory."
        raise UsageError(f"{text} contains neither a checkpoint path nor a base model", hint=hint)
    raise UsageError(
        f"{text} does not specify its base model",
        hint=f"Add base_model_name_or_path to {ADAPTER_CONFIG}, or use --base-model.",
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise LocalError(
            f"{path} is not valid JSON",
            hint="Specify a file written by 'tinkex checkpoint --output' or by PEFT.",
        ) from error
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    return value if isinstance(value, dict) else {}


def read_prompt(text: str | None, file: str | None, stdin: TextIO | None = None) -> str | list[int]:
    """Return the prompt specified by ``--prompt`` or ``--prompt-file``.

    A file with a JSON array of whole numbers, or with ``{"tokens": [...]}``, contains token ids;
    any other file is text, without the line breaks at its end (like the shell's ``$(cat file)``).

    :raises UsageError: neither or both are given, or the prompt is empty.
    :raises LocalError: the file cannot be read, or is not UTF-8.
    """
    if text is None and file is None:
        message = "--prompt or --prompt-file is required for run command"
        raise UsageError(message, hint=_EXAMPLE)
    if text is not None and file is not None:
        raise UsageError("use either --prompt or --prompt-file", hint=_EXAMPLE)
    prompt: str | list[int] | None = text
    if file is not None:
        try:
            prompt = prompt_in(read_bytes(file, stdin).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            where = "standard input" if file == "-" else file
            raise LocalError(
                f"{where} is not UTF-8 text (byte {error.start})",
                hint="Convert the text to UTF-8 with iconv.",
            ) from error
    if not prompt:
        raise UsageError("the prompt is empty", hint=_EXAMPLE)
    return prompt


def read_messages(file: str, stdin: TextIO | None = None) -> list[dict[str, Any]]:
    """Return the messages in *file*: a JSON array, or an object with the member ``messages``.

    :raises UsageError: it contains something else.
    :raises LocalError: the file cannot be read, or is not UTF-8.
    """
    from tinkex.api.sampling.chat import text_messages

    where = "standard input" if file == "-" else file
    hint = 'For example: [{"role": "user", "content": "Name three rivers."}]'
    try:
        value = json.loads(read_bytes(file, stdin).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LocalError(
            f"{where} is not UTF-8 text (byte {error.start})",
            hint="Convert the text to UTF-8 with iconv.",
        ) from error
    except (ValueError, RecursionError) as error:
        many = ". To send several conversations: tinkex run batch"
        raise UsageError(f"{where} is not a JSON array of messages", hint=hint + many) from error
    if isinstance(value, dict):
        value = value.get("messages")
    try:
        return text_messages(value)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=hint) from error


def conversation(
    prompt: str | Sequence[Mapping[str, Any]], system: str | None
) -> list[dict[str, Any]]:
    """Return *prompt*, a user message or messages, as messages that begin with *system*.

    :raises UsageError: there are two system messages.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    if system is None:
        return [dict(message) for message in messages]
    if any(message.get("role") == "system" for message in messages):
        raise UsageError("the messages already contain a system message", hint="Omit --system.")
    return [{"role": "system", "content": system}, *map(dict, messages)]


@contextmanager
def opened(name: str, stdin: TextIO | None) -> Iterator[tuple[IO[bytes], str]]:
    """Open the file *name*, or *stdin* for ``-``; yield it with its name for error messages.

    :raises LocalError: it cannot be read.
    """
    if name == "-":
        if stdin is None:
            raise LocalError("cannot read standard input: it is closed", hint="Specify a file.")
        binary = getattr(stdin, "buffer", None)
        yield binary or io.BytesIO(stdin.read().encode()), "standard input"
        return
    try:
        file = user_path(name).open("rb")
    except OSError as error:
        raise LocalError(f"cannot read {name}: {error.strerror}") from error
    with file:
        yield file, name


def prompt_in(text: str) -> str | list[int]:
    """Return the prompt in the file content *text*: a string or token ids.

    :raises UsageError: a token id is out of range.
    """
    from tinkex.api.sampling.types import why_not_token_ids

    value = _json(text)
    tokens = value.get("tokens") if isinstance(value, dict) else value
    if not isinstance(tokens, list) or not all(type(item) is int for item in tokens):
        return text.rstrip("\r\n")
    if why := why_not_token_ids(tokens):
        raise UsageError(f"token ids must be from 0 to 2147483647: {why}")
    return tokens


def nearly_token_ids(prompt: object) -> str | None:
    """Return why *prompt* is treated as text although it looks like token ids, or ``None``."""
    from tinkex.api.sampling.types import why_not_token_ids

    if not isinstance(prompt, str):
        return None
    value = _json(prompt)
    if value is None:
        return "it is not JSON" if _NUMBERS.fullmatch(prompt) else None
    if isinstance(value, dict):
        if "tokens" not in value:
            return "it has no 'tokens' field"
        value = value["tokens"]
    return why_not_token_ids(value) or "the input format is text"


def _json(text: str) -> Any:
    """Parse *text* as a JSON array or object; return ``None`` if it is neither."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
