"""Downloads of 1 GiB, compared with curl and the official program."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from frame import (
    HEADER,
    Command,
    Context,
    Sample,
    Samples,
    Section,
    Target,
    Verdict,
    cores,
    environment,
    measure,
    ratio,
    rows,
    server,
    verdicts,
)

SIZE_MIB, QUICK_MIB = 1024, 128
RATE = 100
RUN = "tinker://run-1:train:0"

SINK, CURL, OFFICIAL = "tinkex's reader", "curl -o /dev/null", "official function, /dev/null"
SINK_HTTP2 = f"{SINK}, http2"
#: Commands that print the seconds of their transfer, and the name of that part.
CLOCKS = {name: f"{name}: the transfer" for name in (SINK, SINK_HTTP2, CURL, OFFICIAL)}
FILES, TAR = "tinkex checkpoint download (files)", "tinkex checkpoint download (tar)"
OFFICIAL_FILES = "official download function (files)"
CURL_FILES, CURL_TAR = "curl to a file", "curl, tar -x"
FILES_HTTP2, TAR_HTTP2 = f"{FILES}, http2", f"{TAR}, http2"
SLOW, SLOW_CURL = f"tinkex, {RATE} MiB/s a connection", f"curl, {RATE} MiB/s a connection"
SLOW_TAR = f"tinkex tar, {RATE} MiB/s a connection"
SLOW_HTTP2 = f"{SLOW}, http2"
FEW, MANY = "tinkex, 1,000 one-byte files", "tinkex, 10,000 one-byte files"
SLOW_GZ, SLOW_CURL_GZ = f"tinkex tar.gz, {RATE} MiB/s", f"curl tar.gz, {RATE} MiB/s"

TEXT = """\
{size} MiB in one large file and a small one, half of it incompressible; the server sends with
`sendfile` from memory. {rounds} rounds. Ours are over the default HTTP pool unless they name http2,
which speaks HTTP/1.1 to this server. "tinkex's reader" sends all to `/dev/null`, as curl
and the official function (`urlopen`, 8 KiB blocks) do. The command also computes SHA-256, which
neither of the others does. Rows called "the transfer" are the same processes by their
own clocks, from the request to the last byte: throughput without the start of an interpreter.
The other commands write to a memory file system, so that no disk is measured. With a limit of
{rate} MiB/s for each connection ours opens eight. Checkpoints of one-byte files show that the time
grows with their number, not with its square.
"""

LIMITS = """\
a whole download works out SHA-256, which one core here does at {sha:.1f} GiB/s, and begins with
{start:.2f} s of Python and its modules; curl has received the same in {curl:.2f} s. Client and
server share {cores} cores, so that the sum takes time from the transfer: with more of them it
runs beside it.
"""

#: The transfer alone, as ``checkpoint download`` does it.
_SINK = """
import sys, time
from tinkex.api import ServiceClient
from tinkex.api.transfer.streams import RenewableURL, ResumingReader
url = sys.argv[1]
with ServiceClient(base_url=url, api_key="tml-benchmark") as client:
    with open("/dev/null", "wb", buffering=0) as sink:
        place = url + "/stored/files/adapter_model.safetensors"
        began = time.perf_counter()
        signed = RenewableURL(lambda renew: place)
        with ResumingReader(client._transport, signed) as reader:
            while block := reader.read():
                sink.write(block)
        print(time.perf_counter() - began)
"""
#: The loop of the official program (tinker 0.38, ``cli/commands/checkpoint.py``).
_OFFICIAL = """
import sys, time
from pathlib import Path
from tinker.cli.commands.checkpoint import _download_file
url, *targets = sys.argv[1:]
began = time.perf_counter()
for name, target in zip(("adapter_model.safetensors", "adapter_config.json"), targets):
    _download_file(url + "/stored/files/" + name, dest=Path(target), label=name,
                   show_progress=False, format="json")
print(time.perf_counter() - began)
"""


def run(context: Context) -> Section:
    """Measure downloads."""
    size = QUICK_MIB if context.quick else SIZE_MIB
    rounds = context.rounds(5)
    with tempfile.TemporaryDirectory(dir=_memory()) as home:
        root, out = Path(home) / "served", Path(home) / "out"
        _make(root, size)
        with server("--directory", str(root), script="fileserver.py") as url:
            samples = measure(_plain(context, home, out, url), rounds)
        limited = ("--directory", str(root), "--rate", str(RATE))
        with server(*limited, script="fileserver.py") as url:
            samples |= measure(_limited(context, home, out, url), rounds)
    samples |= _transfers(samples)
    targets = [
        Target(CLOCKS[SINK], CLOCKS[CURL], 1.05),
        Target(CLOCKS[SINK_HTTP2], CLOCKS[CURL], 1.05),
        Target(SINK, CURL, 1.18),
        Target(SINK, OFFICIAL, 0.6, "cpu"),
        Target(FILES, CURL_FILES),
        Target(FILES, OFFICIAL_FILES),
        Target(FILES, OFFICIAL_FILES, 0, "cpu"),
        Target(FILES_HTTP2, FILES),
        Target(FILES_HTTP2, FILES, 0, "cpu"),
        Target(TAR_HTTP2, TAR),
        Target(TAR, CURL_TAR),
        Target(SLOW_GZ, SLOW_CURL_GZ, 1.15),
        # Ten times the files take no more than ten times as long.
        Target(MANY, FEW, 10),
    ]
    found = verdicts(samples, targets)
    for name in (SLOW, SLOW_HTTP2, SLOW_TAR):
        speed = ratio(samples, SLOW_CURL, name)
        found.append(Verdict(f"`{SLOW_CURL}` / `{name}`", "≥ 5", speed, speed >= 5))
    for name in (FILES, FILES_HTTP2, TAR, SLOW, SLOW_TAR, SLOW_GZ, MANY):
        peak = max(sample.rss for sample in samples[name])
        found.append(Verdict(f"peak MiB of `{name}`", "≤ 64", peak, peak <= 64))
    text = TEXT.format(size=size, rounds=rounds, rate=RATE)
    return Section("Downloads", text, HEADER, rows(samples), found, _limits(samples))


def _transfers(samples: Samples) -> dict[str, list[Sample]]:
    """Return the samples of commands that print their transfer time, with that time."""
    return {
        called: [dataclasses.replace(sample, wall=float(sample.said)) for sample in samples[name]]
        for name, called in CLOCKS.items()
    }


def _limits(samples: Samples) -> str:
    block = bytes(256 * 1024 * 1024)
    began = time.perf_counter()
    hashlib.sha256(block)
    sha = 0.25 / (time.perf_counter() - began)
    start = median(
        whole.wall - transfer.wall
        for whole, transfer in zip(samples[SINK], samples[CLOCKS[SINK]], strict=True)
    )
    curl = median(sample.wall for sample in samples[CURL])
    return LIMITS.format(sha=sha, start=start, curl=curl, cores=cores())


def _plain(context: Context, home: str, out: Path, url: str) -> list[Command]:
    large = f"{url}/stored/files/adapter_model.safetensors"
    target = str(out / "file")
    official = [str(context.tinker_python), "-c", _OFFICIAL, url]
    unpack = 'mkdir -p "$1" && curl -s "$2" | tar -x -C "$1"'
    files = _ours(context, "external_weights/files", out)
    tar = _ours(context, "sampler_weights/a.tar", out)
    sink = [str(context.python), "-c", _SINK, url]
    command = _commands(home, out, url)
    return [
        command(SINK, sink),
        command(SINK_HTTP2, sink),
        command(CURL, ["curl", "-s", "-o", "/dev/null", "-w", "%{time_total}\n", large]),
        command(OFFICIAL, [*official, "/dev/null"]),
        command(FILES, files),
        command(FILES_HTTP2, files),
        command(CURL_FILES, ["curl", "-s", "-o", target, large]),
        command(OFFICIAL_FILES, [*official, target, target + "2"]),
        command(TAR, tar),
        command(TAR_HTTP2, tar),
        command(CURL_TAR, ["sh", "-c", unpack, "sh", target, f"{url}/stored/a.tar"]),
        command(FEW, _ours(context, "external_weights/few", out)),
        command(MANY, _ours(context, "external_weights/many", out)),
    ]


def _limited(context: Context, home: str, out: Path, url: str) -> list[Command]:
    large, packed = f"{url}/stored/files/adapter_model.safetensors", f"{url}/stored/a.tar.gz"
    command = _commands(home, out, url)
    return [
        command(SLOW, _ours(context, "external_weights/files", out)),
        command(SLOW_HTTP2, _ours(context, "external_weights/files", out)),
        command(SLOW_TAR, _ours(context, "sampler_weights/a.tar", out)),
        command(SLOW_CURL, ["curl", "-s", "-o", "/dev/null", large]),
        command(SLOW_GZ, _ours(context, "sampler_weights/a.tar.gz", out)),
        command(SLOW_CURL_GZ, ["curl", "-s", "-o", "/dev/null", packed]),
    ]


def _commands(home: str, out: Path, url: str) -> Callable[[str, list[str]], Command]:
    """Return a function that makes commands, with the pool that their name ends with."""

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    def command(name: str, argv: list[str]) -> Command:
        pool = "http2" if name.endswith("http2") else "default"
        return Command(name, argv, environment(home, url, TINKEX_HTTP_POOL=pool), clear, True)

    return command


def _ours(context: Context, name: str, out: Path) -> list[str]:
    path = f"{RUN}/{name}"
    return [str(context.tinkex), "checkpoint", "download", path, "--output", str(out / "d")]


def _make(root: Path, size: int) -> None:
    """Write the served checkpoints: one as files, tar and tar.gz, and some with many files."""
    for name, count in (("few", 1_000), ("many", 10_000)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:05}").write_bytes(b"x")
    files = root / "files"
    files.mkdir()
    (files / "adapter_config.json").write_text(json.dumps({"r": 32}))
    noise = random.Random(0).randbytes(512 * 1024)
    tensor = {"dtype": "U8", "shape": [size << 20], "data_offsets": [0, size << 20]}
    header = json.dumps({"w": tensor}).encode()
    with (files / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for number in range(size):
            file.write(noise + number.to_bytes(8, "big") * (64 * 1024))
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        more = {"compresslevel": 1} if mode == "w:gz" else {}
        with tarfile.open(root / name, mode, **more) as archive:  # type: ignore[call-overload]
            for path in sorted(files.iterdir()):
                archive.add(path, path.name)


def _memory() -> str | None:
    """Return a directory in memory, if this machine has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
