"""A fake hub: the HTTP API that huggingface_hub uses, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.exporting import World
from tests.serving import Reply, Request, serving
from tinkex.testing import Invocation, invoke, isolated, local_service

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
        self.tokens: set[str] = set()
        self.commits: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.broken: int | None = None
        self.lost = False
        self.url = ""

    def add(self, repo: str, *, private: bool = True, readme: str | None = None) -> None:
        files = {} if readme is None else {"README.md": readme.encode()}
        self.repos[repo] = {"private": private, "branches": {"main": files}}

    def add_base(self) -> None:
        """Add the base model of the local service: its configuration and header, no weights."""
        shapes: dict[str, tuple[int, int]] = {"model.embed_tokens.weight": (2048, 192)}
        for layer in range(4):
            path = f"model.layers.{layer}"
            for name, outputs in (("q", 192), ("k", 64), ("v", 64), ("o", 192)):
                shapes[f"{path}.self_attn.{name}_proj.weight"] = (outputs, 192)
            shapes |= {f"{path}.mlp.{name}_proj.weight": (512, 192) for name in ("gate", "up")}
            shapes[f"{path}.mlp.down_proj.weight"] = (192, 512)
        tensors, end = {}, 0
        for name, shape in shapes.items():
            place = [end, end := end + 2 * shape[0] * shape[1]]
            tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": place}
        header = json.dumps(tensors).encode()
        self.add(MODEL)
        self.files(MODEL)["config.json"] = b'{"model_type": "qwen3"}'
        self.files(MODEL)["model.safetensors"] = len(header).to_bytes(8, "little") + header

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found: dict[str, bytes] = self.repos[repo]["branches"][branch]
        return found

    def answer(self, request: Request) -> Reply:
        body, stream, path = request.body, request.handler.rfile, request.path
        if "chunked" in request.headers.get("transfer-encoding", ""):
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
        token = request.headers.get("authorization", "")
        self.tokens.add(token)
        if path.startswith("/lfs/"):  # the storage has its own signatures
            self.blobs[path.removeprefix("/lfs/")] = body
            return Reply(status=403 if self.lost else 200)
        if self.broken:
            return Reply({"error": "We are down"}, self.broken)
        if token != f"Bearer {TOKEN}":
            return Reply({"error": "Invalid username or password."}, 401)
        words = [unquote(word) for word in path.strip("/").split("/")]
        repo = "/".join(words[2:4])
        if path == "/api/whoami-v2":
            return Reply({"name": "ada", "type": "user", "orgs": [{"name": "club"}]})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return Reply({"errors": [], "warnings": []})
        if words[0] == "api" and len(words) == 4 and request.method in ("GET", "HEAD"):
            return self._info(repo)
        if "resolve" in words:
            return self._file("/".join(words[:2]), words[3], "/".join(words[4:]))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if words[4:5] == ["branch"]:
            branches = self.repos[repo]["branches"]
            branches[words[5]] = dict(branches["main"])
            return Reply()
        if words[4:5] == ["preupload"]:
            return self._preupload(json.loads(body))
        if words[4:5] == ["commit"]:
            return self._commit(repo, words[5], "create_pr" in request.query, body)
        return Reply({"error": "Sorry, we can't find the page you are looking for."}, 404)

    def _create(self, wanted: dict[str, Any]) -> Reply:
        owner = wanted.get("organization") or "ada"
        repo = f"{owner}/{wanted['name']}"
        if owner != "ada":
            error = f"You don't have the rights to create a model under {owner}"
            return Reply({"error": error}, 403)
        if repo in self.repos:
            return Reply({"error": "You already created this model repo"}, 409)
        private = wanted.get("visibility", "private" if wanted.get("private") else "") == "private"
        self.add(repo, private=private)
        return Reply({"url": f"{self.url}/{repo}", "name": repo})

    def _info(self, repo: str) -> Reply:
        if repo not in self.repos:
            return missing("RepoNotFound")
        known = {"private": self.repos[repo]["private"], "sha": "0" * 40, "siblings": []}
        return Reply({"id": repo, "modelId": repo, "tags": [], "downloads": 0, **known})

    def _file(self, repo: str, branch: str, name: str) -> Reply:
        if repo not in self.repos:
            return missing("RepoNotFound")
        if branch not in self.repos[repo]["branches"]:
            return missing("RevisionNotFound")
        content = self.files(repo, branch).get(name)
        if content is None:
            return missing("EntryNotFound")
        tag = hashlib.sha256(content).hexdigest()
        return Reply(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": "0" * 40})

    def _preupload(self, wanted: dict[str, Any]) -> Reply:
        files = []
        for path in (file["path"] for file in wanted["files"]):
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
        return Reply({"files": files})

    def _batch(self, wanted: dict[str, Any]) -> Reply:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
            for item in wanted["objects"]
        ]
        return Reply({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, pull_request: bool, body: bytes) -> Reply:
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
        self.commits.append(lines[0]["value"])
        if not pull_request:
            self.files(repo, branch).update(changed)
        url = f"{self.url}/{repo}/discussions/1" if pull_request else None
        commit = {"commitUrl": f"{self.url}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return Reply({**commit, "pullRequestUrl": url})


def missing(what: str) -> Reply:
    return Reply({"error": what}, 404, {"X-Error-Code": what})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run a test as a new user without a network; the library reads the variable only once."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with isolated(tmp_path / "user"):
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a hub without repositories."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub = FakeHub()
    with serving(hub.answer) as hub.url:
        yield hub


@pytest.fixture
def push(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return ``checkpoint push-hf`` of a checkpoint of rank 4 on a local service, to the stand-in.

    Its attributes are the *hub* and the *path* of the checkpoint.
    """
    pytest.importorskip("tinkex_local")
    import tempfile

    scratch, saved = tmp_path / "scratch", tmp_path / "saved.json"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def push(
        *words: str, token: str | None = TOKEN, stdin: str = "", path: str = "", **more: str
    ) -> Invocation:
        environ = {"HF_ENDPOINT": hub.url} | ({"HF_TOKEN": token} if token else {}) | more
        argv = ["checkpoint", "push-hf", path or push.path, *words]
        done = invoke(argv, environ=environ, stdin=stdin)
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stderr + done.stdout
        assert [p for p in scratch.iterdir() if "tinkex-hub" in p.name] == []
        return done

    with local_service(tmp_path / "home"):
        argv = ["checkpoint", "--base-model", MODEL, "--rank", "4", "--output", str(saved)]
        done = invoke(argv)
        assert done.exit_code == 0, done.stderr
        push.hub, push.path = hub, json.loads(saved.read_text())["weights_path"]
        yield push


@pytest.fixture
def world(tmp_path: Path) -> Any:
    def make(family: str = "llama", *args: Any) -> World:
        return World(tmp_path, family, *args)

    return make
