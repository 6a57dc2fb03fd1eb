"""Measures the code against the budgets it is held to, and its words against the word list.

``make lint`` prints the table. ``--check`` fails where a budget is exceeded; ``--all`` shows every
finding instead of the first few.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Words that are no plain technical English.
WORDS = re.compile(
    r"\b(told|tells|whoever|nobody|somebody|anew|shall|gone\s+on\s+with|to\s+be\s+had|"
    r"what\s+there\s+is|is\s+wanted)\b",
    re.IGNORECASE,
)
#: Lines of the package and of the tests. What is new may raise them; what is written again may not.
LINES, TESTS = 29_050, 39_500
MODULES, ROOM, COMMANDS, MODULE, FUNCTION, LOCAL = 110, 14, 27, 600, 40, 6_900
_MADE = {"_commit.py"}

Finding = tuple[str, int | str]


def python_files(*places: str) -> list[Path]:
    """Return the Python files below *places*, generated ones left out."""
    found = {path for place in places for path in ROOT.glob(f"{place}/**/*.py")}
    return sorted(
        path
        for path in found
        if path.name not in _MADE and not {"build", "templates"} & set(path.parts)
    )


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------ sizes


def rooms(files: Iterable[Path]) -> Counter[str]:
    """Return how many modules each directory has; its ``__init__`` is no module of its own."""
    return Counter(named(path.parent) for path in files if path.name != "__init__.py")


def function_lengths(path: Path) -> Iterator[Finding]:
    """Yield each function with its lines, those of its docstring left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                length -= (text.end_lineno or text.lineno) - text.lineno + 1
            yield f"{named(path)}:{node.lineno} {node.name}", length


# ------------------------------------------------------------------ imports


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    """Yield module and name of every import, also of those for types and inside functions."""
    package = (
        module_name(path) if path.name == "__init__.py" else module_name(path.parent / "x")[:-2]
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: 1 - node.level or None], *filter(None, [base])]
                )
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if whole in known:
                    yield whole, ""
                elif base in known:
                    yield base, alias.name


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return found


# ------------------------------------------------------------------ words


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of the strings and comments of Python code, or the whole of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] in ("STRING", "COMMENT", "FSTRING_MIDDLE"):
            yield token.start[0], token.string


def listed_words() -> Iterator[Finding]:
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("doc/source/**/*.rst"),
        *ROOT.glob("plugins/*/README.md"),
    ]
    code = python_files("tinkex", "plugins", "tests", "benchmarks", "doc")
    templates = [path for path in ROOT.glob("tinkex/templates/**/*") if path.is_file()]
    for path in [*code, *pages, *templates]:
        if "build" in path.parts or path.suffix == ".pyc":
            continue
        for line, text in prose(path):
            for match in WORDS.finditer(text):
                yield f"{named(path)}:{line + text.count(chr(10), 0, match.start())}", match[0]


# ------------------------------------------------------------------ the table


def measure() -> Iterator[tuple[str, int, int, list[Finding]]]:
    """Yield what is measured, how much of it there is, the budget, and where."""
    ours = python_files("tinkex")
    yield "lines of tinkex/", sum(map(line_count, ours)), LINES, []
    yield "modules of tinkex/", len([p for p in ours if p.name != "__init__.py"]), MODULES, []
    counts = rooms(ours)
    commands = counts.pop("tinkex/commands")
    yield "modules of commands/", commands, COMMANDS, []
    yield from (("modules of the largest other room", *most(counts.items(), ROOM)),)
    sizes = [(named(path), line_count(path)) for path in ours]
    yield ("lines of the longest module", *most(sizes, MODULE))
    lengths = [found for path in ours for found in function_lengths(path)]
    yield ("lines of the longest function", *most(lengths, FUNCTION))
    known = {module_name(path) for path in ours}
    imports = {module_name(path): set(imported(path, known)) for path in ours}
    graph = defaultdict(set, {name: {m for m, _ in found} for name, found in imports.items()})
    groups = circles(graph)
    yield "circles of imports", len(groups), 0, [(" ".join(group), len(group)) for group in groups]
    private = [
        (f"{name}: {module}.{what}", 1)
        for name, found in imports.items()
        for module, what in found
        if what.startswith("_") and not what.startswith("__")
    ]
    yield "private names of other modules", len(private), 0, private
    tests = python_files("tests", "plugins/*/tests")
    yield "lines of tests", sum(map(line_count, tests)), TESTS, []
    local = python_files("plugins/tinkex-local/tinkex_local")
    yield "lines of tinkex-local", sum(map(line_count, local)), LOCAL, []
    words = list(listed_words())
    yield "words of the word list", len(words), 0, words


def most(found: Iterable[Finding], budget: int) -> tuple[int, int, list[Finding]]:
    """Return the highest number, the budget, and what is above it."""
    ordered = sorted(found, key=lambda each: -int(each[1]))
    return int(ordered[0][1]), budget, [each for each in ordered if int(each[1]) > budget]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a budget is exceeded")
    parser.add_argument("--all", action="store_true", help="show every finding")
    options = parser.parse_args()
    exceeded = 0
    for what, value, budget, findings in measure():
        over = value > budget
        exceeded += over
        print(f"  {what:34} {value:7,} of {budget:6,}{'  EXCEEDED' if over else ''}")
        for place, found in (findings if options.all else findings[:3]) if over else ():
            print(f"    {place}: {found}")
        if over and len(findings) > 3 and not options.all:
            print(f"    and {len(findings) - 3} more: python .ci/house.py --all")
    return 1 if exceeded and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
