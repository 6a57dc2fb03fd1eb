"""Generate samples from several models for the same prompts, and show them side by side."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinkex.columns import plain_text
from tinkex.commands.base import Lister
from tinkex.commands.batch import BatchRun
from tinkex.commands.batch_prompts import PromptSource
from tinkex.commands.sampling import (
    add_chat_options,
    add_sampling_options,
    checked_model,
    sampling_params,
)
from tinkex.exceptions import LocalError, OperationFailed, UsageError
from tinkex.files import check_writable, user_path, write_atomically
from tinkex.options import integer
from tinkex_lab.comparison import Comparison, Model, join
from tinkex_lab.models import add_models, given_models
from tinkex_lab.results import ResultRow, read_results


class Compare(Lister):
    """Compare several models' samples for the same prompts."""

    is_action = True  # it samples, which costs money
    notes = (
        "Every model gets the same prompts, parameters and seed. With --output, tinkex "
        "writes each model's results to a file in 'run batch' format, which 'grade' can read."
    )
    column_names = (
        *("id", "prompt", "sample", "model", "text", "stop_reason", "avg_logprob", "token_count"),
    )
    examples = (
        "tinkex compare prompts.txt --base-model Qwen/Qwen3-8B --model-path @latest",
        "tinkex compare in.jsonl --model-path @a --model-path @b -o out --html ab.html",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "prompts",
            metavar="<prompts>",
            help="file or directory with prompts, in any format that 'run batch' reads",
        )
        add_models(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar="<dir>",
            help="directory for the results, one file per model; required for --resume and --force",
        )
        parser.add_argument("--html", metavar="<path>", help="HTML file to write the comparison to")
        parser.add_argument(
            "--resume", action="store_true", help="resume an interrupted comparison"
        )
        parser.add_argument("--force", action="store_true", help="replace existing results")
        parser.add_argument(
            "--concurrency",
            metavar="<int>",
            type=integer(1, 256),
            help="number of concurrent requests, at most 256 (default: adapted to the service)",
        )
        add_chat_options(parser)
        add_sampling_options(parser, seed=0)

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._failed = False
        return super().run(parsed_args) or int(self._failed)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        self._check(parsed_args)
        models = given_models(parsed_args, at_least=2)
        chosen = [checked_model(self, options, "compare") for _, options in models]
        compared = [
            Model(label, path or base or "")
            for (label, _), (path, base) in zip(models, chosen, strict=True)
        ]
        prompts = self._prompts(parsed_args)
        with _directory(parsed_args.output) as directory:
            files = [directory / f"{name}.jsonl" for name in _file_names(compared)]
            _check_new(files, parsed_args)
            _ = self.client  # a missing key is reported before a status line
            for model, (path, base), file in zip(compared, chosen, files, strict=True):
                self.status(f"Sampling from {model.label}...")
                self._failed |= self._sample(parsed_args, path, base, file)
            results = [{row.index: row for row in _results(file)} for file in files]
        if not any(results):
            raise OperationFailed(
                "all prompts failed", hint="See the messages above for the reasons."
            )
        self.result = join(compared, prompts, results)
        if parsed_args.html is not None:
            from tinkex_lab.display import page

            title = f"Comparison of {len(models)} models on {parsed_args.prompts}"
            given = vars(sampling_params(parsed_args)).items()
            params = ", ".join(f"{k} = {json.dumps(v)}" for k, v in given if v not in (None, ()))
            note = f"Parameters, unless a prompt overrides them: {params}."
            write_atomically(parsed_args.html, page(self.result, title, note))
            self.status(f"Comparison written to {parsed_args.html}")
        return self.column_names, list(_rows(self.result))

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        plain = parsed_args.formatter == "plain" and not parsed_args.columns
        if not plain or not self.app.stdout.isatty():
            return super().produce_output(parsed_args, column_names, data)
        from tinkex_lab.display import print_comparison

        print_comparison(self.result, self.app.stdout)
        return 0

    def plain_row(self, record: Mapping[str, Any]) -> str:
        fields = (record[name] for name in ("id", "sample", "model", "avg_logprob"))
        # A line break would end the line; a JSON string has none.
        text = "" if record["text"] is None else json.dumps(record["text"], ensure_ascii=False)
        return "\t".join([*map(plain_text, fields), plain_text(text)])

    def _check(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.prompts == "-":
            raise UsageError(
                "the prompts cannot come from standard input, because compare reads them once for "
                "each model",
                hint="Write the prompts to a file first.",
            )
        if parsed_args.resume and parsed_args.force:
            raise UsageError("use either --resume or --force")
        if parsed_args.output is None and (parsed_args.resume or parsed_args.force):
            option = "--resume" if parsed_args.resume else "--force"
            raise UsageError(f"{option} requires --output", hint="For example: --output results")
        if parsed_args.html is not None:
            check_writable(parsed_args.html, parsed_args.prompts)

    def _prompts(self, parsed_args: argparse.Namespace) -> list[tuple[int, str, Any]]:
        params, chat = sampling_params(parsed_args), parsed_args.chat
        source = PromptSource(
            parsed_args.prompts,
            None,
            params,
            parsed_args.num_samples,
            chat=chat,
            system=parsed_args.system,
        )
        try:
            return [(row.index, row.id, row.prompt) for row in source]
        finally:
            source.close()

    def _sample(
        self,
        parsed_args: argparse.Namespace,
        model_path: str | None,
        base_model: str | None,
        file: Path,
    ) -> bool:
        """Sample from one model, or resume sampling; return whether any row failed."""
        app: Any = self.app
        batch = BatchRun(app, self.app_args, self.cmd_name)
        batch.is_temporary = parsed_args.output is None
        options = batch.get_parser("").parse_args(["prompts"])
        for name in vars(options).keys() & vars(parsed_args).keys():
            setattr(options, name, getattr(parsed_args, name))
        options.model_path, options.base_model = model_path, base_model
        options.output = str(file)
        return bool(batch.take_action(options))


def _rows(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    for prompt in comparison.prompts:
        for number, samples in prompt.numbered():
            for model, sample in zip(comparison.models, samples, strict=True):
                if sample is not None:
                    yield (
                        *(prompt.id, prompt.text, number, model.name, sample.text),
                        *(sample.stop_reason, sample.avg_logprob, sample.token_count),
                    )


@contextmanager
def _directory(output: str | None) -> Iterator[Path]:
    """Yield the directory *output*, or a temporary one without *output*."""
    if output is not None:
        yield user_path(output)
        return
    try:
        directory = tempfile.TemporaryDirectory(prefix="tinkex-lab-")
    except OSError as error:
        raise LocalError(
            f"cannot create a temporary directory: {error.strerror}",
            hint="Specify a directory with --output.",
        ) from error
    with directory as name:
        yield Path(name)


def _file_names(models: Sequence[Model]) -> list[str]:
    """Return a file name for each model, independent of the other models.

    :raises UsageError: two of *models* are the same.
    """
    names = [re.sub(r"[^\w.-]+", "-", model.name.removeprefix("tinker://")) for model in models]
    for number, name in enumerate(names):
        if name in names[:number]:
            first = models[names.index(name)].label
            raise UsageError(
                f"{first} and {models[number].label} are the same model",
                hint="Remove one of the two options.",
            )
    return [name.strip("-.")[:200] or "model" for name in names]


def _check_new(files: Sequence[Path], parsed_args: argparse.Namespace) -> None:
    if parsed_args.resume or parsed_args.force:
        return
    if existing := next((file for file in files if file.exists()), None):
        raise UsageError(
            f"{existing} already exists",
            hint="To continue, add --resume. To start over, add --force.",
        )


def _results(file: Path) -> Iterator[ResultRow]:
    if file.stat().st_size:  # all rows may have failed
        yield from read_results(str(file))
