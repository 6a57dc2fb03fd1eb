"""A process that runs command lines with a limit on file sizes or without write permission.

It reads one JSON object a line — ``argv``, ``stdin``, ``environ``, ``directory`` and ``longest``, the
size in bytes that no file may exceed — and answers each with ``stdout``, ``stderr`` and ``code``. Such
limits hold for a whole process: in that of the tests they would hold for the report of the tests.

With ``--powerless`` it gives up what lets a superuser write where permissions forbid it.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from typing import Any
from unittest import mock

from tests.full_disk import files_up_to

#: From ``linux/capability.h``: the version of the call, and the powers to write and read anything.
_VERSION_3, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2


def give_up_power() -> None:
    """Let permissions bind the superuser, too; anybody else is bound anyway."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):
        data[place] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one command line as the program would, caches and all."""
    from tinkex.cli.app import TinkexApp

    stdout, stderr = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, job["environ"]):
        os.chdir(job["directory"])
        try:
            app = TinkexApp(io.StringIO(job["stdin"]), stdout, stderr)
            with files_up_to(job["longest"]):
                code = app.run(job["argv"])
        finally:
            os.chdir("/")
    return {"stdout": stdout.getvalue(), "stderr": stderr.getvalue(), "code": code}


def main() -> None:
    import tempfile

    if "--powerless" in sys.argv:
        give_up_power()
    for line in sys.stdin:
        tempfile.tempdir = None  # TMPDIR is that of the job
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
