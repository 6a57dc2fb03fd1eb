"""Model cards that describe an adapter and its checkpoint."""

from __future__ import annotations

import json
import re

from tinkex.api import CheckpointInfo, TinkerPath

NAME = "README.md"
#: How the tensors of the repository were made.
RAW = "The tensors are exactly as the training service saved them."
CONVERTED = (
    "tinkex converted the tensors to the names and shapes that PEFT expects, and checked them "
    "against the base model."
)
UNCHECKED = (
    "tinkex converted the tensors to the names that PEFT expects, without checking them against "
    "the base model."
)
_CONVERT = [
    "## Usage",
    "",
    "PEFT and vLLM cannot load some of the tensors, because their names differ from those that",
    "PEFT expects. To convert the adapter, download this repository to a directory DIR, and run",
    "`tinkex checkpoint export DIR --to peft --output OUT`.",
    "",
]
_PARTS = {"train_attn": "attention", "train_mlp": "MLP", "train_unembed": "unembedding"}


def build(
    path: TinkerPath,
    repo: str,
    base_model: str | None,
    info: CheckpointInfo | None,
    *,
    is_peft: bool = True,
    origin: str = RAW,
) -> str:
    """Return the model card of the checkpoint *path*.

    Its front matter has only keys that the hub defines; the path is in the text.

    :param repo: the repository with its owner, for the usage example.
    :param is_peft: whether PEFT loads all tensors; otherwise the card explains how to convert them.
    :param origin: how the tensors were made: :data:`RAW`, :data:`CONVERTED` or :data:`UNCHECKED`.
    """
    usage = _usage(repo, base_model) if is_peft and base_model else []
    usage = usage if is_peft else _CONVERT
    return f"{_head(base_model)}\n{_text(path, base_model, info, usage, origin)}"


def path_in(text: str) -> str | None:
    """Return the checkpoint path in the model card *text*, or ``None``.

    Cards of the official command line are supported.
    """
    found = re.search(r"tinker://[^\s`'\"<>)]+", text)
    return found[0].rstrip(".,;") if found else None


def _head(base_model: str | None) -> str:
    tags = ["tinker", "peft", "lora"]
    lines = ["---"]
    if base_model:
        # A JSON string is a valid YAML string.
        lines.append(f"base_model: {json.dumps(base_model)}")
        tags.append(f"base_model:adapter:{base_model}")
    lines += ["library_name: peft", "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---", ""]
    return "\n".join(lines)


def _text(
    path: TinkerPath,
    base_model: str | None,
    info: CheckpointInfo | None,
    usage: list[str],
    origin: str,
) -> str:
    lines = ["# LoRA adapter trained with Tinker", ""]
    if base_model:
        lines += [f"An adapter for `{base_model}`.", ""]
    lines += usage
    lines += ["## Source", "", f"```\n{path}\n```", "", origin, "", *_details(info)]
    return "\n".join(lines)


def _usage(repo: str, base_model: str) -> list[str]:
    return [
        "## Usage",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(base_model)})",
        f"model = PeftModel.from_pretrained(model, {json.dumps(repo)})",
        "```",
        "",
    ]


def _details(info: CheckpointInfo | None) -> list[str]:
    known = {name: getattr(info, name, None) for name in _PARTS}
    trained = [words for name, words in _PARTS.items() if known[name]]
    lines = []
    if info is not None and info.lora_rank is not None:
        lines.append(f"- LoRA rank: {info.lora_rank}")
    if trained:
        lines.append(f"- Trained layers: {', '.join(trained)}")
    return ["## Details", "", *lines, ""] if lines else []
