"""A load test of ``tinkex local serve`` with many clients: checks results, measures latencies.

Run as a program, it starts the service in a separate process, lets ``--clients`` threads make
mixed calls for ``--seconds``, checks every answer, and writes a table of latencies. The clients use
``http.client``: they do not use tinkex.
"""

from __future__ import annotations

import argparse
import collections
import csv
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEY = "tml-load-test"
MODEL = "tinkex/baker-street-2M"


class Client:
    """One connection that is kept open, as that of a client library."""

    def __init__(self, url: str, times: dict[str, list[float]]) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._times = times

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def call(self, what: str, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the decoded response; raise an error unless it succeeded."""
        data = None if body is None else json.dumps(body)
        headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
        began = time.monotonic()
        self._connection.request(method, f"/api/v1/{path}", data, headers)
        response = self._connection.getresponse()
        content = response.read()
        self._times[what].append(time.monotonic() - began)
        if response.status >= 300:
            raise AssertionError(f"{what}: HTTP {response.status}: {content[:200]!r}")
        return json.loads(content) if content else None

    def result(self, request_id: str) -> Any:
        """Poll a long operation until its result is available."""
        while True:
            value = self.call(
                "retrieve_future", "POST", "retrieve_future", {"request_id": request_id}
            )
            if not (isinstance(value, dict) and value.get("type") == "try_again"):
                return value


class Worker(threading.Thread):
    """A client that saves, lists, samples and deletes until its time is over."""

    def __init__(self, number: int, url: str, end: float) -> None:
        super().__init__(daemon=True)
        self.times: dict[str, list[float]] = collections.defaultdict(list)
        self.kept: set[str] = set()
        self.error: BaseException | None = None
        self._client = Client(url, self.times)
        self._random = random.Random(number)
        self._end = end
        self._seq = 0

    def run(self) -> None:
        try:
            self._begin()
            while time.monotonic() < self._end:
                self._random.choice([self.sample, self.sample, self.save, self.list, self.delete])()
        except BaseException as error:
            self.error = error
        finally:
            self._client.close()

    def _begin(self) -> None:
        call = self._client.call
        made = call(
            *("create_session", "POST", "create_session"),
            {"tags": [], "user_metadata": None, "sdk_version": "0"},
        )
        self.session = made["session_id"]
        model = {"session_id": self.session, "model_seq_id": 0, "base_model": MODEL}
        made = call("create_model", "POST", "create_model", {**model, "lora_config": {"rank": 1}})
        self.run_id = self._client.result(made["request_id"])["model_id"]
        body = {"session_id": self.session, "sampling_session_seq_id": 0, "base_model": MODEL}
        made = call("create_sampling_session", "POST", "create_sampling_session", body)
        self.sampler = made["sampling_session_id"]

    def sample(self) -> None:
        count = self._random.randint(1, 2)
        body = {
            "sampling_session_id": self.sampler,
            "seq_id": self._seq,
            "num_samples": count,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
            "sampling_params": {"max_tokens": 4, "seed": self._seq},
        }
        self._seq += 1
        made = self._client.call("asample", "POST", "asample", body)
        sequences = self._client.result(made["request_id"])["sequences"]
        assert len(sequences) == count
        assert all(1 <= len(sequence["tokens"]) <= 4 for sequence in sequences)

    def save(self) -> None:
        self._seq += 1
        body = {"model_id": self.run_id, "path": f"n{self._seq}", "seq_id": self._seq}
        made = self._client.call("save_weights", "POST", "save_weights", body)
        self.kept.add(self._client.result(made["request_id"])["path"])

    def list(self) -> None:
        path = f"training_runs/{self.run_id}/checkpoints"
        found = self._client.call("list checkpoints", "GET", path)["checkpoints"]
        assert {row["tinker_path"] for row in found} == self.kept

    def delete(self) -> None:
        if self.kept:
            path = self.kept.pop()
            name = path.rpartition("/")[2]
            where = f"training_runs/{self.run_id}/checkpoints/weights/{name}"
            self._client.call("delete", "DELETE", where)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "tinkex", "local", "serve", "--api-key", KEY],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line for each request
            text=True,
            env={**os.environ, "TINKEX_LOCAL_HOME": home},
        )
        try:
            assert process.stdout is not None
            return put_load(process.stdout.readline().strip(), options)
        finally:
            process.terminate()
            process.wait(20)


def put_load(url: str, options: argparse.Namespace) -> int:
    end = time.monotonic() + options.seconds
    workers = [Worker(number, url, end) for number in range(options.clients)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(options.seconds + 120)
    errors = [worker.error for worker in workers if worker.error is not None]
    lost = expected(workers) ^ listed(url)
    times: dict[str, list[float]] = collections.defaultdict(list)
    for worker in workers:
        for what, found in worker.times.items():
            times[what] += found
    rows = [row(what, found) for what, found in sorted(times.items())]
    if options.write:
        with options.write.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADINGS, *rows])
    for line in [HEADINGS, *rows]:
        print("\t".join(map(str, line)))
    print(
        f"{len(errors)} of {len(workers)} clients failed; {len(lost)} checkpoints lost or left over"
    )
    for error in errors[:5]:
        print(f"  {error!r}")
    return 1 if errors or lost else 0


def expected(workers: list[Worker]) -> set[str]:
    return {path for worker in workers for path in worker.kept}


def listed(url: str) -> set[str]:
    client = Client(url, collections.defaultdict(list))
    found: set[str] = set()
    try:
        while True:
            page = client.call("list all", "GET", f"checkpoints?limit=1000&offset={len(found)}")
            found |= {row["tinker_path"] for row in page["checkpoints"]}
            if len(page["checkpoints"]) < 1000:
                return found
    finally:
        client.close()


HEADINGS = ("Call", "Calls", "Median (ms)", "95th percentile (ms)", "Maximum (ms)")


def row(what: str, times: list[float]) -> tuple[Any, ...]:
    ordered = sorted(times)
    at_95 = ordered[int(len(ordered) * 0.95)]
    figures = (statistics.median(ordered), at_95, ordered[-1])
    return (what, len(ordered), *(f"{seconds * 1000:.0f}" for seconds in figures))


if __name__ == "__main__":
    sys.exit(main())
