"""Signals of the program that owns its process."""

import subprocess
import sys

import pytest

_SCRIPT = """
import os, signal, sys, time
from tinkex.cli import program

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})

class App:
    stdout = sys.stdout

    def run(self, argv):
        Finalised()  # gone at once; Python drops what its finaliser raises
        time.sleep(600)
        return 0

program.TinkexApp = App
sys.exit(program.main([]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", -2)])
def test_a_signal_that_falls_into_a_finaliser_is_not_lost(name, code):
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
