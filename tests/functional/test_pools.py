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

pytestmark = [
    pytest.mark.both_pools,
    pytest.mark.usefixtures("naps"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]

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
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                tar.addfile(tarfile.TarInfo("checkpoint_complete"))
            return Reply(buffer.getvalue())
        runs = [{"training_run_id": "run-1", "base_model": "m", "model_owner": "me"}]
        cursor = {"offset": 0, "limit": 20, "total_count": 1}
        return Reply({"training_runs": runs, "cursor": cursor})


@dataclass(frozen=True)
class Servers:
    """Two servers of one authority, the second of which asks for a client certificate."""

    directory: Path
    url: str
    strict_url: str
    handler: Runs

    def options(self, **files: str) -> dict[str, str]:
        return {name: str(self.directory / file) for name, file in files.items()}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("tls")
    ours, stranger = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    stranger.cert_pem.write_to_path(directory / "stranger.pem")
    client = ours.issue_cert("client@example.org")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    client.private_key_pem.write_to_path(directory / "client.key")
    client.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    stranger.issue_cert("x@example.org").private_key_pem.write_to_path(directory / "other.key")
    (directory / "no.pem").write_text("nothing of the kind\n")
    open_to_all, strict = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    for context in (open_to_all, strict):
        ours.issue_cert("127.0.0.1").configure_cert(context)
    strict.verify_mode = ssl.CERT_REQUIRED
    ours.configure_trust(strict)
    runs = Runs()
    with serving(runs, open_to_all) as url, serving(runs, strict) as strict_url:
        runs.storage = strict_url
        yield Servers(directory, url, strict_url, runs)


@pytest.fixture
def run(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, http_pool: str
) -> Callable[..., Any]:
    """Return a function that lists runs with one pool, ``office``, of the given options."""
    servers.handler.seen = 0
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("TINKEX_CONFIG", str(path))

    def call(options: Any, *words: str, url: str = servers.url, code: int | None = 0) -> Any:
        path.write_text(
            yaml.safe_dump({"http_pools": {"office": {"driver": http_pool, **options}}})
        )
        words = words or ("run", "list", "-f", "json", "--http-pool", "office")
        done = invoke([*words, "--base-url", url, "--api-key", KEY])
        assert code in (None, done.exit_code), done.stderr
        if code:
            assert done.stdout == ""
        return done

    return call


CA = {"ca_bundle": "ca.pem"}
CERTIFICATE = {"client_cert": "client.pem", "client_key": "client.key"}


@pytest.mark.parametrize(
    ("files", "strict", "message"),
    [
        (CA, False, None),
        (CA, True, ""),
        (CA | CERTIFICATE, True, None),
        (CA | {"client_cert": "both.pem"}, True, None),
        ({}, False, "could not be verified"),
        ({"ca_bundle": "stranger.pem"}, False, "could not be verified"),
        ({"ca_bundle": "nowhere.pem"}, False, "cannot read the HTTP pool's ca_bundle"),
        ({"ca_bundle": "no.pem"}, False, "contains no valid certificate"),
        ({"client_cert": "nowhere.pem"}, False, "cannot read the HTTP pool's client_cert"),
        ({"client_cert": "."}, False, "s a directory"),
        ({"client_cert": "client.pem"}, False, "with its key: "),
        (CERTIFICATE | {"client_key": "other.key"}, False, "with its key: "),
        (CERTIFICATE | {"client_key": "nowhere"}, False, "the HTTP pool's client_key"),
    ],
)
def test_files_of_a_pool(run, servers, files, strict, message):
    url = servers.strict_url if strict else servers.url
    done = run(servers.options(**files), url=url, code=0 if message is None else 1)
    if message is None:
        assert json.loads(done.stdout)[0]["training_run_id"] == "run-1"
        assert done.stderr == ""
    else:
        assert message in done.stderr
        assert servers.handler.seen == 0


UNCHECKED = pytest.mark.only_pool("default", "http2 always checks certificates")


@UNCHECKED
@pytest.mark.parametrize(
    ("words", "options", "origin"),
    [
        ("run list --quiet --insecure --http-pool office", {}, "--insecure"),
        ("--insecure run list --quiet", {}, "--insecure"),
        ("run list --quiet --http-pool office", {"insecure": True}, "http_pools.office"),
    ],
)
def test_without_checks_is_loud(run, words, options, origin):
    done = run(options, *words.split())
    assert "run-1" in done.stdout
    assert done.stderr.count("WARNING: TLS certificates are not verified") == 1
    assert origin in done.stderr


def test_options_are_shown_with_their_origin_as_curl_and_to_the_doctor(run, servers, http_pool):
    options = servers.options(**CA)
    words = ("--http-pool", "office", "--timeout", "30s")
    done = run(options, "config", "show", "-f", "json", *words)
    found = {row["name"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)}
    assert found["http_pool"] == ("office", "--http-pool")
    assert found["http_pool.driver"] == (http_pool, "http_pools.office")
    assert found["http_pool.ca_bundle"] == (options["ca_bundle"], "http_pools.office")
    assert found["http_pool.insecure"] == (False, "default")
    curl = ("run", "list", "--curl", *words)
    assert f"--cacert {options['ca_bundle']}" in run(options, *curl).stdout
    assert "curl --insecure " in run(options, *curl, "--insecure").stdout
    assert tls_of(run(options, "doctor", "-f", "json", *words, code=None)) == "ok"


@UNCHECKED
def test_the_doctor_warns_of_certificates_that_are_not_checked(run):
    words = ("doctor", "-f", "json", "--http-pool", "office", "--timeout", "30s")
    assert tls_of(run({"insecure": True}, *words, code=None)) == "warning"


def tls_of(done: Any) -> str:
    found: str = {row["check"]: row["status"] for row in json.loads(done.stdout)}["tls"]
    return found


def test_downloads_come_the_same_way(run, servers, tmp_path, http_pool):
    """The storage is another host, which asks for the certificate too."""
    certificate = servers.options(client_cert="both.pem")
    download = ("checkpoint", "download", "tinker://r/sampler_weights/x", "--http-pool", "office")
    for number, (options, trusted) in enumerate(
        (
            (servers.options(**CA) | certificate, True),
            (certificate | {"insecure": True}, http_pool == "default"),  # http2 always checks
            (servers.options(**CA), False),
            (certificate, False),
        )
    ):
        target = tmp_path / str(number)
        words = (*download, "--timeout", "20s", "--output", str(target))
        run(options, *words, code=0 if trusted else 1)
        assert target.exists() is trusted
