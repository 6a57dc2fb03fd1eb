"""The dependencies of tinkex are few, with bounded major versions."""

from __future__ import annotations

import ast
import configparser
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
#: What each distribution may need; an addition needs a reason.
ALLOWED = {
    "tinkex": {
        *("cliff", "stevedore", "requests", "PyYAML", "tokenizers", "rich", "prompt_toolkit"),
        *("Jinja2", "urllib3", "wcwidth", "certifi"),
    },
    "tinkex-hello": {"tinkex"},
    "tinkex-http2": {"tinkex", "pyqwest"},
    "tinkex-hub": {"tinkex", "huggingface_hub", "ml_dtypes", "numpy"},
    "tinkex-torch": {"tinkex-local", "numpy", "safetensors", "torch", "transformers"},
    "tinkex-train": {"tinkex", "rich"},
    "tinkex-lab": {"tinkex", "rich", "prompt_toolkit", "Jinja2"},
    "tinkex-local": {
        *("tinkex", "bottle", "msgspec", "numpy", "onnxruntime-genai", "safetensors"),
        *("tokenizers", "waitress"),
    },
}
#: What comes with a dependency whose job it is, in any version that the dependency wants.
BROUGHT = {"autopage": "cliff", "huggingface_hub": "tokenizers"}
#: A list of authorities has no interface that could break: the newest is the best.
NEWEST = {"certifi"}


def requirements(setup_cfg: Path) -> tuple[str, list[Requirement]]:
    config = configparser.ConfigParser(interpolation=None)
    config.read(setup_cfg, encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    return config["metadata"]["name"], [Requirement(line) for line in lines if line.strip()]


NEEDED = dict(requirements(p) for p in (ROOT / "setup.cfg", *ROOT.glob("plugins/*/setup.cfg")))


@pytest.mark.parametrize("name", ALLOWED)
def test_every_dependency_is_wanted_and_bounded_on_both_sides(name: str):
    assert {requirement.name for requirement in NEEDED[name]} == ALLOWED[name]
    for requirement in NEEDED[name]:
        signs = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in signs, f"{requirement}: from which version on?"
        assert signs & {"<", "=="} or requirement.name in NEWEST, f"{requirement}: up to which?"


def test_every_distribution_asks_for_the_same_versions_of_what_they_share():
    assert NEEDED.keys() == ALLOWED.keys()
    wanted: dict[str, set[str]] = {}
    for requirement in (r for needed in NEEDED.values() for r in needed):
        wanted.setdefault(requirement.name.lower(), set()).add(str(requirement.specifier))
    assert {name: found for name, found in wanted.items() if len(found) > 1} == {}


def imported(package: Path) -> set[str]:
    """Return the names of the foreign packages that the modules of *package* import."""
    found: set[str] = set()
    for file in package.rglob("*.py"):
        if "templates" in file.parts or file.name == "_build.py":  # it runs inside setuptools
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {package.name}


def test_what_is_imported_is_asked_for():
    needed = {requirement.name.lower() for requirement in NEEDED["tinkex"]}
    modules = {"yaml": "pyyaml"} | BROUGHT
    missing = {name for name in imported(ROOT / "tinkex") if modules.get(name, name) not in needed}
    assert not missing
