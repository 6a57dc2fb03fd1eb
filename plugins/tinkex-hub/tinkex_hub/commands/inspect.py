"""The command ``checkpoint inspect``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from tinkex.columns import Size, heading, plain_text, printable
from tinkex.commands.arguments import checkpoint_path
from tinkex.commands.base import ShowOne
from tinkex_hub.commands import sources

if TYPE_CHECKING:
    from tinkex_hub.lora import Adapter
    from tinkex_hub.norms import Kind

#: Maximum width of a line, so that a table fits 80 columns.
_WIDTH = 60
_LOADS = {
    "all": "loads all tensors",
    "part": "loads some tensors",
    "nothing": "does not load the adapter",
}


class InspectCheckpoint(ShowOne):
    """Show an adapter's modules and PEFT compatibility."""

    column_names = (
        "source", "base_model", "lora_rank", "lora_alpha", "dtype", "parameters", "size_bytes",
        "modules", "update_norm", "untrained", "peft", "vllm",
    )  # fmt: skip
    examples = (
        "tinkex checkpoint inspect ./final",
        "tinkex checkpoint inspect run-123:final -f json",
        "tinkex checkpoint inspect run-123:final --norms",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        sources.add_source(parser)
        parser.add_argument(
            "--norms",
            action="store_true",
            help="also compute update norms for a checkpoint on the service (reads the entire "
            "checkpoint); for a directory, they are always computed",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        source = parsed_args.source
        with ExitStack() as stack:
            directory = sources.directory_of(self, source)
            if directory is not None:
                adapter, base_model = sources.open_adapter(directory, source, stack), None
            else:
                source = checkpoint_path(self, source)
                base_model = sources.base_model_of(self, source)
                adapter = sources.open_remote(self, source, stack)
            self.result = self._described(
                adapter, with_norms=directory is not None or parsed_args.norms
            )
        self.result |= {"source": source, "base_model": base_model or adapter.base_model}
        shown = {
            "size_bytes": Size,
            "modules": _Modules,
            "update_norm": _Norm,
            "untrained": _Names,
            "peft": _Verdict,
            "vllm": _Verdict,
        }
        return self.column_names, tuple(
            shown[name](self.result[name]) if name in shown else self.result[name]
            for name in self.column_names
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        lines = []
        for name, value in record.items():
            is_text = isinstance(value, (_Modules, _Names, _Norm, _Verdict))
            text = value.human_readable() if is_text else plain_text(value)
            if text:
                between = "\n" if isinstance(value, _Modules) else " "
                lines.append(f"{heading(name)}:{between}{text}".replace("\n", "\n  "))
        return lines

    def _described(self, adapter: Adapter, *, with_norms: bool) -> dict[str, Any]:
        from tinkex_hub import loaders, norms

        found = norms.kinds(adapter)
        values = {kind.module: norms.norms(adapter, kind) for kind in found} if with_norms else {}
        squares = [value**2 for each in values.values() for value in each]
        infos = adapter.weights.tensors.values()
        return {
            "lora_rank": adapter.rank,
            "lora_alpha": adapter.alpha,
            "dtype": ", ".join(sorted({info.dtype for info in infos})),
            "parameters": sum(info.count for info in infos),
            "size_bytes": adapter.weights.size,
            "modules": [_module(kind, values.get(kind.module)) for kind in found],
            "update_norm": sum(squares) ** 0.5 if with_norms else None,
            "untrained": _untrained(found, values),
            "peft": vars(loaders.in_peft(adapter)),
            "vllm": vars(loaders.in_vllm(adapter)),
        }


def _untrained(found: list[Kind], values: Mapping[str, list[float]]) -> list[str]:
    """Return the parts of the model that the adapter lacks, and modules that have no effect."""
    parts = {"attention": "attn", "MLP": "mlp", "output layer": "lm_head", "": "unembed_tokens"}
    has = {name: any(word in kind.module for kind in found) for name, word in parts.items()}
    has["output layer"] |= has.pop("")
    absent = [name for name, is_there in has.items() if not is_there]
    return absent + [name for name, each in values.items() if not any(each)]


def _module(kind: Kind, values: list[float] | None) -> dict[str, Any]:
    outputs, inputs = kind.first.shape
    return {
        "module": kind.module,
        "layers": kind.layers,
        "shape": [outputs, inputs],
        "experts": kind.experts or None,
        "rank": kind.first.rank,
        "parameters": kind.parameters,
        "norms": values,
    }


class _Modules(FormattableColumn[list[dict[str, Any]]]):
    """The kinds of modules, displayed as one line each."""

    def human_readable(self) -> str:
        rows = [[printable(cell) for cell in self._cells(module)] for module in self._value]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    @staticmethod
    def _cells(module: Mapping[str, Any]) -> Iterator[str]:
        from tinkex_hub.norms import sparkline

        layers, values = module["layers"], module["norms"]
        yield module["module"]
        yield f"{len(layers)} layers" if len(layers) > 1 else "1 layer" if layers else ""
        shape = "{1} → {0}".format(*module["shape"])
        yield f"{module['experts']} × {shape}" if module["experts"] else shape
        if values is None:
            yield ""
        else:
            norm = sum(value**2 for value in values) ** 0.5
            line = sparkline(values, 16) if len(values) > 1 else ""
            yield f"{norm:.3g} {line}".rstrip() if norm else "untrained"


class _Names(FormattableColumn[list[str]]):
    """Names, displayed as text."""

    def human_readable(self) -> str:
        return "\n".join(textwrap.wrap(", ".join(map(printable, self._value)), _WIDTH))


class _Norm(FormattableColumn[float | None]):
    """A number, displayed with three digits."""

    def human_readable(self) -> str:
        return "" if self._value is None else f"{self._value:.3g}"


class _Verdict(FormattableColumn[Mapping[str, Any]]):
    """What a program does with the adapter, displayed as sentences."""

    def human_readable(self) -> str:
        texts = [_LOADS[self._value["loads"]], *map(printable, self._value["reasons"])]
        wrapped = (textwrap.wrap(text, _WIDTH, subsequent_indent="  ") for text in texts)
        return "\n".join(line for lines in wrapped for line in lines)
