"""The manual documents every command, option and variable, and none that does not exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cliff
import pytest
import requests

import tinkex.api
from tinkex import exceptions, plugins, settings
from tinkex.cli import app as shell
from tinkex.cli.app import TinkexApp
from tinkex.config import file, values
from tinkex.exceptions import TinkexError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "doc" / "source"
TEXTS = [*SOURCE.rglob("*.rst"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXTS += ROOT.glob("plugins/*/README.md")


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the pages of the manual as plain text, as Sphinx makes them."""
    out = tmp_path_factory.mktemp("manual")
    environ = os.environ | {"XDG_CACHE_HOME": str(out / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "text", str(SOURCE), str(out / "text")],
        capture_output=True,
        text=True,
        timeout=600,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    pages = (out / "text").rglob("*.txt")
    return {p.relative_to(out / "text").with_suffix("").as_posix(): p.read_text() for p in pages}


@pytest.fixture(scope="module")
def app() -> Iterator[TinkexApp]:
    """Return the application without the example plugin, as the manual describes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.ONLY, "tinkex-local,tinkex-hub,tinkex-train,tinkex-lab")
        yield TinkexApp()


def parser_of(app: TinkexApp, name: str):
    command = app.command_manager.commands[name].load()
    return command(app, None, name).with_hooks(name)


def source(page: str) -> str:
    return (SOURCE / "reference" / f"{page}.rst").read_text(encoding="utf-8")


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


@pytest.fixture(scope="module")
def options_of(app: TinkexApp) -> dict[str, list[str]]:
    """Return the options of each command."""
    return {name: parser_of(app, name).option_strings() for name in app.command_manager.commands}


def test_every_command_has_a_section_with_its_options(
    manual: dict[str, str], options_of: dict[str, list[str]]
):
    shared = source("settings") + source("formats")  # as text, tables wrap at hyphens
    missing = []
    for name, options in options_of.items():
        section = _section(manual.get(f"reference/cli/{name.split()[0]}", ""), name)
        missing += [name] if not section else []
        missing += [f"{name} {o}" for o in options if not has_word(section + shared, o)]
    assert missing == []


def _section(page: str, title: str) -> str:
    """Return the text below the heading *title*, up to the next heading of its kind."""
    for line, ends in (("=", "="), ("-", "-*=")):
        heading = rf"^{re.escape(title)}\n{line}+\n"
        match = re.search(rf"(?ms){heading}(.*?)(?=^\S[^\n]*\n[{ends}]+\n|\Z)", page)
        if match:
            return match[1]
    return ""


def test_the_pages_of_commands_have_neither_global_options_nor_the_example_plugin(
    manual: dict[str, str], app: TinkexApp
):
    shared = {*app.parser.option_strings(), *parser_of(app, "version").option_strings()}
    pages = {name: text for name, text in manual.items() if name.startswith("reference/cli/")}
    entries = re.findall(r"(?m)^((?:--?[\w-]+(?: <\S+>)?(?:, )?)+)$", "\n".join(pages.values()))
    options = set(re.findall(r"(?<![\w-])--?\w[\w-]*", " ".join(entries)))

    assert {"--base-model", "-o", "--paginate"} <= options
    assert sorted(options & shared) == []
    assert "reference/cli/hello" not in pages


def test_the_list_of_commands_has_a_line_for_each_noun(manual: dict[str, str], app: TinkexApp):
    listed = re.findall(r"(?m)^\* (\w+): \w.*\n\n", manual["reference/cli/index"])

    assert sorted(listed) == sorted({name.split()[0] for name in app.command_manager.commands})


def test_every_global_option_and_setting_is_described(app: TinkexApp):
    names = [
        *values.ENVIRONMENT.values(),
        file.CONFIG_VARIABLE,
        plugins.ONLY,
        "TINKEX_LOCAL_HOME",
        *values.PROFILE_KEYS,
        values.DEFAULT_BASE_URL,
        f"{settings.DEFAULT_TIMEOUT * 1000:.0f}",
    ]
    text = source("settings")

    assert [name for name in names if name not in text] == []
    text += source("formats")
    assert [option for option in app.parser.option_strings() if not has_word(text, option)] == []


def first_cells(page: str, pattern: str = r"``([^`]+)``") -> set[str]:
    """Return the literals in the first cells of the rows of all tables of *page*."""
    cells = re.findall(r"(?m)^   \* - (.*(?:\n       .*)*)", source(page))
    return {literal for cell in cells for literal in re.findall(pattern, cell)}


def test_tables_list_what_there_is_and_nothing_else(manual: dict[str, str], app: TinkexApp):
    codes = {value for name, value in vars(shell).items() if name.startswith("EXIT_")}
    listed = set(map(int, re.findall(r"^\| (\d+) ", manual["reference/exit-codes"], re.M)))
    assert listed == codes

    groups = {name.removesuffix(".<noun_verb>") for name in first_cells("entry-points")}
    assert groups == set(plugins.GROUPS)

    rows = re.findall(r"(?m)^   \* - .*\n((?:     - .*\n){4})", source("settings"))
    keys = {key for row in rows for key in re.findall(r"``(\w+)``", row.splitlines()[2])}
    assert keys == set(settings.PROFILE_KEYS)

    formats = {
        ep.name
        for group in (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
        for ep in plugins.entry_points(group)
        if plugins.is_builtin(ep)
    }
    assert first_cells("formats", r"^``([a-z]+)``") == formats

    commands = app.command_manager.commands.values()
    fields = {name for c in commands for name in getattr(c.load(), "column_names", ())}
    assert first_cells("shapes") == fields


#: Where a variable that is not read here is read: libraries, which the manual may speak of.
LIBRARIES = (cliff, requests)
VARIABLE = r"\b(?:TINKER|TINKEX)_[A-Z_]+\b"


def code_of(*packages: Path) -> str:
    files = [path for package in packages for path in package.rglob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture(scope="module")
def code() -> str:
    return code_of(ROOT / "tinkex", *ROOT.glob("plugins/*/tinkex_*"))


def test_every_environment_variable_is_described(code: str):
    read = set(re.findall(VARIABLE, code))
    read |= set(re.findall(r"(?:environ(?:\.get)?|getenv)[\[(]\"([A-Z_]+)\"", code))
    # The home directory, what a WSGI server sets, and a default that silences a library.
    read -= {"HOME", "USERPROFILE", "HTTP_HOST", "HTTP_X_API_KEY", "PATH_INFO", "QUERY_STRING"}
    read -= {"ORT_DISABLE_TELEMETRY"}

    assert sorted(name for name in read if not has_word(source("settings"), name)) == []


def test_no_environment_variable_is_described_that_nobody_reads(code: str):
    named = set(re.findall(r"``([A-Z]+_[A-Z_]+|PAGER|TERM)``", source("settings")))
    for path in TEXTS:
        named |= set(re.findall(VARIABLE, path.read_text(encoding="utf-8")))
    code += code_of(*(Path(str(library.__file__)).parent for library in LIBRARIES))

    # Proxies are read by a pattern: <scheme>_proxy.
    read = {name for name in named if name in code or name.lower().removesuffix("_proxy") in code}
    assert named - read == set()


#: An option of another program that the manual speaks of, and twice the same letter.
FOREIGN_OPTIONS = {"--max-lora-rank", "-vv"}


def test_every_option_in_a_sentence_exists(app: TinkexApp, options_of: dict[str, list[str]]):
    known = {*app.parser.option_strings(), *FOREIGN_OPTIONS}.union(*options_of.values())
    wrong = [
        f"{path.name}: {option}"
        for path in SOURCE.rglob("*.rst")
        for literal in re.findall(r"``(-[^`]+)``", path.read_text(encoding="utf-8"))
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", literal)
        if option not in known
    ]

    assert wrong == []


def test_every_public_name_of_the_sdk_is_described(manual: dict[str, str]):
    text = manual["reference/python-api"]
    errors = [
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, TinkexError)
    ]
    names = [*tinkex.api.__all__, *errors]

    assert [name for name in names if not has_word(text, name)] == []


def test_the_architecture_has_every_room():
    text = (SOURCE / "explanation" / "architecture.rst").read_text(encoding="utf-8")
    package = Path(tinkex.api.__file__).parents[1]
    rooms = {path.parent.relative_to(package).as_posix() for path in package.rglob("*.py")}

    assert [room for room in sorted(rooms - {".", "api"}) if f"``{room}" not in text] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_in_a_sentence_exists(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those in blocks are run: tests/functional/test_documented_examples."""
    monkeypatch.delenv(plugins.ONLY, raising=False)
    app, wrong = TinkexApp(), []
    for words in re.findall(r"`tinkex((?: [a-z][a-z-]*)+)`", path.read_text(encoding="utf-8")):
        try:
            app.command_manager.find_command(words.split())
        except TinkexError as error:
            wrong.append(f"tinkex{words}: {error}")

    assert wrong == []


@pytest.mark.parametrize("page", ["README.md", "doc/source/tutorial/first-run.rst"])
def test_tinkex_is_installed_into_a_virtual_environment(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(
        r"python3 -m venv (\S+)\n *(?:\$ )?\. \1/bin/activate\n *(?:\$ )?pip install", text
    )

    assert found
    assert re.search("local service (?:adds|takes) 200 MB", text)


def test_make_says_what_it_builds():
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.stamp", "docs"], capture_output=True, text=True, cwd=ROOT
    )

    assert "building the manual with Sphinx" in done.stdout
    assert "doc/build/html/index.html" in done.stdout
