"""Deferred imports, signals, and the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    search = "import sys\n" + "".join(f"sys.path.insert(0, {str(path)!r})\n" for path in paths)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", search + script],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    home = tmp_path / "parcel"
    home.mkdir()
    (home / "version.py").write_text("__version__ = '1.2.3'\n")
    (home / "inner.py").write_text("from . import weight\nheavy = weight * 2\n")
    (home / "__init__.py").write_text(
        "print('running')\nweight = 21\nfrom .version import __version__\n"
    )
    return tmp_path


DEFER = "from tinkex.cli.startup import defer\ndefer('parcel', version_in='version')\n"


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("import parcel", []),
        ("import parcel; print(parcel.__version__)", ["1.2.3"]),
        ("from parcel import __version__ as v; print(v)", ["1.2.3"]),
        ("import parcel; print(parcel.weight)", ["running", "21"]),
        ("import parcel; print(parcel.weight, parcel.weight)", ["running", "21 21"]),
        ("from parcel import weight; print(weight)", ["running", "21"]),
        ("from parcel.inner import heavy; print(heavy)", ["running", "42"]),
        ("import parcel; print(hasattr(parcel, 'nothing'))", ["running", "False"]),
        ("import parcel; parcel.weight; print(type(parcel).__name__)", ["running", "module"]),
    ],
)
def test_a_package_runs_when_an_attribute_is_used(package: Path, use: str, said: list[str]):
    done = run(DEFER + use, package)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said


def test_a_package_that_fails_fails_each_time_it_is_used(package: Path):
    (package / "parcel" / "__init__.py").write_text("raise ValueError('broken')\n")
    use = (
        "import parcel\nfor _ in range(2):\n"
        " try: parcel.weight\n except ValueError as e: print(e)\n"
    )

    assert run(DEFER + use, package).stdout.splitlines() == ["broken", "broken"]


@pytest.mark.parametrize("name", ["no_such_package", "json"])
def test_a_missing_or_imported_package_is_left_alone(name: str):
    done = run(
        f"import json\nfrom tinkex.cli.startup import defer\ndefer({name!r})\nprint(json.dumps)"
    )

    assert done.returncode == 0, done.stderr
    assert "no_such_package" not in done.stdout


def test_a_package_without_that_version_is_not_deferred(package: Path):
    done = run(DEFER.replace("'version'", "'elsewhere'") + "import parcel", package)

    assert done.stdout == "running\n"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "parcel").mkdir()
    (tmp_path / "parcel" / "__init__.py").write_text("")
    (tmp_path / "parcel" / "inner.py").write_text("print('running')\nweight = 21\n")
    return tmp_path


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("import parcel.inner", []),
        ("import parcel.inner; print(parcel.inner.weight)", ["running", "21"]),
        ("from parcel import inner; print(inner.weight)", ["running", "21"]),
        ("from parcel.inner import weight; print(weight)", ["running", "21"]),
    ],
)
def test_a_module_of_a_package_is_defer_too(module: Path, use: str, said: list[str]):
    done = run("from tinkex.cli.startup import defer\ndefer('parcel.inner')\n" + use, module)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said


def test_deferred_modules_work_in_the_program():
    script = (
        "import sys, types\n"
        "from tinkex.cli import startup\n"
        "class App:\n"
        " stdout = sys.stdout\n"
        " def run(self, argv):\n"
        "  import cliff.app, dataclasses, requests\n"
        "  deferred = {'ast', 'dis', 'pickle', 'charset_normalizer.api', 'idna.core'}\n"
        "  assert not deferred & set(sys.modules)\n"
        "  import inspect, logging, subprocess, zipfile\n"
        "  @dataclasses.dataclass\n"
        "  class Pair:\n   x: int\n   y: int = 2\n"
        "  print(inspect.signature(Pair), Pair.__doc__)\n"
        "  print(subprocess.check_output([sys.executable, '-c', 'print(1)']))\n"
        "  print(logging.handlers.RotatingFileHandler.__name__, zipfile.is_zipfile('no'))\n"
        "  print(requests.Request('GET', 'http://bücher.example/').prepare().url)\n"
        "  answer = requests.Response()\n"
        "  answer._content = 'été à la plage, où les garçons jouent'.encode('utf-16')\n"
        "  print(answer.apparent_encoding.lower().replace('-', '_'))\n"
        "  return 3\n"
        "fake = sys.modules['tinkex.cli.app'] = types.ModuleType('tinkex.cli.app')\n"
        "fake.TinkexApp, fake.EXIT_FAILURE = App, 1\n"
        "sys.exit(startup.main())\n"
    )
    done = run(script)

    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == [
        "(x: int, y: int = 2) -> None Pair(x: int, y: int = 2)",
        "b'1\\n'",
        "RotatingFileHandler False",
        "http://xn--bcher-kva.example/",
        "utf_16",
    ]


def test_a_program_that_imports_the_api_gets_no_deferred_modules():
    script = "import sys, tinkex.api, idna\nprint('idna.core' in sys.modules)"

    assert run(script).stdout == "True\n"


_SCRIPT = """
import os, signal, sys, time
from tinkex.cli import app, startup

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})

class App:
    stdout = sys.stdout

    def run(self, argv):
        Finalised()  # gone at once; Python drops what its finaliser raises
        time.sleep(600)
        return 0

app.TinkexApp = App
sys.exit(startup.main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_a_finaliser_is_not_lost(name, code):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(signal=name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    assert "Exception ignored" not in done.stderr


def test_other_errors_of_finalisers_are_shown():
    script = _SCRIPT.replace("os.kill(os.getpid(), signal.{signal})", "raise ValueError('odd')")
    script = script.replace("time.sleep(600)", "pass")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "ValueError: odd" in done.stderr
