"""Sampling 2,000 prompts with ``run batch``, and with the official SDK at its best concurrency."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from answers import BASE_MODEL
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
#: Prompts, and tokens in each of them and in each answer, for the measurement of memory.
MANY, SHORT = 100_000, 8
#: Concurrency values to measure the official SDK with; the best one counts.
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
asyncio by hand and code of neither side; it answers at once, or after {hold} ms. The last line is
of ours alone, once: the memory of {many} prompts, of {short} tokens each.
"""
LIMITS = """\
both clients use one core, for all the HTTP of two requests a sample; where the server takes its
time, ours also begins with few samples at once until it has found out how many help.
"""


def run(context: Context) -> Section:
    """Measure both clients on both servers."""
    rounds = context.rounds(3)
    count = 300 if context.quick else COUNT
    rows: list[tuple[str, ...]] = []
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory() as home:
        prompts = _prompts(home, count, LENGTH)
        for hold in HOLDS:
            with server(
                "--hold", str(hold), "--tokens", str(TOKENS), script="sampling_server.py"
            ) as url:
                samples = _measure(context, home, url, rounds, prompts)
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
        with server("--tokens", str(SHORT), script="sampling_server.py") as url:
            many = 5_000 if context.quick else MANY
            tell(f"{many:,} prompts")
            sample = run_once(_ours(context, home, url, _prompts(home, many, SHORT)))
            rows.append(_shown(f"tinkex run batch, {many:,} prompts", 0, [sample], many))
    text = TEXT.format(
        many=f"{many:,}",
        short=SHORT,
        count=f"{count:,}",
        length=LENGTH,
        tokens=TOKENS,
        rounds=rounds,
        official=", ".join(map(str, OFFICIAL)),
        hold=HOLDS[1],
    )
    return Section("Sampling many prompts", text, HEADER, rows, found, LIMITS)


def _prompts(home: str, count: int, length: int) -> Path:
    """Write *count* prompts and return their file, which is named by the number."""
    path = Path(home, f"{count}.jsonl")
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            tokens = [number % 1000 + n for n in range(length)]
            file.write(json.dumps({"tokens": tokens}) + "\n")
    return path


def _environ(home: str, url: str) -> dict[str, str]:
    # No tokenizer is loaded: the prompts and the results are token ids.
    return environment(home, url, HF_HUB_OFFLINE="1", TINKER_TELEMETRY="0")


def _ours(context: Context, home: str, url: str, prompts: Path) -> Command:
    argv = [str(context.tinkex), "run", "batch", str(prompts), "--force"]
    argv += ["--base-model", BASE_MODEL, "--output", str(Path(home, "out.jsonl"))]
    return Command("tinkex run batch", argv, _environ(home, url), silent=True)


def _measure(
    context: Context, home: str, url: str, rounds: int, prompts: Path
) -> dict[str, list[Sample]]:
    """Measure tinkex, and the official SDK at each concurrency."""
    ours, environ = _ours(context, home, url, prompts), _environ(home, url)
    names = ["ours", *map(str, OFFICIAL)]
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        for name in random.sample(names, len(names)):
            if name == "ours":
                samples[name].append(run_once(ours))
            else:
                samples[name].append(_official(context, environ, int(prompts.stem), name))
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
