"""Sampling 2,000 prompts with ``run batch``, beside the official SDK at its best concurrency."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from frame import (
    HERE,
    Command,
    Context,
    Sample,
    Section,
    Verdict,
    environment,
    run_once,
    server,
    tell,
)

COUNT, LENGTH, TOKENS = 2000, 64, 64
#: Samples under way at once that the official SDK is tried with; the best one counts.
OFFICIAL = (16, 64, 256, 1000)
#: Milliseconds that the server takes for a sample.
HOLDS = (0, 100)
THROUGHPUT, CPU = 1.5, 1.0

HEADER = ("Client", "server ms", "samples/s", "CPU ms/sample", "peak MiB")
TEXT = """\
{count} prompts of {length} token ids, {tokens} tokens and logprobs in each answer; {rounds}
rounds. Ours is the whole process `tinkex run batch prompts.jsonl --output out.jsonl`, its start and
its files included, with the concurrency that it finds by itself. The official SDK's clock and CPU
count from the first sample handed in to the last result, without imports, session and files; of
{official} samples at once the fastest is shown. The server, `benchmarks/sampling_server.py`, is
asyncio by hand and code of neither side; it answers at once, or after {hold} ms.
"""


def run(context: Context) -> Section:
    """Measure both clients on both servers."""
    rounds = context.rounds(3)
    count = 300 if context.quick else COUNT
    rows: list[tuple[str, ...]] = []
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory() as home:
        prompts = Path(home, "prompts.jsonl")
        prompts.write_text("".join(_row(number) for number in range(count)), encoding="utf-8")
        for hold in HOLDS:
            with server(
                "--hold", str(hold), "--tokens", str(TOKENS), script="sampling_server.py"
            ) as url:
                samples = _measure(context, home, url, rounds, count)
            best = min(OFFICIAL, key=lambda n: median(s.wall for s in samples[str(n)]))
            official, ours = samples[str(best)], samples["ours"]
            rows += [
                _shown("tinkex run batch", hold, ours, count),
                _shown(f"official SDK, {best} at once", hold, official, count),
            ]
            faster = median(b.wall / a.wall for a, b in zip(ours, official, strict=True))
            cheaper = median(a.cpu / b.cpu for a, b in zip(ours, official, strict=True))
            found += [
                Verdict(
                    f"throughput, ours / official ({hold} ms)",
                    f"≥ {THROUGHPUT:g}",
                    faster,
                    faster >= THROUGHPUT,
                ),
                Verdict(
                    f"CPU of a sample, ours / official ({hold} ms)",
                    f"≤ {CPU:g}",
                    cheaper,
                    cheaper <= CPU,
                ),
            ]
    text = TEXT.format(
        count=f"{count:,}",
        length=LENGTH,
        tokens=TOKENS,
        rounds=rounds,
        official=", ".join(map(str, OFFICIAL)),
        hold=HOLDS[1],
    )
    return Section("Sampling many prompts", text, HEADER, rows, found)


def _row(number: int) -> str:
    return json.dumps({"tokens": [number % 1000 + n for n in range(LENGTH)]}) + "\n"


def _measure(
    context: Context, home: str, url: str, rounds: int, count: int
) -> dict[str, list[Sample]]:
    """Return the samples of ours and of the official SDK at each concurrency."""
    # Nobody's tokenizer is asked for: token ids go in and out.
    environ = environment(home, url, HF_HUB_OFFLINE="1", TINKER_TELEMETRY="0")
    argv = [str(context.tinkex), "run", "batch", str(Path(home, "prompts.jsonl")), "--force"]
    argv += ["--base-model", "Qwen/Qwen3-8B", "--output", str(Path(home, "out.jsonl"))]
    ours = Command("tinkex run batch", argv, environ, silent=True)
    names = ["ours", *map(str, OFFICIAL)]
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        for name in random.sample(names, len(names)):
            if name == "ours":
                samples[name].append(run_once(ours))
            else:
                samples[name].append(_official(context, environ, count, name))
        tell(f"round {number + 1} of {rounds}")
    return samples


def _official(context: Context, environ: dict[str, str], count: int, concurrency: str) -> Sample:
    script = str(HERE / "official_sampling.py")
    done = subprocess.run(
        [str(context.tinker_python), script, str(count), str(LENGTH), concurrency],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return Sample(found["seconds"], found["cpu"], found["peak_mib"])


def _shown(name: str, hold: int, samples: list[Sample], count: int) -> tuple[str, ...]:
    return (
        name,
        str(hold),
        f"{count / median(s.wall for s in samples):.0f}",
        f"{median(s.cpu for s in samples) / count * 1000:.2f}",
        f"{median(s.rss for s in samples):.0f}",
    )
