"""Terminal pictures of the manual, made from real output: ``make pictures``.

Each is a session of :mod:`examples` whose output rich draws as SVG. The words in a picture are the
program's; a test holds that they still are.
"""

from __future__ import annotations

import html
import re
import sys
import tempfile
from pathlib import Path

import examples
import rich._export_format
from rich.console import Console
from rich.text import Text

DIRECTORY = examples.ROOT / "doc" / "source" / "pictures"
#: A picture is as wide as the terminal that most readers have.
COLUMNS = examples.COLUMNS

MODEL = "tinkex/baker-street-2M"
#: Name of each picture → what is typed, from top to bottom.
PICTURES = {
    "first-run": (
        f"tinkex checkpoint --base-model {MODEL} --rank 8 --name first --output checkpoint.json",
        "tinkex checkpoint list",
        # Greedy: the same text on every machine.
        f'tinkex run --base-model {MODEL} --prompt "Holmes sat" --max-tokens 24 --temperature 0',
    ),
    "logprobs": (
        f'tinkex run --base-model {MODEL} --prompt "Holmes sat" --max-tokens 24 --temperature 0 '
        "--logprobs",
        f'tinkex -q run --base-model {MODEL} --prompt "Holmes sat" --max-tokens 3 --temperature 0 '
        "--top-logprobs 3",
    ),
    "mistakes": (
        "tinkex checkpoint lst",
        f"tinkex run --base-model {MODEL} --prompt Hello --max-token 30",
        "tinkex --base-url http://127.0.0.1:9 --http-pool default --api-key tml-example run list",
    ),
    "plugin": (
        "tinkex plugin show tinkex-hello -f plain",
        "tinkex note add tinker://run-123/weights/first 'best so far'",
        "tinkex note list",
        "tinkex hello --name Ada -f markdown",
    ),
}

#: Pictures of output whose colours say something.
COLOURED = {"logprobs"}

# rich's own format fetches its font from a content network; the viewer's monospace will do.
_FORMAT = re.sub(
    r"@font-face \{\{.*?\}\}\s*", "", rich._export_format.CONSOLE_SVG_FORMAT, flags=re.S
)
_FORMAT = _FORMAT.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


def transcript(world: examples.World, name: str) -> str:
    """Return what a reader sees who types the commands of the picture *name*."""
    hidden = "export TINKEX_PROFILE=local TINKEX_LOCAL_HOME=$PWD/local\n"
    hidden += "unset TINKER_BASE_URL TINKER_API_KEY"
    if name in COLOURED:
        hidden += " NO_COLOR\nexport CLICOLOR_FORCE=1"
    steps = [examples.Step(0, hidden, hidden=True)]
    steps += [examples.Step(number, line) for number, line in enumerate(PICTURES[name], 1)]
    _, *results = world.session(tuple(steps), f"picture-{name}")
    return "\n".join(f"$ {ran.step.shell}\n{ran.output}" for ran in results).rstrip("\n")


def svg(text: str, name: str) -> str:
    """Return a picture of a terminal with *text* in it."""
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for line in text.splitlines():
            shown = Text.from_ansi(line)
            if line.startswith("$ "):
                shown.stylize("bold")
            console.print(shown, highlight=False, soft_wrap=False)
    return console.export_svg(title="tinkex", code_format=_FORMAT, unique_id=f"tinkex-{name}")


def words(picture: str) -> str:
    """Return the words of the SVG *picture*, a line for each line of the terminal."""
    lines: dict[float, list[tuple[float, str]]] = {}
    pattern = r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>'
    for x, y, cell in re.findall(pattern, picture, re.S):
        lines.setdefault(float(y), []).append((float(x), html.unescape(cell)))
    ordered = ("".join(cell for _, cell in sorted(lines[y])) for y in sorted(lines))
    return "\n".join(line.replace("\xa0", " ").rstrip() for line in ordered)


def normal(text: str) -> str:
    """Return *text* as one line without what differs from run to run, wrapping included."""
    return re.sub(r"\s+", "", examples.normal(re.sub(r"\x1b\[[\d;]*m", "", text)))


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        world = examples.World(Path(scratch))
        for name in sys.argv[1:] or PICTURES:
            (DIRECTORY / f"{name}.svg").write_text(svg(transcript(world, name), name), "utf-8")
            print(DIRECTORY / f"{name}.svg")
