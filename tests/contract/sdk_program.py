"""Runs the official command line for tests, in one process: importing the SDK is what takes long.

Reads one JSON object a line, ``{"words": [...], "environ": {...}, "stdin": "..."}``, runs that
command line in a fork of itself, and prints its exit code and output. It is run by the
interpreter of the SDK, without tinkex.
"""

from __future__ import annotations

import json
import os
import sys
from tempfile import TemporaryFile
from typing import Any

import tinker  # noqa: F401
from tinker.cli.__main__ import cli


def run(words: list[str], environ: dict[str, str], stdin: str) -> dict[str, Any]:
    with TemporaryFile() as typed, TemporaryFile() as out, TemporaryFile() as errors:
        typed.write(stdin.encode())
        typed.seek(0)
        if not (child := os.fork()):
            os.environ.clear()
            os.environ.update(environ)
            for number, file in enumerate((typed, out, errors)):
                os.dup2(file.fileno(), number)
            sys.stdin = os.fdopen(0, closefd=False)  # without what this process has read ahead
            sys.argv = ["tinker", *words]
            sys.exit(cli())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, errors):
            file.seek(0)
        return {"code": code, "stdout": out.read().decode(), "stderr": errors.read().decode()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
