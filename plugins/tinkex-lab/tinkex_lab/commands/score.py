"""Measure the likelihood of data under models."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from tinkex.columns import Flag
from tinkex.commands.arguments import check_stdin
from tinkex.commands.base import Lister
from tinkex.commands.sampling import checked_model, find_tokenizer
from tinkex.exceptions import (
    LocalError,
    LogprobsUnavailable,
    NotOffered,
    PaymentRequired,
    SettingsError,
    TinkexError,
    Unauthorized,
    UsageError,
)
from tinkex.files import check_writable, user_path, write_atomically
from tinkex.options import integer, number
from tinkex_lab.models import add_models, given_models

if TYPE_CHECKING:
    from tinkex.api import SampleRow, SamplingClient, SupervisedRow, Tokenizer
    from tinkex_lab.scoring import Item, Likelihood, ModelScore

#: Errors that would occur for every other row, too.
_FATAL = (Unauthorized, PaymentRequired, NotOffered, LogprobsUnavailable, SettingsError)


@dataclass
class _Scored:
    """A model to score.

    :ivar path: path of the checkpoint, or ``None`` for the base model itself.
    """

    path: str | None
    base_model: str
    sampling: SamplingClient
    tokenizer: Tokenizer
    items: list[Item] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path or self.base_model


class Score(Lister):
    """Measure how well models predict data."""

    operation = "Scoring"
    notes = (
        "The NLL (negative log-likelihood) is a mean per token. In rows with messages, the "
        "assistant's replies are scored; in rows with a prompt, the completion and its end token; "
        "in rows with text, all tokens except the first. To compare models with different "
        "tokenizers, use bits per byte, which exclude special tokens."
    )
    column_names = (
        *("model", "base_model", "rows", "tokens", "nll", "perplexity", "bits_per_byte"),
        *("failed", "best"),
    )
    plain_columns = column_names
    droppable = ("model", "base_model", "failed", "rows", "tokens")
    examples = (
        "tinkex score data.jsonl --base-model Qwen/Qwen3-8B --model-path run-123:final",
        "tinkex score held-out.jsonl --model-path @latest --fail-above 1.8",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "data",
            metavar="<file>",
            help='file with rows such as {"messages": …}, {"prompt": …, "completion": …} or '
            '{"text": …}, as JSONL or a JSON array; - is standard input',
        )
        add_models(parser)
        parser.add_argument(
            "--max-length",
            metavar="<int>",
            type=integer(2),
            help="maximum number of tokens per row; longer rows with 'text' are split, and all "
            "other longer rows are truncated (default: one less than the smallest context length "
            "of the models, if known)",
        )
        parser.add_argument(
            "--per-row", metavar="<path>", help="JSONL file to write the score of each row to"
        )
        parser.add_argument(
            "--fail-above",
            metavar="<float>",
            type=number(0),
            help="exit with code 1 if any checkpoint's NLL per token is above this value; without "
            "checkpoints, the base models are tested",
        )
        parser.add_argument(
            "--concurrency",
            metavar="<int>",
            type=integer(1, 256),
            help="number of concurrent requests, at most 256 (default: adapted to the service)",
        )
        parser.add_argument(
            "--tokenizer",
            metavar="<name>",
            help="model name or local directory to load the tokenizer from (default: base model)",
        )

    def run(self, parsed_args: argparse.Namespace) -> int:
        code = super().run(parsed_args)
        scores: list[ModelScore] = self.result or []
        return code or int(any(s.failed for s in scores) or self._is_above(parsed_args, scores))

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex_lab.scoring import marked_best

        chosen = given_models(parsed_args)
        if parsed_args.per_row is not None:
            check_writable(parsed_args.per_row, parsed_args.data)
        if parsed_args.data == "-":
            check_stdin(self, "data")
        rows = self._read(parsed_args.data)
        self._lines: list[str] = []
        with ExitStack() as stack:
            models = [self._opened(options, parsed_args, stack) for _, options in chosen]
            self._build(models, rows, parsed_args.max_length)
            try:
                scores = [self._score(model, parsed_args) for model in models]
            finally:  # also after an interruption
                if parsed_args.per_row is not None and self._lines:
                    write_atomically(parsed_args.per_row, "".join(self._lines))
        self.result = scores = marked_best(scores)
        labels = {model.name: label for model, (label, _) in zip(models, chosen, strict=True)}
        self.presentation.short["model"] = ("Model", lambda names: [labels[n] for n in names])
        return self.column_names, [_values(score) for score in scores]

    def _read(self, name: str) -> list[SupervisedRow]:
        from tinkex.api import read_supervised_rows

        place = "standard input" if name == "-" else name
        try:
            with self._opened_data(name) as file:
                rows = list(read_supervised_rows(file, place))
        except OSError as error:
            raise LocalError(f"cannot read {place}: {error.strerror}") from error
        if not rows:
            raise UsageError(
                f"there are no rows in {place}",
                hint='Each line must be an object such as {"prompt": …, "completion": …}.',
            )
        return rows

    def _opened_data(self, name: str) -> IO[bytes]:
        if name != "-":
            return user_path(name).open("rb")
        if self.app.stdin is None:
            raise LocalError("cannot read standard input: it is closed")
        return io.BytesIO(self.app.stdin.read().encode("utf-8", "surrogateescape"))

    def _opened(
        self, options: argparse.Namespace, parsed_args: argparse.Namespace, stack: ExitStack
    ) -> _Scored:
        path, base = checked_model(self, options, "score")
        deadline = self.client.deadline("sampling")
        sampling = stack.enter_context(
            self.client.create_sampling_client(base_model=base, model_path=path, deadline=deadline)
        )
        base_model = sampling.find_base_model(deadline)
        tokenizer = find_tokenizer(self, lambda: parsed_args.tokenizer or base_model, needed=True)
        assert tokenizer is not None
        return _Scored(path, base_model, sampling, tokenizer)

    def _build(
        self, models: list[_Scored], rows: list[SupervisedRow], max_length: int | None
    ) -> None:
        """Build the examples for each model, before the first request."""
        from tinkex.api import ExampleBuilder
        from tinkex_lab.scoring import build_items

        if max_length is None:
            max_length = self._room({model.base_model for model in models})
        built: dict[str, list[Item]] = {}
        for model in models:
            if model.base_model not in built:
                builder = ExampleBuilder(model.tokenizer, max_length=max_length)
                items = built[model.base_model] = build_items(builder, rows)
                if cut := len({item.row for item in items if item.example.is_truncated}):
                    self.status(f"{cut} of {len(rows)} rows were truncated to {max_length} tokens.")
            model.items = built[model.base_model]

    def _room(self, base_models: set[str]) -> int | None:
        """Return the maximum length of an example: one token less than the smallest context."""
        try:
            known = self.client.models.list()
        except NotOffered:
            return None
        lengths = [
            model.max_context_length
            for model in known
            if model.max_context_length and model.model_name in base_models
        ]
        return max(2, min(lengths) - 1) if lengths else None

    def _score(self, model: _Scored, parsed_args: argparse.Namespace) -> ModelScore:
        from tinkex_lab.scoring import Likelihood, ModelScore

        found: dict[int, Likelihood] = {}
        failed: dict[int, TinkexError] = {}
        remaining = Counter(item.row for item in model.items)
        try:
            for item, outcome in self._scored(model, parsed_args.concurrency):
                remaining[item.row] -= 1
                if isinstance(outcome, TinkexError):
                    failed.setdefault(item.row, outcome)
                else:
                    found[item.row] = found.get(item.row, Likelihood()) + outcome
        finally:
            whole = {n: found[n] for n in sorted(found) if not remaining[n] and n not in failed}
            self._lines += [_line(row, model.name, value) for row, value in whole.items()]
        failures = len(failed)
        if failures and not whole:
            raise next(iter(failed.values()))
        for item in model.items:
            if error := failed.pop(item.row, None):
                self.status(f"Failed: {item.where}: {error}")
        total = sum(whole.values(), Likelihood())
        return ModelScore(model.name, model.base_model, len(whole), failures, total)

    def _scored(
        self, model: _Scored, concurrency: int | None
    ) -> Iterator[tuple[Item, Likelihood | TinkexError]]:
        """Yield each example with its likelihood or error, in the order of arrival.

        :raises TinkexError: an error that would affect all other examples, too.
        """
        from tinkex_lab.scoring import Scorer

        scorer = Scorer(model.tokenizer)
        results = model.sampling.sample_many(_requests(model.items), concurrency=concurrency)
        with closing(results):
            for done, result in enumerate(results, 1):
                item: Item = result.row.key
                self.show_count(f"Scoring {model.name}", done, len(model.items))
                error = result.error
                if isinstance(error, LogprobsUnavailable):
                    error.hint = "Use a server that returns prompt logprobs."
                if error is not None and (isinstance(error, _FATAL) or error.category == "server"):
                    raise error
                if result.response is None:
                    assert error is not None
                    yield item, error
                else:
                    logprobs = result.response.prompt_logprobs or ()
                    yield item, scorer.likelihood(item.example, logprobs)

    def _is_above(self, parsed_args: argparse.Namespace, scores: list[ModelScore]) -> bool:
        limit = parsed_args.fail_above
        if limit is None:
            return False
        judged = [s for s in scores if s.model != s.base_model] or scores
        above = [s for s in judged if (s.total.nll_per_token or 0.0) > limit]
        for score in above:
            self.status(
                f"The NLL per token of {score.model} is {score.total.nll_per_token:.4g}, above "
                f"{limit:g}."
            )
        return bool(above)


def _requests(items: list[Item]) -> Iterator[SampleRow]:
    from tinkex.api import Logprobs, SampleRow, SamplingParams

    params = SamplingParams(max_tokens=1)  # the minimum that servers accept
    for item in items:
        tokens = list(item.example.tokens)
        last = len(tokens) - item.first
        logprobs = Logprobs(True, last if last < len(tokens) - 1 else None)
        yield SampleRow(tokens, params, key=item, logprobs=logprobs)


def _line(row: int, model: str, found: Likelihood) -> str:
    members = {
        "row": row + 1,
        "model": model,
        "tokens": found.tokens,
        "nll": _finite(found.nll_per_token),
        "bits_per_byte": _finite(found.bits_per_byte),
    }
    return json.dumps(members, ensure_ascii=False) + "\n"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _values(score: ModelScore) -> tuple[Any, ...]:
    total = score.total
    return (
        *(score.model, score.base_model, score.rows, total.tokens, total.nll_per_token),
        *(total.perplexity, total.bits_per_byte, score.failed, Flag(score.best)),
    )
