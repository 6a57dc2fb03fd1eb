"""Downloads: the ways, the safety of what arrives, and what is left when something fails."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.weights import weights
from tinkex.api.http.transport import same_origin
from tinkex.api.transfer import manifest, staging
from tinkex.api.transfer.state import StateLog
from tinkex.api.transfer.streams import open_signed
from tinkex.api.transfer.verify import verify
from tinkex.exceptions import (
    APIError,
    ConnectionFailed,
    Forbidden,
    InvalidResponse,
    LocalError,
    NotFound,
    NotOffered,
)

SAMPLER = "tinker://r:train:0/sampler_weights/final"
EXTERNAL = "tinker://r:train:0/external_weights/mine"
TRAINING = "tinker://r:train:0/weights/final"
PLACE = "training_runs/r:train:0/checkpoints"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights(bytes(299_872))}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar(files: dict[str, bytes], *extra: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in files.items():
            info = member(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def offer(
    server, body: bytes | None, *, at: str = "/files/a.tar", place: str = "sampler_weights/final"
):
    """Let *server* hand out an address of its own for the archive."""
    headers = {"Location": f"{server.url}{at}?sig=secret"}
    server.on("GET", f"{PLACE}/{place}/archive", server.reply(status=302, headers=headers))
    if body is not None:
        server.on("GET", at, server.reply(body))


def arrived(target: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(target)): p.read_bytes()
        for p in sorted(target.rglob("*"))
        if p.is_file() and p.name != manifest.NAME
    }


def leftovers(path: Path) -> list[str]:
    return [str(p) for p in path.rglob("*tinkex-download*")]


# Archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_plain_and_gzip(pack, form, server, client, target):
    files = {**FILES, "checkpoint_complete": b"", "deep/er/file": b"x"}
    offer(
        server,
        pack(tar(files, *(member(n, tarfile.DIRTYPE) for n in ("", "./", "deep")), form=form)),
    )
    done = client.checkpoints.download(SAMPLER, target)
    assert arrived(target) == files
    assert dict(done.files) == {name: len(content) for name, content in files.items()}
    assert done.bytes == sum(map(len, files.values()))
    assert not leftovers(target.parent)


def row(path: str, id: str = "final") -> dict[str, str]:
    return {"tinker_path": path, "checkpoint_id": id, "time": "2026-11-22T12:00:00Z"}


def test_a_bare_id_and_a_relative_address(server, client, target):
    offer(server, None, place="final")
    server.on("GET", PLACE, {"checkpoints": [row(SAMPLER)]})
    headers = {"Location": f"/api/v1/{PLACE}/final/download"}
    server.on("GET", f"{PLACE}/final/archive", server.reply(status=302, headers=headers))
    server.on("GET", f"{PLACE}/final/download", server.reply(gzip.compress(tar(FILES))))
    client.checkpoints.download("tinker://r:train:0/final", target)
    assert arrived(target) == FILES
    assert server.seen[-1].headers["x-api-key"].startswith("tml-")
    assert server.seen[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "rows", "fetched"),
    [
        (SAMPLER, [row(SAMPLER)], True),
        (SAMPLER, [row(SAMPLER), row(TRAINING)], True),  # SkyRL: the sampler's, which is said
        (SAMPLER, [row(TRAINING)], False),
        (SAMPLER, [row(SAMPLER, "sampler_weights/final")], False),
        (TRAINING, [row(TRAINING)], True),
        (TRAINING, [row(SAMPLER), row(TRAINING)], False),  # it would be the sampler's
    ],
)
def test_an_archive_by_name_only_is_that_of_the_checkpoint(
    path, rows, fetched, copies, client, target, waits
):
    copies.on("POST", "load_weights", copies.reply({"detail": "Missing model_id"}, 422))
    copies.on("GET", PLACE, {"checkpoints": rows})
    copies.on("GET", f"{PLACE}/final/archive", {"url": f"{copies.url}/files/a.tar"})
    copies.on("GET", "/files/a.tar", copies.reply(tar(FILES)))
    with nullcontext() if fetched else pytest.raises(NotOffered):
        client.checkpoints.download(path, target)
    assert target.exists() is fetched
    notes = [wait.note for wait in waits if wait.note]
    twins = fetched and len(rows) == 2
    assert [TRAINING in note for note in notes] == [True] * twins


@pytest.mark.parametrize("form", ["JSON", "redirect"])
def test_another_storage_gets_no_credential(form, server, storage, client, target, home):
    (home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (home / ".netrc").chmod(0o600)
    url = f"{storage.url}/a?sig=1"
    if form == "JSON":
        body = {"url": url, "expires": "2036-01-01T00:00:00Z"}
        server.on("GET", f"{PLACE}/sampler_weights/final/archive", body)
    else:
        offer(server, None)
        server.on("GET", "/files/a.tar", server.reply(status=307, headers={"Location": url}))
    storage.on("GET", "/a", storage.reply(tar(FILES)))
    client.checkpoints.download(SAMPLER, target)
    (seen,) = storage.seen
    assert seen.query == {"sig": "1"}
    assert not {"x-api-key", "authorization"} & set(seen.headers)
    assert "x-api-key" in server.seen[-1].headers


@pytest.mark.parametrize("kind", ["application/gzip", "application/octet-stream", "", "text/plain"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_that_arrives_directly_is_taken(pack, kind, server, client, target):
    place = f"{PLACE}/sampler_weights/final/archive"
    files = {**FILES, "noise": random.Random(0).randbytes(2_000_000)}
    body = pack(tar(files))
    server.on("GET", place, server.reply(body, headers={"Content-Type": kind}))
    client.checkpoints.download(SAMPLER, target)
    assert arrived(target) == files
    assert ["x-api-key" in seen.headers for seen in server.seen] == [True, True]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>Sign in</html>", "text/html", "a web page instead of JSON"),
        (b"{}", "application/octet-stream", "'url'"),
        (b"gone", "application/gzip", "the archive is plain text"),
        (b"", "application/json", "nothing instead of JSON"),
    ],
)
def test_what_arrives_in_place_of_an_archive_is_named(body, kind, words, server, client, target):
    reply = server.reply(body, headers={"Content-Type": kind})
    server.on("GET", f"{PLACE}/sampler_weights/final/archive", reply)
    with pytest.raises(InvalidResponse, match=words):
        client.checkpoints.download(SAMPLER, target)
    assert not target.exists()


@pytest.mark.parametrize("status", [503, 425])
def test_an_archive_in_the_making_is_waited_for(status, server, client, target, naps, waits):
    place = f"{PLACE}/sampler_weights/final/archive"
    making = server.reply({"detail": "still being created"}, status)
    headers = {"Location": f"{server.url}/a"}
    server.on("GET", place, making, making, server.reply(status=302, headers=headers))
    server.on("GET", "/a", server.reply(tar(FILES)))
    client.checkpoints.download(SAMPLER, target)
    assert [w.reason for w in waits] == ["the archive is being created"] * 2
    assert naps == [1, 2]
    server.on("GET", place, making)
    with pytest.raises(APIError, match="still being created"):
        client.checkpoints.download(SAMPLER, target, force=True)


@pytest.mark.parametrize("body", [b"<html>" * 500, tar({**FILES, "../out": b"x"})])
def test_damaged_and_unsafe_archives_leave_nothing(body, server, client, tmp_path, target):
    offer(server, body)
    with pytest.raises(InvalidResponse):
        client.checkpoints.download(SAMPLER, target)
    assert list(tmp_path.iterdir()) == []


def test_a_long_download_outlives_the_timeout(server, connect, target):
    offer(server, None)
    server.on("GET", "/files/a.tar", server.reply(tar(FILES), pieces=10, linger=0.25))
    connect(server.url, timeout=2.0).checkpoints.download(SAMPLER, target)
    assert arrived(target) == FILES


@pytest.mark.parametrize(
    ("status", "detail", "kind", "words"),
    [
        (404, "Not Found", NotOffered, r"does not offer downloads of sampler checkpoints \("),
        (404, "Checkpoint not found: final", NotFound, "Checkpoint not found: final"),
        (
            405,
            "Method Not Allowed",
            NotOffered,
            r"does not offer downloads of sampler checkpoints \(",
        ),
        (405, "Run: modal volume get x", NotOffered, "downloads of .*: Run: modal volume get x"),
    ],
)
def test_no_archive(status, detail, kind, words, server, client, target):
    for place in ("sampler_weights/final", "final"):
        server.on("GET", f"{PLACE}/{place}/archive", server.reply({"detail": detail}, status))
    with pytest.raises(kind, match=words):
        client.checkpoints.download(SAMPLER, target)
    assert not target.exists()


@pytest.mark.parametrize("url", ["ftp://h/x", "data:,x", "http://tinker.test/x"])
def test_other_and_unencrypted_urls_are_refused(url, connect):
    client = connect("https://tinker.test")
    with pytest.raises(InvalidResponse), open_signed(client._transport, url):
        pass


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://h/x", True),
        ("https://H:443/x?y", True),
        ("http://h/x", False),
        ("https://h:444/", False),
        ("https://h.evil/", False),
        ("https://h@evil/", False),
    ],
)
def test_the_key_goes_to_one_origin(url, same):
    assert same_origin(url, "https://h/services/x") is same


# Where it lands ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "force", "requests"),
    [
        ("adapter_config.json", False, 0),
        ("adapter_model.safetensors", False, 0),
        ("notes", False, 2),
        ("notes/", True, 2),
    ],
)
def test_what_is_in_the_way_stays(name, force, requests, server, client, target):
    place = target / name
    if name.endswith("/"):
        place.mkdir(parents=True)
    else:
        target.mkdir()
        place.write_text("old")
    offer(server, tar({**FILES, "notes": b"new"}))
    with pytest.raises(LocalError, match=f"{place.name}( already exists|: it is a directory)"):
        client.checkpoints.download(SAMPLER, target, force=force)
    assert arrived(target) == ({} if place.is_dir() else {name: b"old"})
    assert not leftovers(target)
    assert len(server.seen) == requests


def test_unrelated_files_are_not_in_the_way(server, client, target, monkeypatch):
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    monkeypatch.chdir(target)
    offer(server, tar(FILES))
    done = client.checkpoints.download(SAMPLER, Path("."))
    assert arrived(target) == {**FILES, "mine.txt": b"mine"}
    assert done.directory == Path(".")


def test_a_file_in_place_of_the_directory(server, client, target):
    target.write_text("x")
    for place, words in ((target, "is not a directory"), (target / "below", "cannot write to")):
        with pytest.raises(LocalError, match=words):
            client.checkpoints.download(SAMPLER, place, force=True)
    assert not server.seen


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_names_that_no_file_can_have(name, server, client, tmp_path):
    place = f"{tmp_path}/{name}"
    calls = (
        lambda: client.checkpoints.download(SAMPLER, place),
        lambda: verify(place),
        lambda: client.sessions.export_trace("s-1", place),
    )
    for call in calls:
        with pytest.raises(LocalError, match=r"too long|name|no directory"):
            call()
    assert not server.seen


def offer_files(server, urls: object) -> None:
    place = f"{PLACE}/external_weights/mine/external_weights_urls"
    server.on("GET", place, {"urls": urls})


@pytest.mark.parametrize("there", [True, False])
def test_a_file_whose_name_is_too_long(there, server, client, target):
    if there:
        target.mkdir()
    offer_files(server, {"x" * 300: f"{server.url}/file"})
    server.on("GET", "/file", server.reply(b"x"))
    with pytest.raises(InvalidResponse, match="the download contains a file name that is too long"):
        client.checkpoints.download(EXTERNAL, target)


TOO_MANY = [str(n) for n in range(10_001)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        *(
            (("a/b", same), "conflicting names: 'a.*b")
            for same in ("a//b", "a/./b", "./a/b", "a/b/c")
        ),
        (("a/" * 255 + "b",), "name that is too long: 'a/a"),
        (("é" * 2049,), "name that is too long: 'éé"),
        (TOO_MANY, "more than 10000 files"),
        ([n + "/d" * 250 for n in TOO_MANY[:50]], "more than 10000 files or directories"),
        (("tinkex.lock.json/x",), "unsafe name: 'tinkex.lock.json/x'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_that_cannot_be_files_of_one_checkpoint_are_a_fault_of_the_answer(
    names, words, server, client, target
):
    offer_files(server, dict.fromkeys(names, f"{server.url}/file"))
    with pytest.raises(InvalidResponse, match=words) as caught:
        client.checkpoints.download(EXTERNAL, target)
    assert caught.value.category == "server"
    assert len(server.seen) == 1
    assert list(target.parent.iterdir()) == []


def test_an_absurdly_deep_directory_is_no_bug_of_the_verification(server, client, target):
    offer(server, tar(FILES))
    client.checkpoints.download(SAMPLER, target)
    deep = [f"{target}{'/d' * depth}" for depth in range(1, 1501)]
    for place in deep:
        os.mkdir(place)
    assert {file.status for file in verify(target)} == {"ok"}
    for place in reversed(deep):  # too deep for what tidies up after tests
        os.rmdir(place)


# Separate files ------------------------------------------------------------------------------


@pytest.fixture
def copies(server, storage):
    """A service that makes copies of training checkpoints in separate files."""
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "load_weights", {"request_id": "l"})
    server.on("POST", "save_weights_external", {"request_id": "e"})
    external = "tinker://s-1:train:0/external_weights/download"
    results = {"l": {"model_id": "s-1:train:0"}, "e": {"path": external}}
    server.on("POST", "retrieve_future", lambda s: server.reply(results[s.body["request_id"]]))
    place = "training_runs/s-1:train:0/checkpoints/external_weights/download"
    urls = {name: f"{storage.url}/{name}?sig=1" for name in FILES}
    server.on(
        "GET", f"{place}/external_weights_urls", {"urls": urls, "expires": "2036-01-01T00:00:00Z"}
    )
    server.on("PUT", f"{place}/ttl", None)
    server.on("DELETE", place, None)
    server.on("POST", "sessions/s-1/finish", None)
    for name, content in FILES.items():
        storage.on("GET", f"/{name}", storage.reply(content))
    server.place = place
    return server


def test_a_training_checkpoint_comes_as_a_copy_that_is_removed(copies, storage, client, target):
    progress = []
    done = client.checkpoints.download(TRAINING, target, on_progress=progress.append)
    assert arrived(target) == FILES
    assert done.files == [(name, len(content)) for name, content in FILES.items()]
    assert all("x-api-key" not in seen.headers for seen in storage.seen)
    calls = [(s.method, s.path.removeprefix(copies.place)) for s in copies.seen]
    assert [call for call in calls if call[1] != "retrieve_future"] == [
        ("POST", "create_session"),
        ("POST", "load_weights"),
        ("POST", "save_weights_external"),
        ("GET", "/external_weights_urls"),
        ("PUT", "/ttl"),
        ("DELETE", ""),
        ("POST", "sessions/s-1/finish"),
    ]
    (load,) = copies.requests("load_weights")
    assert load.body["path"] == TRAINING
    assert load.body["optimizer"] is False
    assert progress[-1].done_bytes == 300_002


def test_a_training_checkpoint_is_never_fetched_by_its_bare_name(copies, client, target):
    # Where bare names are known, they are those of sampler checkpoints.
    copies.on("POST", "load_weights", copies.reply({"detail": "Missing model_id"}, 422))
    run, name = TRAINING.removeprefix("tinker://").split("/weights/")
    place = f"training_runs/{run}/checkpoints/{name}/archive"
    copies.on("GET", place, copies.reply(gzip.compress(tar(FILES))))
    with pytest.raises(NotOffered, match="not offer downloads of training checkpoints"):
        client.checkpoints.download(TRAINING, target)
    assert not target.exists()
    assert copies.requests(place) == []


@pytest.mark.parametrize(
    ("call", "status"),
    [*(("load_weights", n) for n in (404, 405, 422, 400)), ("save_weights_external", 404)],
)
def test_without_copies_there_is_the_archive(call, status, copies, client, target):
    detail = "Missing model_id" if call == "load_weights" else "Not Found"
    copies.on("POST", call, copies.reply({"detail": detail}, status))
    offer(copies, tar(FILES), place="weights/final")
    client.checkpoints.download(TRAINING, target)
    assert arrived(target) == FILES
    assert copies.requests("sessions/s-1/finish")[0].body == {"reason": {"type": "success"}}


@pytest.mark.parametrize("has_copies", [True, False])
def test_the_run_of_the_copy_frees_its_place(has_copies, copies, client, target):
    """Where sessions cannot be finished, as on Spindle."""
    gone = copies.reply({"detail": "Not Found"}, 404)
    copies.on("POST", "sessions/s-1/finish", gone)
    if not has_copies:
        copies.on("POST", "save_weights_external", gone)
        offer(copies, tar(FILES), place="weights/final")
    client.checkpoints.download(TRAINING, target)
    assert arrived(target) == FILES
    (unload,) = copies.requests("unload_model")
    assert unload.body == {"model_id": "s-1:train:0"}


@pytest.mark.parametrize("bad", ["refused", "cut", "interrupt"])
def test_the_copy_is_removed_whatever_happens(bad, copies, storage, client, target, tmp_path):
    def heard(progress):
        if bad == "interrupt":
            raise KeyboardInterrupt

    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"
    if bad != "interrupt":
        reply = storage.reply("no", 403) if bad == "refused" else storage.reply(raw=cut)
        storage.on("GET", "/adapter_model.safetensors", reply)
    with pytest.raises((Forbidden, ConnectionFailed, KeyboardInterrupt)):
        client.checkpoints.download(TRAINING, target, on_progress=heard)
    assert len(copies.requests(copies.place, "DELETE")) == 1
    outcome = "interrupted" if bad == "interrupt" else "errored"
    assert copies.requests("sessions/s-1/finish")[0].body == {"reason": {"type": outcome}}
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_separate_files_is_left_alone(server, storage, client, target):
    urls = {"deep/a": f"{storage.url}/a", "b.age": f"{storage.url}/b"}
    offer_files(server, urls)
    storage.on("GET", "/a", storage.reply("no", 403), storage.reply(b"A"))
    storage.on(
        "GET", "/b", storage.reply(gzip.compress(b"B"), headers={"Content-Encoding": "gzip"})
    )
    client.checkpoints.download(EXTERNAL, target)
    assert arrived(target) == {"b.age": b"B", "deep/a": b"A"}
    assert {s.method for s in server.seen} == {"GET"}
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    "urls",
    [
        *(None, [], {}, {"a": 1}),
        *({name: "http://h/a"} for name in ("../x", "/etc/x", "", ".", "a\\..\\x", "\ud800")),
    ],
)
def test_unsafe_names_and_addresses_of_another_shape_are_refused(urls, server, client, target):
    offer_files(server, urls)
    with pytest.raises(InvalidResponse, match=r"unsafe name|no files|urls"):
        client.checkpoints.download(EXTERNAL, target)
    assert len(server.seen) == 1
    assert not target.exists()


def test_the_state_is_not_written_for_each_of_many_small_files(server, client, target, monkeypatch):
    offer_files(server, {str(n): f"{server.url}/{n}" for n in range(300)})
    for number in range(300):
        server.on("GET", f"/{number}", server.reply(b"x", headers={"ETag": '"1"'}))
    monkeypatch.setattr(staging, "_INTERVAL", 3600.0)
    writes, real = [], StateLog.write
    monkeypatch.setattr(StateLog, "write", lambda *words: (writes.append(words), real(*words)))
    client.checkpoints.download(EXTERNAL, target)
    assert len(arrived(target)) == 300
    assert len(writes) < 3


class EnoughError(Exception):
    """Ends an attempt in its middle."""


def test_what_an_attempt_left_running_does_no_harm_to_the_next(server, storage, client, target):
    content = random.Random(0).randbytes(1_000_000)
    urls = {name: f"{storage.url}/{name}" for name in ("small", "large")}
    offer_files(server, urls)
    storage.on("GET", "/small", storage.reply(b"{}"))
    late = storage.reply(content, delay=0.6)
    storage.on("GET", "/large", late, storage.reply(content, pieces=10, linger=0.1))

    def give_up(progress):
        raise EnoughError

    with pytest.raises(EnoughError):
        client.checkpoints.download(EXTERNAL, target, on_progress=give_up)
    client.checkpoints.download(EXTERNAL, target)  # while the response to the first is on its way
    assert (target / "large").read_bytes() == content
