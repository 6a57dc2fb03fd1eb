"""Reading request bodies."""

from __future__ import annotations

import subprocess
import sys

#: A kind of body that holds others, for the first time in a process, by many threads at once.
_FIRST_READ = """
import sys, threading
from tinkex_local.wire import bodies
from tinkex_local.problems import Problem

sys.setswitchinterval(1e-6)
start = threading.Barrier(16)

def read():
    start.wait()
    try:
        bodies.decode(b'{"prompt": {"chunks": []}, "sampling_params": {}}', bodies.Sample)
    except Problem:
        pass

threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_read_a_kind_of_body_for_the_first_time_together():
    readers = [subprocess.Popen([sys.executable, "-c", _FIRST_READ]) for _ in range(12)]
    assert [reader.wait(60) for reader in readers] == [0] * 12
