"""Dependencies point one way, and what starts fast stays free of what is slow to import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tinkex

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
    {"cli", "options"},
    {"commands"},
    {"testing", "__main__"},
)
LAYER_OF = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def imports_of(path: Path, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of each import in *path*, those for type checking only left out.

    :param lazy: also those inside functions.
    """
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), lazy)


def _imports(node: ast.AST, lazy: bool) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            module = child.module or ""
            yield module, child.lineno
            yield from ((f"{module}.{alias.name}", child.lineno) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from (found for other in child.orelse for found in _imports(other, lazy))
        elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(child, lazy)


def room(module: str) -> str:
    """Return the part of ``tinkex.<part>…`` that has a layer, or '' for other packages."""
    words = module.split(".")
    if words[0] != "tinkex":
        return ""
    return words[1] if len(words) > 1 and words[1] in LAYER_OF else "__init__"


def dotted(path: Path) -> str:
    words = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def places(found: list[tuple[str, int]], path: Path) -> list[str]:
    return [f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}" for name, line in found]


def test_every_module_has_a_layer():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}

    assert rooms - set(LAYER_OF) == set()


@pytest.mark.parametrize("path", [p for p in MODULES if p != PACKAGE / "__init__.py"], ids=dotted)
def test_a_module_imports_only_its_own_layer_and_those_before_it(path: Path):
    own = LAYER_OF[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]

    wrong = [(name, line) for name, line in imports_of(path) if LAYER_OF.get(room(name), -1) > own]

    assert places(wrong, path) == []


def test_the_package_itself_imports_only_the_version():
    # Its run() imports the application when it is called.
    found = imports_of(PACKAGE / "__init__.py", lazy=False)

    names = {name for name, _ in found if name.startswith("tinkex")}
    assert names == {"tinkex.version", "tinkex.version.__version__"}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p != PACKAGE / "api" / "http" / "adapter.py"], ids=dotted
)
def test_only_the_default_http_pool_imports_requests_and_urllib3(path: Path):
    wrong = [
        (name, line)
        for name, line in imports_of(path)
        if name.partition(".")[0] in ("requests", "urllib3", "http")
        and not name.startswith("http.HTTPStatus")
        and name != "http"
    ]

    assert places(wrong, path) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "api").rglob("*.py")), ids=dotted)
def test_the_api_neither_knows_the_command_line_nor_prints(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = [
        (name, line)
        for name, line in imports_of(path)
        if name.partition(".")[0] in ("cliff", "argparse", "rich", "prompt_toolkit")
    ]
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "input", "sys.exit", "exit")
    ]
    streams = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")
    ]

    assert places(foreign, path) == []
    assert calls == []
    assert streams == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "commands").glob("*.py")), ids=dotted)
def test_commands_import_no_api_module_before_they_run(path: Path):
    found = imports_of(path, lazy=False)

    wrong = [(n, line) for n, line in found if room(n) == "api" or "requests" in n]

    assert places(wrong, path) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_can_be_imported_first(path: Path):
    if path.stem == "_build":
        pytest.importorskip("setuptools")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {dotted(path)}"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


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


def test_the_version_is_told_before_cliff_is_imported():
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
    assert tops - sys.stdlib_module_names - USED_BY_A_LIST == {"tinkex"}
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
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"checkpoints": [CHECKPOINT], "cursor": {"total_count": 1}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
