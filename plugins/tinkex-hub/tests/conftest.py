"""A stand-in for the hub: its HTTP API on loopback, as huggingface_hub calls it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tinkex.testing import Invocation, invoke, local_service

TOKEN = "hf_goodgoodgoodgoodgood"
MODEL = "tinkex/baker-street-2M"


class FakeHub:
    """Repositories with branches of files; ``ada`` may write to her own.

    :ivar repos: name → {"private": bool, "branches": {branch: {file: content}}}
    :ivar broken: status that every answer has from now on, or ``None``.
    :ivar lost: the storage refuses uploads.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.commits: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.broken: int | None = None
        self.lost = False
        self.url = ""

    def add(self, repo: str, *, private: bool = True, **files: str) -> None:
        named = {name.replace("_md", ".md"): text.encode() for name, text in files.items()}
        self.repos[repo] = {"private": private, "branches": {"main": named}}

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found: dict[str, bytes] = self.repos[repo]["branches"][branch]
        return found

    def answer(
        self, method: str, path: str, query: str, body: bytes, token: str
    ) -> tuple[int, Any, dict[str, str]]:
        self.requests.append((method, path))
        self.tokens.add(token)
        if path.startswith("/lfs/"):  # the storage has its own signatures
            self.blobs[path.removeprefix("/lfs/")] = body
            return (403 if self.lost else 200), None, {}
        if self.broken:
            return self.broken, {"error": "We are down"}, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}, {}
        words = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return 200, {"name": "ada", "type": "user", "orgs": [{"name": "club"}]}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if words[0] == "api" and len(words) == 4 and method == "GET":
            return self._info("/".join(words[2:4]))
        if "resolve" in words:
            return self._file("/".join(words[:2]), words[3], "/".join(words[4:]))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if words[4:5] == ["branch"]:
            return self._branch("/".join(words[2:4]), unquote(words[5]))
        if words[4:5] == ["preupload"]:
            return self._preupload(json.loads(body))
        if words[4:5] == ["commit"]:
            return self._commit("/".join(words[2:4]), unquote(words[5]), query, body)
        return 404, {"error": "Sorry, we can't find the page you are looking for."}, {}

    def _missing(self, what: str) -> tuple[int, Any, dict[str, str]]:
        return 404, {"error": f"{what}"}, {"X-Error-Code": what}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        owner = wanted.get("organization") or "ada"
        repo = f"{owner}/{wanted['name']}"
        if owner != "ada":
            return 403, {"error": f"You don't have the rights to create a model under {owner}"}, {}
        if repo in self.repos:
            return 409, {"error": "You already created this model repo"}, {}
        private = wanted.get("visibility", "private" if wanted.get("private") else "") == "private"
        self.repos[repo] = {"private": private, "branches": {"main": {}}}
        return 200, {"url": f"{self.url}/{repo}", "name": repo}, {}

    def _info(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        if repo not in self.repos:
            return self._missing("RepoNotFound")
        known = {"private": self.repos[repo]["private"], "sha": "0" * 40, "siblings": []}
        return 200, {"id": repo, "modelId": repo, "tags": [], "downloads": 0, **known}, {}

    def _file(self, repo: str, branch: str, name: str) -> tuple[int, Any, dict[str, str]]:
        if repo not in self.repos:
            return self._missing("RepoNotFound")
        if unquote(branch) not in self.repos[repo]["branches"]:
            return self._missing("RevisionNotFound")
        content = self.files(repo, unquote(branch)).get(name)
        if content is None:
            return self._missing("EntryNotFound")
        tag = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": "0" * 40}

    def _branch(self, repo: str, branch: str) -> tuple[int, Any, dict[str, str]]:
        branches = self.repos[repo]["branches"]
        if branch in branches:
            return 409, {"error": f"Reference already exists: {branch}"}, {}
        branches[branch] = dict(branches["main"])
        return 200, None, {}

    def _preupload(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        def mode(name: str) -> str:
            return "lfs" if name.endswith(".safetensors") else "regular"

        files = [
            {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
            for f in wanted["files"]
        ]
        return 200, {"files": files}, {}

    def _batch(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
            for item in wanted["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _commit(
        self, repo: str, branch: str, query: str, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        lines = [json.loads(line) for line in body.splitlines() if line]
        changed: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.blobs[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                changed[value["path"]] = content
        pull_request = "create_pr=1" in query
        self.commits.append({"branch": branch, "pr": pull_request, "files": changed, **lines[0]})
        if not pull_request:
            self.files(repo, branch).update(changed)
        url = f"{self.url}/{repo}/discussions/1" if pull_request else None
        commit = f"{self.url}/{repo}/commit/{'1' * 40}"
        return 200, {"commitUrl": commit, "commitOid": "1" * 40, "pullRequestUrl": url}, {}


def serving(hub: FakeHub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _serve(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            token = self.headers.get("Authorization", "")
            status, value, headers = hub.answer(
                self.command.replace("HEAD", "GET"), parts.path, parts.query, body, token
            )
            raw = isinstance(value, bytes)
            content = value if raw else b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if raw else "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)
            self.wfile.flush()

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a hub without repositories."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub = FakeHub()
    server = serving(hub)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


class Pushing:
    """``checkpoint push-hf`` of a checkpoint on a local service, to the stand-in."""

    def __init__(self, hub: FakeHub, path: str, scratch: Path) -> None:
        self.hub, self.path, self.scratch = hub, path, scratch

    def __call__(
        self, *words: str, token: str | None = TOKEN, stdin: str = "", path: str = "", **more: str
    ) -> Invocation:
        environ = {"HF_ENDPOINT": self.hub.url} | ({"HF_TOKEN": token} if token else {}) | more
        argv = ["checkpoint", "push-hf", path or self.path, *words]
        done = invoke(argv, environ=environ, stdin=stdin)
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stderr + done.stdout
        assert [p for p in self.scratch.iterdir() if "tinkex-hub" in p.name] == []
        return done


@pytest.fixture
def push(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pushing]:
    """Return the command, ready for a checkpoint of rank 4."""
    pytest.importorskip("tinkex_local")
    import tempfile

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with local_service(tmp_path / "home"):
        saved = tmp_path / "saved.json"
        argv = ["checkpoint", "--base-model", MODEL, "--rank", "4", "--output", str(saved)]
        done = invoke(argv)
        assert done.exit_code == 0, done.stderr
        path = json.loads(saved.read_text())["weights_path"]
        yield Pushing(hub, path, tmp_path / "scratch")
