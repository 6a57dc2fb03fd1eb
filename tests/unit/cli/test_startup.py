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
    done = run(_SCRIPT.format(signal=name))
    assert done.returncode == code
    assert "Exception ignored" not in done.stderr


def test_other_errors_of_finalisers_are_shown():
    script = _SCRIPT.replace("os.kill(os.getpid(), signal.{signal})", "raise ValueError('odd')")
    done = run(script.replace("time.sleep(600)", "pass"))
    assert (done.returncode, "ValueError: odd" in done.stderr) == (0, True)
