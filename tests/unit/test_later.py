"""Packages whose import is put off, and a process that ends at once."""

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


PUT_OFF = "from tinkex.cli.startup import put_off\nput_off('parcel', version_in='version')\n"


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
def test_a_package_runs_when_something_of_it_is_used(package: Path, use: str, said: list[str]):
    done = run(PUT_OFF + use, package)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said


def test_a_package_that_fails_fails_each_time_it_is_used(package: Path):
    (package / "parcel" / "__init__.py").write_text("raise ValueError('broken')\n")
    use = (
        "import parcel\nfor _ in range(2):\n"
        " try: parcel.weight\n except ValueError as e: print(e)\n"
    )

    assert run(PUT_OFF + use, package).stdout.splitlines() == ["broken", "broken"]


@pytest.mark.parametrize("name", ["no_such_package", "json"])
def test_what_is_missing_or_imported_is_left_alone(name: str):
    done = run(
        f"import json\nfrom tinkex.cli.startup import put_off\nput_off({name!r})\nprint(json.dumps)"
    )

    assert done.returncode == 0, done.stderr
    assert "no_such_package" not in done.stdout


def test_a_package_without_a_version_there_is_imported_as_ever(package: Path):
    done = run(PUT_OFF.replace("'version'", "'elsewhere'") + "import parcel", package)

    assert done.stdout == "running\n"


def test_requests_still_detects_encodings():
    script = (
        "import sys, tinkex.cli.startup\ntinkex.cli.startup.before_requests()\nimport requests\n"
        "assert 'charset_normalizer.api' not in sys.modules\n"
        "answer = requests.Response()\n"
        "answer._content = 'été à la plage, où les garçons jouent'.encode('utf-16')\n"
        "print(answer.apparent_encoding)\n"
    )

    assert run(script).stdout.lower().replace("-", "_") == "utf_16\n"


def test_requests_still_knows_international_names():
    script = (
        "import tinkex.cli.startup\ntinkex.cli.startup.before_requests()\nimport requests\n"
        "print(requests.Request('GET', 'http://bücher.example/').prepare().url)\n"
    )

    assert run(script).stdout == "http://xn--bcher-kva.example/\n"


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
def test_a_module_of_a_package_is_put_off_too(module: Path, use: str, said: list[str]):
    done = run("from tinkex.cli.startup import put_off\nput_off('parcel.inner')\n" + use, module)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said


def test_what_cliff_brings_still_works_when_it_is_wanted():
    script = (
        "import sys, tinkex.cli.startup\ntinkex.cli.startup.before_cliff()\nimport cliff.app, dataclasses\n"
        "assert not {'ast', 'dis', 'pickle'} & set(sys.modules)\n"
        "import inspect, logging, subprocess, zipfile\n"
        "@dataclasses.dataclass\nclass Pair:\n x: int\n y: int = 2\n"
        "print(inspect.signature(Pair), Pair.__doc__)\n"
        "print(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout)\n"
        "print(logging.handlers.RotatingFileHandler.__name__, zipfile.is_zipfile(__file__))\n"
    ).replace("__file__", "sys.executable")

    done = run(script)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "(x: int, y: int = 2) -> None Pair(x: int, y: int = 2)",
        "b'1\\n'",
        "RotatingFileHandler False",
    ]


START = "import sys, tinkex.__main__ as program\nprogram.main = lambda: {code}\n{before}program.start()\n"


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_process_ends_with_the_programs_code(code: int):
    assert run(START.format(code=code, before="")).returncode == code


def test_exit_functions_run_and_what_they_write_is_written():
    done = run(
        START.format(
            code=3, before="import atexit\natexit.register(lambda: sys.stdout.write('cleaned'))\n"
        )
    )

    assert (done.returncode, done.stdout) == (3, "cleaned")


def test_a_thread_that_is_no_daemon_is_waited_for():
    thread = (
        "import threading, time\n"
        "def work():\n time.sleep(0.3)\n print('done')\n"
        "threading.Thread(target=work).start()\n"
    )
    done = run(START.format(code=0, before=thread))

    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_thread_that_is_a_daemon_is_not():
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"

    assert run(START.format(code=0, before=thread)).returncode == 0


def test_a_program_that_uses_our_api_gets_its_packages_at_once():
    script = (
        "import sys\nfrom tinkex.api import ServiceClient\n"
        "print(type(sys.modules['idna']).__name__, 'idna.core' in sys.modules)\n"
    )

    assert run(script).stdout == "module True\n"
