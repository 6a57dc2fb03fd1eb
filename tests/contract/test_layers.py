"""Modules are imported in one direction only, and fast commands import no slow modules."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinkex
from tests.serving import serving

PACKAGE = Path(tinkex.__file__).resolve().parent
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Rooms and modules directly below tinkex, from the one that all may import to the one that
#: none does; a module imports its own layer and those before it.
LAYERS = (
    {"exceptions", "columns", "files", "version", "_commit", "_build", "__init__"},
    {"plugins"},
    {"config"},
    {"settings"},
    {"api"},
    {"httppools"},
    {"cli", "options"},
    {"commands"},
    {"testing", "__main__"},
)
LAYER_OF = {name: depth for depth, names in enumerate(LAYERS) for name in names}


#: Modules that are imports of requests, or of the HTTP clients below it.
HTTP = ("requests", "urllib3", "http.client")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of each import in *path*, those for type checking included.

    :param lazy: also those inside functions.
    """
    for node in _nodes(tree_of(path), lazy):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in NAMES else str(node.module)), node.lineno


def _nodes(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _nodes(child, lazy)


def dotted(path: Path) -> str:
    words = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


NAMES = {dotted(path): path for path in MODULES}


def layer(module: str) -> int:
    """Return the layer of a module of tinkex, -1 for other packages."""
    words = module.split(".")
    return -1 if words[0] != "tinkex" else LAYER_OF[words[1] if len(words) > 1 else "__init__"]


def faults(paths: Iterable[Path], is_wrong: Callable[[Path, str], bool], **kind: bool) -> list[str]:
    """Return the imports of *paths* that are wrong, as places in the sources."""
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        for path in paths
        for name, line in imports_of(path, **kind)
        if is_wrong(path, name)
    ]


def test_every_module_has_a_layer():
    assert {name.split(".")[1] for name in NAMES if "." in name} - set(LAYER_OF) == set()


def test_a_module_imports_only_its_own_layer_and_those_before_it():
    lazy = PACKAGE / "__init__.py"  # its run() imports the application when it is called

    assert faults(set(MODULES) - {lazy}, lambda p, name: layer(name) > layer(dotted(p))) == []
    found = faults([lazy], lambda _, name: layer(name) > 0, lazy=False)
    assert [fault for fault in found if not _is_for_types(fault)] == []


def test_inside_the_api_requests_are_below_resources_and_the_client_above():
    def depth(name: str) -> int:
        below = ("tinkex.api.http", "tinkex.api.paths")
        above = ("tinkex.api.client",)
        if not name.startswith("tinkex.api."):
            return -1
        return 0 if name.startswith(below) else 2 if name.startswith(above) else 1

    modules = [path for name, path in NAMES.items() if name.startswith("tinkex.api.")]

    assert faults(modules, lambda p, name: depth(name) > depth(dotted(p))) == []
    assert faults(modules, lambda p, name: name == "tinkex.api") == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name: {found for found, _ in imports_of(path) if found in NAMES} - {name}
        for name, path in NAMES.items()
        if name != "tinkex"  # see above
    }

    tuple(TopologicalSorter(graph).static_order())  # a CycleError names them


def test_only_the_default_http_pool_imports_requests_and_urllib3():
    others = set(MODULES) - {PACKAGE / "api" / "http" / "adapter.py"}

    assert faults(others, lambda _, name: name.startswith(HTTP)) == []


def test_the_api_neither_knows_the_command_line_nor_prints():
    modules = sorted((PACKAGE / "api").rglob("*.py"))
    foreign = ("cliff", "argparse", "rich", "prompt_toolkit")
    calls = ("print(", "input(", "sys.exit(", "exit(")

    assert faults(modules, lambda _, name: name.partition(".")[0] in foreign) == []
    for path in modules:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                assert not ast.unparse(node).startswith(calls), path
            elif isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("sys.stdout", "sys.stderr"), path


def test_commands_import_no_api_module_before_they_run():
    modules = sorted((PACKAGE / "commands").glob("*.py"))

    def wrong(path: Path, name: str) -> bool:
        return name.startswith("tinkex.api")

    assert [f for f in faults(modules, wrong, lazy=False) if not _is_for_types(f)] == []


def _is_for_types(fault: str) -> bool:
    """Return whether the import at the place *fault* is for type checking only."""
    place, _, line = fault.partition(" ")[0].rpartition(":")
    tree = tree_of(PACKAGE.parent / place)
    blocks = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    return any(block.lineno < int(line) <= (block.end_lineno or 0) for block in blocks)


SLOW = (
    *("requests", "urllib3", "http.client", "tokenizers", "rich", "prompt_toolkit", "cmd2"),
    *("ast", "dis"),  # of inspect, which dataclasses ask for where one has no docstring
)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["version"], 0),
        (["version", "--json"], 0),
        (["--help"], 0),
        (["checkpoint", "list", "--help"], 0),
        (["help", "run"], 0),
        (["complete"], 0),
        (["complete", "--shell", "fish"], 0),
        (["checkpoint", "list", "--no-such-option"], 1),
        (["no", "such", "command"], 1),
        (["run", "--base-model", "m"], 1),
        (["checkpoint", "--base-model", "m"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_service_imports_nothing_slow(words: list[str], code: int):
    modules = modules_after(words, code)

    assert [name for name in SLOW if name in modules] == []


def test_the_version_is_printed_before_cliff_is_imported():
    slow = {"cliff", "stevedore", "argparse", "json", "importlib.metadata", "typing"}

    assert slow & modules_after(["--version"], 0) == set()


def test_entry_points_are_found_without_a_cache(listing_server: str, tmp_path: Path):
    words = ["checkpoint", "list", "-f", "json", "--base-url", listing_server, "--api-key", "tml-x"]

    modules_after(words, 0, XDG_CACHE_HOME=str(tmp_path))

    assert not (tmp_path / "python-entrypoints").exists()


#: Distributions that it imports something of.
USED_BY_A_LIST = {
    *("cliff", "stevedore", "autopage"),
    *("requests", "urllib3", "certifi", "charset_normalizer", "idna"),
}
#: Parts of the standard library, each of which takes as long as a command of its own.
HEAVY = (
    *("yaml", "prettytable", "rich", "cmd2", "prompt_toolkit", "tokenizers"),
    *("asyncio", "concurrent", "configparser", "ctypes", "decimal", "doctest", "html", "pydoc"),
    *("multiprocessing", "sqlite3", "statistics", "tarfile", "unittest", "xml", "zipimport"),
)


def test_a_list_imports_nothing_heavy_that_it_does_not_need(listing_server: str):
    words = ["checkpoint", "list", "-f", "json", "--base-url", listing_server, "--api-key", "tml-x"]

    modules = modules_after(words, 0)

    tops = {name.partition(".")[0] for name in modules}
    # The example plugin has a hook on this command.
    assert tops - sys.stdlib_module_names - USED_BY_A_LIST - {"tinkex_hello"} == {"tinkex"}
    assert tops & set(HEAVY) == set()


@pytest.mark.parametrize(
    "words",
    [["checkpoint", "list"], ["run", "--base-model", "M", "--prompt", "x"], ["run", "list"]],
)
def test_the_embedded_service_is_called_without_requests(words: list[str], tmp_path: Path):
    models = pytest.importorskip("tinkex_local.state.models")
    words = [models.DEFAULT_MODEL if word == "M" else word for word in words]
    limit = ["--max-tokens", "3"] if "--prompt" in words else []

    home = str(tmp_path / "service")
    modules = modules_after(["--profile", "local", *words, *limit], 0, TINKEX_LOCAL_HOME=home)

    assert {"tinkex_local.wire.wsgi"} <= modules
    assert {"requests", "urllib3"} & modules == set()


@pytest.fixture
def listing_server() -> Iterator[str]:
    answer = {"checkpoints": [CHECKPOINT], "cursor": {"total_count": 1}}
    with serving(lambda _: answer) as url:
        yield url


CHECKPOINT = {
    "checkpoint_id": "sampler_weights/final",
    "checkpoint_type": "sampler",
    "time": "2026-01-01T00:00:00Z",
    "tinker_path": "tinker://run-1/sampler_weights/final",
}


def modules_after(words: list[str], code: int, **environ: str) -> set[str]:
    """Return the modules that are imported when the program runs *words*."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"  # an editable installation brings some
        "from tinkex.__main__ import main\n"
        f"sys.argv = ['tinkex', *{words!r}]\n"
        "code = main()\n"
        "names = sorted(set(sys.modules) - before)\n"
        "import json\n"
        "sys.stderr.write('\\n' + json.dumps([code, names]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=os.environ | environ,
    )
    assert done.returncode == 0, done.stderr
    found_code, names = json.loads(done.stderr.rsplit("\n", 1)[1])
    assert found_code == code, done.stderr
    return set(names)
