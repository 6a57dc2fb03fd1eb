"""Convert text to token ids and back, and count tokens."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex.columns import Structure, counted, plain_text, printable
from tinkex.commands import arguments
from tinkex.commands.base import Lister
from tinkex.commands.sampling import add_chat_options
from tinkex.exceptions import TokenizerError, UsageError

if TYPE_CHECKING:
    from tinkex.api import Tokenizer
    from tinkex.commands.batch_prompts import PromptRow, PromptSource

__all__ = ["CountTokens", "DecodeTokens", "EncodeTokens"]

_HINT = (
    "With --base-model, specify another model or a directory that contains tokenizer.json. "
    "Messages require a chat model."
)
#: Token ids without brackets: numbers separated by spaces or commas.
_NUMBERS = re.compile(r"\s*\d+(?:[\s,]+\d+)*\s*", re.ASCII)


class _TokensLister(Lister):
    """Base class of the tokens commands: one row per prompt, no requests to the service."""

    #: Whether text is expected; if so, text that looks like token ids is reported.
    reads_text: ClassVar[bool] = True
    #: Help of the argument.
    about_prompts: ClassVar[str] = (
        "text file (one prompt), JSONL file or JSON array (one prompt per item), or directory "
        "(one prompt per file); - is standard input"
    )

    @property
    def formatter_default(self) -> str:
        return "plain"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "prompts",
            metavar="<prompts>",
            help=self.about_prompts,
        )
        parser.add_argument(
            "--base-model",
            metavar="<id>",
            required=True,
            help="base model that the tokenizer belongs to, or local directory of the tokenizer",
        )
        parser.add_argument(
            "--input-format",
            choices=("jsonl", "text", "file"),
            help="input format; text: one prompt per line, file: one prompt per file "
            "(default: jsonl or file, detected from the content)",
        )

    def rows(self, parsed_args: argparse.Namespace) -> Iterator[tuple[PromptRow, Tokenizer]]:
        """Return the checked rows of the prompts, each with the tokenizer."""
        from tinkex.api import SamplingParams, load_tokenizer
        from tinkex.commands.batch_prompts import PromptSource

        if parsed_args.prompts == "-":
            arguments.check_stdin(self, "prompts")
        prompts = PromptSource(
            parsed_args.prompts,
            self.app.stdin,
            SamplingParams(),
            1,
            parsed_args.input_format,
            otherwise="file",
            chat=getattr(parsed_args, "chat", False),
            system=getattr(parsed_args, "system", None),
        )
        if self.reads_text and (doubt := prompts.doubt("encoded")):
            self.app.warn(doubt)
        try:
            tokenizer = load_tokenizer(parsed_args.base_model)
            if prompts.needs_template:
                _ = tokenizer.template  # a missing template is reported before any row
        except TokenizerError as error:
            prompts.close()
            error.hint = error.hint or _HINT
            raise
        return _closing(prompts, tokenizer)


def _closing(prompts: PromptSource, tokenizer: Tokenizer) -> Iterator[tuple[PromptRow, Tokenizer]]:
    try:
        for row in prompts:
            yield row, tokenizer
    finally:
        prompts.close()


def _encoded(row: PromptRow, tokenizer: Tokenizer) -> Sequence[int]:
    """Return the token ids of *row*.

    :raises UsageError: its messages are not valid for the chat template.
    """
    from tinkex.api.sampling.client import encode_prompt

    try:
        return encode_prompt(tokenizer, row.prompt)
    except UsageError as error:
        raise UsageError(f"{row.where}: {error}", hint=error.hint) from error


class EncodeTokens(_TokensLister):
    """Convert prompts to token ids."""

    notes = (
        "'run' and 'run batch' send the same ids for the same prompts. 'run --prompt-file' accepts "
        "the plain output for a single prompt, and 'run batch' accepts the JSON output."
    )
    column_names = ("id", "token_count", "tokens")
    examples = (
        "tinkex tokens encode prompt.txt --base-model Qwen/Qwen3-8B > ids.json",
        "tinkex tokens encode in.jsonl --base-model Qwen/Qwen3-8B -f json > ids.json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_chat_options(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        def encoded() -> Iterator[tuple[Any, ...]]:
            for row, tokenizer in rows:
                tokens = list(_encoded(row, tokenizer))
                yield row.id, len(tokens), Structure(tokens)

        rows = self.rows(parsed_args)
        return self.column_names, encoded()

    def plain_row(self, record: Mapping[str, Any]) -> str:
        return plain_text(record["tokens"])


class DecodeTokens(_TokensLister):
    """Convert token ids to text."""

    notes = (
        "The input is a JSON array, JSONL objects with a 'tokens' field, or numbers separated by "
        "spaces or commas. The output includes special tokens. An unknown id is an error."
    )
    reads_text = False
    about_prompts = "file with token ids, or directory of such files; - is standard input"
    column_names = ("id", "text")
    examples = (
        "tinkex tokens decode ids.json --base-model Qwen/Qwen3-8B",
        "echo 9707 11 1879 | tinkex tokens decode - --base-model Qwen/Qwen3-8B",
    )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        def decoded() -> Iterator[tuple[Any, ...]]:
            for row, tokenizer in rows:
                yield row.id, tokenizer.decode(_token_ids(row, tokenizer), strip_end=False)

        self._on_terminal = self.app.stdout.isatty()
        rows = self.rows(parsed_args)
        return self.column_names, decoded()

    def plain_row(self, record: Mapping[str, Any]) -> str:
        text: str = record["text"]
        return printable(text, keep="\n\t") if self._on_terminal else text


def _token_ids(row: PromptRow, tokenizer: Tokenizer) -> list[int]:
    from tinkex.api.sampling.types import why_not_token_ids
    from tinkex.commands.inputs import prompt_in

    tokens = prompt_in(row.prompt) if isinstance(row.prompt, str) else row.prompt
    if isinstance(tokens, str) and _NUMBERS.fullmatch(tokens):
        # Python cannot convert thousands of digits; ten are already out of range.
        tokens = [int(number[:12]) for number in re.findall(r"\d+", tokens)]
    if why := why_not_token_ids(tokens):
        raise UsageError(
            f"{row.where} does not contain token ids: {why}",
            hint="Specify numbers, such as [9707, 11]. If each line contains token ids, add "
            "--input-format text. To encode text: tinkex tokens encode",
        )
    ids = list(map(int, tokens))
    for token in ids:
        if tokenizer.inner.id_to_token(token) is None:
            raise UsageError(
                f"{row.where}: the tokenizer has no token with id {token}",
                hint="Check that --base-model is the model that produced the token ids.",
            )
    return ids


class CountTokens(_TokensLister):
    """Count the tokens in prompts."""

    column_names = ("id", "token_count")
    plain_columns = ("token_count", "id")
    examples = (
        "tinkex tokens count prompt.txt --base-model Qwen/Qwen3-8B",
        "tinkex tokens count in.jsonl --chat --base-model Qwen/Qwen3-8B",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_chat_options(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        def counts() -> Iterator[tuple[Any, ...]]:
            prompts = total = 0
            for row, tokenizer in rows:
                count = len(_encoded(row, tokenizer))
                prompts, total = prompts + 1, total + count
                yield row.id, count
            if prompts > 1:
                self.status(f"{counted(total, 'token')} in {prompts} prompts.")

        rows = self.rows(parsed_args)
        return self.column_names, counts()
