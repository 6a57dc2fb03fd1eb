"""Named HTTP pools against a server of TLS: its own authority, a client certificate, no checks."""

from __future__ import annotations

import io
import json
import ssl
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.serving import Reply, Request, serving
from tinkex.testing import invoke

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")

KEY = "tml-pools-0123456789abcdef"


class Runs:
    """Lists one run, hands out an archive of another storage, and counts requests."""

    seen = 0
    storage = ""

    def __call__(self, request: Request) -> Reply:
        self.seen += 1
        if request.path.endswith("/archive"):
            return Reply({"url": f"{self.storage}/files.tar"})
        if request.path == "/files.tar":
            return Reply(archive())
        runs = [{"training_run_id": "run-1", "base_model": "m", "model_owner": "me"}]
        cursor = {"offset": 0, "limit": 20, "total_count": 1}
        return Reply({"training_runs": runs, "cursor": cursor})


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("adapter_config.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    return buffer.getvalue()


@dataclass(frozen=True)
class Servers:
    """Two servers of one authority, the second of which asks for a client certificate."""

    directory: Path
    url: str
    strict_url: str
    handler: Runs


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("tls")
    ours, stranger = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    stranger.cert_pem.write_to_path(directory / "stranger.pem")
    client = ours.issue_cert("somebody@example.org")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    client.private_key_pem.write_to_path(directory / "client.key")
    client.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    stranger.issue_cert("x@example.org").private_key_pem.write_to_path(directory / "other.key")
    (directory / "no.pem").write_text("nothing of the kind\n")
    contexts = []
    for strict in (False, True):
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        ours.issue_cert("127.0.0.1").configure_cert(contexts[-1])
        if strict:
            contexts[-1].verify_mode = ssl.CERT_REQUIRED
            ours.configure_trust(contexts[-1])
    runs = Runs()
    with serving(runs, contexts[0]) as url, serving(runs, contexts[1]) as strict_url:
        runs.storage = strict_url
        yield Servers(directory, url, strict_url, runs)


@pytest.fixture
def run(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that lists runs with one pool, ``office``, of the given options."""
    servers.handler.seen = 0
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("TINKEX_CONFIG", str(path))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(options: Any, *words: str, url: str = servers.url, code: int = 0) -> Any:
        path.write_text(yaml.safe_dump({"http_pools": {"office": options}}))
        words = words or ("run", "list", "-f", "json", "--http-pool", "office")
        done = invoke([*words, "--base-url", url, "--api-key", KEY])
        assert done.exit_code == code, done.stderr
        if code:
            assert done.stdout == ""
        return done

    return call


def test_an_authority_of_ones_own(run, servers):
    options = {"ca_bundle": str(servers.directory / "ca.pem")}
    done = run(options)
    assert json.loads(done.stdout)[0]["training_run_id"] == "run-1"
    assert done.stderr == ""


def test_another_authority_is_told(run, servers):
    options = {"ca_bundle": str(servers.directory / "stranger.pem")}
    done = run(options, code=1)
    assert "could not be verified" in done.stderr
    assert "ca_bundle" in done.stderr
    assert servers.handler.seen == 0


@pytest.mark.parametrize("files", [("client.pem", "client.key"), ("both.pem", None)])
def test_a_client_certificate(run, servers, files):
    options = {"ca_bundle": str(servers.directory / "ca.pem")}
    run(options, url=servers.strict_url, code=1)
    options["client_cert"] = str(servers.directory / files[0])
    if files[1]:
        options["client_key"] = str(servers.directory / files[1])
    assert "run-1" in run(options, url=servers.strict_url).stdout


def test_without_checks_is_loud(run):
    flag = ("run", "list", "-f", "json", "--quiet", "--insecure", "--http-pool", "office")
    pool = ("run", "list", "-f", "json", "--quiet", "--http-pool", "office")
    for words, options, origin in (
        (flag, {}, "--insecure"),
        (pool, {"insecure": True}, "http_pools.office"),
    ):
        done = run(options, *words)
        assert "run-1" in done.stdout
        assert done.stderr.count("WARNING: certificates are not checked") == 1
        assert origin in done.stderr


def test_an_option_behind_the_command_or_before_it(run):
    for words in (("--insecure", "run", "list"), ("run", "list", "--insecure")):
        assert "WARNING: certificates" in run({}, *words).stderr
    assert "could not be verified" in run({}, "run", "list", code=1).stderr


def test_the_official_service_by_default_is_never_without_checks(run, monkeypatch):
    run({}, "config", "show")
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    done = invoke(["run", "list", "--insecure", "--api-key", KEY])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "certificate checks stay on for the official service" in done.stderr


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ca_bundle": "nowhere.pem"}, "ca_bundle of the HTTP pool cannot be read"),
        ({"ca_bundle": "no.pem"}, "holds no certificate"),
        ({"client_cert": "nowhere.pem"}, "client_cert of the HTTP pool cannot be read"),
        ({"client_cert": "."}, "is a directory"),
        ({"client_cert": "client.pem"}, "cannot be used with its key"),
        ({"client_cert": "client.pem", "client_key": "other.key"}, "cannot be used with its key"),
        ({"client_cert": "client.pem", "client_key": "nowhere"}, "client_key of the HTTP pool"),
    ],
)
def test_files_that_cannot_be_used(run, servers, options, what):
    done = run({name: str(servers.directory / file) for name, file in options.items()}, code=1)
    assert what in done.stderr
    assert done.stderr.count("\n") <= 2


def test_show_tells_options_and_where_from(run, servers):
    authority = str(servers.directory / "ca.pem")
    words = ("config", "show", "-f", "json", "--http-pool", "office")
    done = run({"ca_bundle": authority}, *words)
    found = {row["name"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)}
    assert found["http_pool"] == ("office", "--http-pool")
    assert found["http_pool.driver"] == ("default", "http_pools.office")
    assert found["http_pool.ca_bundle"] == (authority, "http_pools.office")
    assert found["http_pool.insecure"] == (False, "default")


def test_curl_says_the_same(run, servers):
    options = {"ca_bundle": str(servers.directory / "ca.pem")}
    words = ("run", "list", "--curl", "--http-pool", "office")
    assert f"--cacert {options['ca_bundle']}" in run(options, *words).stdout
    assert "curl --insecure " in run(options, *words, "--insecure").stdout


def test_doctor_looks_with_the_same_eyes(run, servers):
    words = ("doctor", "-f", "json", "--http-pool", "office", "--timeout", "5s")
    path = str(servers.directory / "ca.pem")
    for options, status in (({"ca_bundle": path}, "ok"), ({"insecure": True}, "warning")):
        done = invoke_any(run, options, *words)
        found = {row["check"]: row["status"] for row in json.loads(done.stdout)}
        assert found["tls"] == status


def invoke_any(run: Callable[..., Any], options: Any, *words: str) -> Any:
    """Return the outcome of *words*, whose exit code says what the server lacks."""
    try:
        return run(options, *words)
    except AssertionError:
        return run(options, *words, code=1)


def test_downloads_come_the_same_way(run, servers, tmp_path):
    """The storage is another host, which asks for the certificate too."""
    authority, both = (str(servers.directory / name) for name in ("ca.pem", "both.pem"))
    download = ("checkpoint", "download", "tinker://r/sampler_weights/x", "--http-pool", "office")
    for number, (options, trusted) in enumerate(
        (
            ({"ca_bundle": authority, "client_cert": both}, True),
            ({"client_cert": both, "insecure": True}, True),
            ({"ca_bundle": authority}, False),
            ({"client_cert": both}, False),
        )
    ):
        target = tmp_path / str(number)
        words = (*download, "--timeout", "20s", "--output", str(target))
        run(options, *words, code=0 if trusted else 1)
        assert target.exists() is trusted


def test_completion_offers_the_names(run, monkeypatch):
    from tinkex.cli.completion import _pools

    run({}, "config", "show")
    assert {"office", "default", "local"} <= set(_pools())


def test_a_profile_shows_the_options_of_its_pool(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("TINKEX_CONFIG", str(path))
    path.write_text(
        "http_pools: {office: {insecure: true}}\nprofiles: {p: {http_pool: office}, q: {}}\n"
    )
    rows = {row["name"]: row for row in invoke(["profile", "list", "-f", "json"]).rows}
    assert rows["p"]["http_pool_options"] == {"insecure": True}
    assert rows["q"]["http_pool_options"] is None
