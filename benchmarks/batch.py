"""Sampling 2,000 prompts with ``run batch``, and with the official SDK at its best concurrency."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

import tls
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
#: Our HTTP pools, with their targets for throughput and CPU relative to the official SDK.
POOLS = {"default": (1.5, 1.0), "http2": (3.0, 0.25)}

HEADER = ("Client", "server", "samples/s", "CPU ms/sample", "peak MiB")
TEXT = """\
{count} prompts of {length} token ids, {tokens} tokens and logprobs in each answer; {rounds}
rounds. Ours is the whole process `tinkex run batch prompts.jsonl --output out.jsonl`, its start and
its files included, with the concurrency that it finds by itself, over each HTTP pool. The official
SDK's clock and CPU count from the first sample handed in to the last result, without imports,
session and files; of {official} samples at once the fastest is shown. The server,
`benchmarks/sampling_server.py`, is asyncio by hand and code of neither side; it speaks HTTP/1.1 and
answers at once, after {hold} ms, or over TLS; {nginx}. The last lines are of ours alone, once: the
memory of {many} prompts, of {short} tokens each.
"""
LIMITS = """\
for a sample, half of the CPU of `http2` is the engine's and the system's (two requests and their
wake-ups); a quarter is JSON in Python: the prompt, the request, and the line of the result. The
start of the process counts as well. Where the server takes its time, ours begins with few samples
at once until it has found out how many help.
"""


def run(context: Context) -> Section:
    """Measure both clients on every server."""
    rounds = context.rounds(3)
    count = 300 if context.quick else COUNT
    rows: list[tuple[str, ...]] = []
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory() as home:
        prompts = _prompts(home, count, LENGTH)
        for kind, url, trust in _servers(Path(home)):
            with url as address:
                samples = _measure(context, _environ(home, address, **trust), rounds, prompts)
            best = min(OFFICIAL, key=lambda n: median(s.wall for s in samples[str(n)]))
            official = samples[str(best)]
            for pool, limits in POOLS.items():
                rows.append(_shown(f"tinkex run batch, {pool}", kind, samples[pool], count))
                found += _verdicts(f"{pool} / official ({kind})", limits, samples[pool], official)
            rows.append(_shown(f"official SDK, {best} at once", kind, official, count))
        with server("--tokens", str(SHORT), script="sampling_server.py") as address:
            many = 5_000 if context.quick else MANY
            tell(f"{many:,} prompts")
            for pool in POOLS:
                environ = _environ(home, address)
                sample = run_once(_ours(context, environ, _prompts(home, many, SHORT), pool))
                name = f"tinkex run batch, {pool}, {many:,} prompts"
                rows.append(_shown(name, "0 ms", [sample], many))
    text = TEXT.format(
        many=f"{many:,}",
        short=SHORT,
        count=f"{count:,}",
        length=LENGTH,
        tokens=TOKENS,
        rounds=rounds,
        official=", ".join(map(str, OFFICIAL)),
        hold=HOLDS[1],
        nginx="nginx in front of it speaks HTTP/2" if tls.NGINX.exists() else "nginx is not here",
    )
    return Section("Sampling many prompts", text, HEADER, rows, found, LIMITS)


def _servers(directory: Path) -> Iterator[tuple[str, AbstractContextManager[str], dict[str, str]]]:
    """Yield the name of each server, what starts it, and the variables to trust it."""

    def start(*options: str) -> AbstractContextManager[str]:
        return server("--tokens", str(TOKENS), *options, script="sampling_server.py")

    for hold in HOLDS:
        yield f"{hold} ms", start("--hold", str(hold)), {}
    pem = tls.certificate(directory)
    trust = tls.trusting(pem)
    yield "0 ms, TLS", start("--certificate", str(pem)), trust
    if tls.NGINX.exists():
        with start() as behind:
            yield "0 ms, HTTP/2", tls.nginx(directory, pem, behind), trust


def _verdicts(
    what: str, limits: tuple[float, float], ours: list[Sample], official: list[Sample]
) -> list[Verdict]:
    throughput, cpu = limits
    faster = median(b.wall / a.wall for a, b in zip(ours, official, strict=True))
    cheaper = median(a.cpu / b.cpu for a, b in zip(ours, official, strict=True))
    return [
        Verdict(f"throughput, {what}", f"≥ {throughput:g}", faster, faster >= throughput),
        Verdict(f"CPU of a sample, {what}", f"≤ {cpu:g}", cheaper, cheaper <= cpu),
    ]


def _prompts(home: str, count: int, length: int) -> Path:
    """Write *count* prompts and return their file, which is named by the number."""
    path = Path(home, f"{count}.jsonl")
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            tokens = [number % 1000 + n for n in range(length)]
            file.write(json.dumps({"tokens": tokens}) + "\n")
    return path


def _environ(home: str, url: str, **more: str) -> dict[str, str]:
    # No tokenizer is loaded: the prompts and the results are token ids.
    return environment(home, url, HF_HUB_OFFLINE="1", TINKER_TELEMETRY="0", **more)


def _ours(context: Context, environ: dict[str, str], prompts: Path, pool: str) -> Command:
    argv = [str(context.tinkex), "run", "batch", str(prompts), "--force", "--http-pool", pool]
    argv += ["--base-model", BASE_MODEL, "--output", str(prompts.with_name("out.jsonl"))]
    return Command("tinkex run batch", argv, environ, silent=True)


def _measure(
    context: Context, environ: dict[str, str], rounds: int, prompts: Path
) -> dict[str, list[Sample]]:
    """Return the samples of ours over each pool and of the official SDK at each concurrency."""
    names = [*POOLS, *map(str, OFFICIAL)]
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        for name in random.sample(names, len(names)):
            if name in POOLS:
                samples[name].append(run_once(_ours(context, environ, prompts, name)))
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


def _shown(name: str, kind: str, samples: list[Sample], count: int) -> tuple[str, ...]:
    return (
        name,
        kind,
        f"{count / median(s.wall for s in samples):.0f}",
        f"{median(s.cpu for s in samples) / count * 1000:.2f}",
        f"{median(s.rss for s in samples):.0f}",
    )
