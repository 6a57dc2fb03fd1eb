"""Sample text, and show training runs."""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Structure, Time, plain_text, printable
from tinkex.commands import arguments
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.sampling import (
    add_chat_options,
    add_sampling_options,
    checked_model,
    find_tokenizer,
    mean,
    sampling_params,
)
from tinkex.exceptions import LogprobsUnavailable, UsageError
from tinkex.options import integer, non_empty

if TYPE_CHECKING:
    from tinkex.api import SampledSequence, Tokenizer, TrainingRun
    from tinkex.api.http.pagination import Page, Walk
    from tinkex.api.sampling.types import Prompt
    from tinkex.cli.logprobs import TokenLogprob

__all__ = ["InfoRun", "ListRun", "Sample"]

#: The last checkpoint of each kind: its path and time.
_LAST = (
    *("last_checkpoint", "last_checkpoint_time"),
    *("last_sampler_checkpoint", "last_sampler_checkpoint_time"),
)
_RUN_COLUMNS = (
    *("training_run_id", "base_model", "model_owner", "is_lora", "lora_rank", "corrupted"),
    *("last_request_time", *_LAST, "user_metadata"),
)


class Sample(Lister):
    """Sample text from a base model or a checkpoint."""

    #: Tokens with their logprobs, if requested: of each sequence, and of the prompt.
    _scored: Sequence[list[TokenLogprob]] = ()
    _scored_prompt: Sequence[TokenLogprob] = ()

    notes = "--json prints the whole response, including token ids and logprobs."
    is_action = True
    operation = "Sampling"
    column_names = ("sample", "text", "stop_reason", "avg_logprob", "token_count")
    examples = (
        "tinkex run --base-model Qwen/Qwen3-8B --prompt 'Once upon' --max-tokens 64",
        "tinkex run --model-path run-123:final --prompt-file prompt.txt",
        "tinkex run --base-model Qwen/Qwen3-8B --prompt Hello --json | jq .sequences",
        "tinkex run --model-path run-123:final --chat --prompt 'Name three rivers.'",
        "tinkex run --base-model Qwen/Qwen3-8B --prompt Hello --top-logprobs 3",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_model_options(parser)
        parser.add_argument("--prompt", metavar="<text>", help="prompt text")
        parser.add_argument(
            "--prompt-file",
            metavar="<path>",
            help='file with the prompt: text, a JSON array of token ids, or {"tokens": [...]}; '
            "- is standard input",
        )
        parser.add_argument(
            "--messages",
            metavar="<path>",
            help='file with a conversation: a JSON array of {"role": ..., "content": ...}; '
            "- is standard input",
        )
        add_chat_options(parser)
        add_sampling_options(parser)
        _add_logprob_options(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar="<path>",
            type=lambda text: None if text == "-" else text,
            help="output file; - is standard output (default)",
        )

    def add_json_option(self, group: Any) -> None:
        group.add_argument(
            "--json",
            action="store_true",
            dest="whole_json",
            help="print the whole response as JSON, including token ids and logprobs",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.sampling.client import encode_prompt
        from tinkex.api.sampling.types import is_chat
        from tinkex.files import check_writable

        model_path, base_model = checked_model(self, parsed_args, "run")
        prompt = self._prompt(parsed_args)
        if parsed_args.output is not None:
            check_writable(parsed_args.output, parsed_args.prompt_file, parsed_args.messages)
        # One deadline for all requests; a missing key is reported before any status.
        deadline = self.client.deadline("sampling")
        self.status("Starting sampling...")
        with self.client.create_sampling_client(
            base_model=base_model, model_path=model_path, deadline=deadline
        ) as sampling:
            self._is_chat = is_chat(prompt)
            is_encoded = not isinstance(prompt, str) and not self._is_chat
            tokenizer = None
            if not is_encoded or not parsed_args.whole_json:
                tokenizer = find_tokenizer(
                    self,
                    lambda: parsed_args.tokenizer or sampling.find_base_model(deadline),
                    needed=not is_encoded or bool(parsed_args.tokenizer),
                )
            tokens = encode_prompt(tokenizer, prompt, deadline.remaining())
            params = sampling_params(parsed_args)
            if tokenizer is not None and self._is_chat:
                params = tokenizer.stop_sequences.added_to(params)
            topk = parsed_args.top_logprobs
            self.result = sampling.sample(
                tokens,
                params,
                parsed_args.num_samples,
                prompt_logprobs=parsed_args.prompt_logprobs,
                topk_prompt_logprobs=topk if parsed_args.prompt_logprobs else 0,
                topk_logprobs=topk,
                deadline=deadline,
            )
        return self._rows(parsed_args, tokens, tokenizer)

    def _rows(
        self, parsed_args: argparse.Namespace, prompt: Sequence[int], tokenizer: Tokenizer | None
    ) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        """Return the column names and rows of the output."""
        from tinkex.cli.logprobs import scored

        sequences = self.result.sequences

        def text_of(tokens: Sequence[int]) -> str | None:
            if tokenizer is None:
                return None
            if self._is_chat:
                return tokenizer.decode_reply(tokens)
            return tokenizer.decode(tokens, after=prompt)

        rows: list[tuple[Any, ...]] = [
            (
                index,
                text_of(sequence.tokens),
                sequence.stop_reason,
                mean(sequence.logprobs),
                len(sequence.tokens),
            )
            for index, sequence in enumerate(sequences, 1)
        ]
        names = list(self.column_names)
        top = bool(parsed_args.top_logprobs)
        if parsed_args.logprobs or top:
            self._scored = [_scored_sequence(s, prompt, tokenizer) for s in sequences]
            names.append("logprobs")
            cells = [_cell(tokens, top=top) for tokens in self._scored]
            rows = [(*row, cell) for row, cell in zip(rows, cells, strict=True)]
        if parsed_args.prompt_logprobs:
            of_prompt = self.result.prompt_logprobs, self.result.topk_prompt_logprobs
            self._scored_prompt = scored(tokenizer, prompt, *of_prompt)
            names.append("prompt_logprobs")
            rows = [(*row, _cell(self._scored_prompt, top=top)) for row in rows]
        return names, rows

    def _prompt(self, parsed_args: argparse.Namespace) -> Prompt:
        """Return the prompt from the options: text, token ids or messages."""
        from tinkex.commands.inputs import (
            conversation,
            nearly_token_ids,
            read_messages,
            read_prompt,
        )

        file, system = parsed_args.prompt_file, parsed_args.system
        if "-" in (file, parsed_args.messages):
            arguments.check_stdin(self, "prompt")
        if parsed_args.messages is not None:
            if parsed_args.prompt is not None or file is not None:
                raise UsageError("use only one of --messages, --prompt and --prompt-file")
            return conversation(read_messages(parsed_args.messages, self.app.stdin), system)
        prompt = read_prompt(parsed_args.prompt, file, self.app.stdin)
        where = "standard input" if file == "-" else file
        if parsed_args.chat or system is not None:
            if not isinstance(prompt, str):
                raise UsageError(
                    f"{where} contains token ids, which cannot be used as a message",
                    hint="To use token ids as the prompt, omit --chat and --system.",
                )
            return conversation(prompt, system)
        if file and (why := nearly_token_ids(prompt)):
            self.app.warn(f"{where} is treated as text, not as token ids: {why}")
        return prompt

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
    ) -> int:
        from tinkex.cli.formatters import wants_colour

        stdout, written = self.app.stdout, io.StringIO()
        self._on_terminal = stdout.isatty() and parsed_args.output is None
        self._colours = parsed_args.output is None and wants_colour(stdout)
        self._lists_tokens = bool(parsed_args.top_logprobs) or not self._colours
        self.app.stdout = written
        try:
            if parsed_args.whole_json:
                import json

                self.app.display.clear()
                written.write(json.dumps(self.result.as_dict(), indent=2) + "\n")
            else:
                super().produce_output(parsed_args, column_names, data)
        finally:
            self.app.stdout = stdout
        if parsed_args.output is not None:
            from tinkex.files import write_atomically

            write_atomically(parsed_args.output, written.getvalue())
            self.status(f"Output written to {parsed_args.output}")
        else:
            stdout.write(written.getvalue())
            stdout.flush()
        self.status(f"Sampling complete ({len(self.result.sequences)} sequences)")
        return 0

    def plain_row(self, record: Mapping[str, Any]) -> str:
        index = record["sample"]
        sequence: SampledSequence = self.result.sequences[index - 1]
        text = record["text"]
        if text is None:
            text = f"token ids: {list(sequence.tokens)}"
        lines = []
        if index == 1 and self._scored_prompt:
            texts = [token.text for token in self._scored_prompt]
            ids = [token.token_id for token in self._scored_prompt]
            shown = f"token ids: {ids}" if None in texts else "".join(map(str, texts))
            lines += ["Prompt:", *self._with_logprobs(self._scored_prompt, shown)]
            lines += [f"avg_logprob={_mean_text(mean(self.result.prompt_logprobs))}", ""]
        lines.append(f"Sample {index}:")
        scored = self._scored[index - 1] if self._scored else []
        lines += self._with_logprobs(scored, text)
        average, reason = _mean_text(record["avg_logprob"]), plain_text(record["stop_reason"])
        lines.append(f"stop_reason={reason} | avg_logprob={average}")
        is_last = index == len(self.result.sequences)
        if is_last and self._colours and (self._scored or self._scored_prompt):
            from tinkex.cli.logprobs import legend

            lines.append(legend())
        return "\n".join(lines) + ("" if is_last else "\n")

    def _with_logprobs(self, tokens: Sequence[TokenLogprob], text: str) -> Iterator[str]:
        """Yield *text*, colored on a terminal, and the list of *tokens* if necessary."""
        if self._on_terminal:
            text = printable(text, keep="\n\t")
        if not tokens:
            yield text
            return
        from tinkex.cli import logprobs

        has_text = self._colours and tokens[0].text is not None
        yield logprobs.coloured(tokens) if has_text else text
        if self._lists_tokens or not has_text:
            width = shutil.get_terminal_size().columns if self._on_terminal else None
            yield from logprobs.listing(tokens, colours=self._colours, width=width)


def _scored_sequence(
    sequence: SampledSequence, prompt: Sequence[int], tokenizer: Tokenizer | None
) -> list[TokenLogprob]:
    """Return the tokens of *sequence* with their logprobs and alternatives.

    :raises LogprobsUnavailable: the server did not return logprobs.
    """
    from tinkex.cli.logprobs import scored

    if sequence.logprobs is None:
        raise LogprobsUnavailable("this server does not return logprobs for sampled tokens")
    tokens, logprobs = sequence.tokens, sequence.logprobs
    return scored(tokenizer, tokens, logprobs, sequence.topk_logprobs, after=prompt)


def _cell(tokens: Iterable[TokenLogprob], *, top: bool) -> Structure:
    return Structure([token.as_dict(with_top=top) for token in tokens])


def _mean_text(average: float | None) -> str:
    return "n/a" if average is None else f"{average:.3f}"


def _add_logprob_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--logprobs",
        action="store_true",
        help="show the logprob of each sampled token; on a terminal, color the text by surprisal",
    )
    parser.add_argument(
        "--top-logprobs",
        metavar="<int>",
        type=integer(1, 100),
        default=0,
        help="number of most likely tokens to show at each position; implies --logprobs",
    )
    parser.add_argument(
        "--prompt-logprobs", action="store_true", help="also show the logprobs of the prompt tokens"
    )


class ListRun(Lister):
    """List training runs, newest first."""

    column_names = _RUN_COLUMNS
    plain_columns = ("training_run_id", "base_model")
    droppable = (
        *("user_metadata", *_LAST[::2], "is_lora", "model_owner", "training_run_id"),
        *("corrupted", *_LAST[:0:-2], "lora_rank", "last_request_time"),
    )
    examples = (
        "tinkex run list --limit 10",
        "tinkex run list --model qwen3 --sort last_request_time:desc",
        "tinkex run list -c training_run_id,last_checkpoint,last_checkpoint_time",
        "tinkex run list --limit 0 -f json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_paging(parser, "runs")
        parser.add_argument(
            "--model",
            metavar="<text>",
            type=non_empty,
            help="only runs whose base model name contains this string (case-insensitive)",
        )
        arguments.add_scope(parser)
        arguments.add_order(
            parser, [n for n in self.column_names if n not in (*_LAST, "user_metadata")]
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        limit, offset = parsed_args.limit or None, parsed_args.offset
        scope, runs = parsed_args.access_scope, self.client.runs
        model, order = parsed_args.model, arguments.sorting(parsed_args)
        page: Walk[TrainingRun] | Page[TrainingRun]
        if model or parsed_args.sort:
            page = runs.select(limit, offset, model=model, **order, access_scope=scope)
        elif self.app.keeps_result:
            page = runs.list(limit, offset, access_scope=scope)
        else:  # page by page
            page = runs.walk(limit, offset, access_scope=scope)
        self.result = page

        def short(run_ids: Sequence[str]) -> list[str]:
            from tinkex.api.resources.names import short_runs

            names = short_runs(run_ids)
            return [names[run_id] for run_id in run_ids]

        self.presentation.short["training_run_id"] = ("Run", short)
        return self.column_names, arguments.list_rows(
            self, page, "runs", _values, name=lambda run: run.training_run_id, whole=not model
        )


class InfoRun(ShowOne):
    """Show one training run."""

    column_names = _RUN_COLUMNS
    examples = ("tinkex run info run-abc123", "tinkex run info @latest")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_run(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        run = arguments.with_run(self, parsed_args.run_id, self.client.runs.get)
        self.result = run
        self.add_link(run.training_run_id, "training_runs", run.training_run_id)
        return self.column_names, _values(run)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        rest = dict(record)
        run_id, base_model = rest.pop("training_run_id"), rest.pop("base_model")
        first = f"{plain_text(run_id)} ({plain_text(base_model)})"
        return [first, *super().plain_lines(rest)]


def _values(run: TrainingRun) -> tuple[Any, ...]:
    """Return the values of the columns :data:`_RUN_COLUMNS`."""
    last: list[Any] = []
    for checkpoint in (run.last_checkpoint, run.last_sampler_checkpoint):
        time = checkpoint.time if checkpoint else None
        last += [checkpoint and checkpoint.tinker_path, Time(time)]
    return (
        run.training_run_id,
        run.base_model,
        run.model_owner,
        Flag(run.is_lora),
        run.lora_rank,
        Flag(run.corrupted),
        Time(run.last_request_time),
        *last,
        Structure(run.user_metadata),
    )
