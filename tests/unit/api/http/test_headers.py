"""Further headers of a profile and of Cloudflare Access: sent to the service only, never shown."""

from __future__ import annotations

import json

import pytest

from tests.unit.api.conftest import KEY
from tinkex import settings
from tinkex.exceptions import APIError, SettingsError
from tinkex.testing import invoke

pytestmark = pytest.mark.both_pools
ABOVE = pytest.mark.only_pool("default", "it is decided above the pools")

CANARY = "canary-0123456789abcdef"
HEADERS = {"X-Request-Id": "sticky-1", "Authorization": f"Bearer {CANARY}"}
CLOUDFLARE = {
    "CLOUDFLARE_ACCESS_CLIENT_ID": "id.access",
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": f"secret-{CANARY}",
}
PATH = "get_server_capabilities"


def test_headers_of_the_profile_go_to_the_service_and_to_no_storage(
    server, storage, connect, target
):
    archive = "training_runs/r/checkpoints/sampler_weights/x/archive"
    server.on("GET", archive, server.reply(None, 302, {"Location": f"{storage.url}/a.tar"}))
    client = connect(server.url, headers=HEADERS)
    with pytest.raises(APIError):  # the storage has no such file
        client.checkpoints.download("tinker://r/sampler_weights/x", target)
    for seen in server.seen:
        assert seen.headers["x-request-id"] == "sticky-1"
        assert seen.headers["authorization"] == f"Bearer {CANARY}"
        assert seen.headers["x-api-key"] == KEY
    assert storage.seen
    for seen in storage.seen:
        assert not {"x-request-id", "authorization", "x-api-key"} & seen.headers.keys()
    server.on("GET", "x", {})
    client.request("GET", "x", headers={"authorization": "mine"})  # of this request: it wins
    assert server.seen[-1].headers["authorization"] == "mine"


@ABOVE
def test_a_service_token_of_cloudflare_is_sent_where_the_profile_sets_none(config):
    config("profiles: {p: {headers: {cf-access-client-id: mine}}}")
    assert settings.resolve({}, CLOUDFLARE).headers == {
        "CF-Access-Client-Id": "id.access",
        "CF-Access-Client-Secret": f"secret-{CANARY}",
    }
    found = settings.resolve({"profile": "p"}, CLOUDFLARE)
    assert found.headers["cf-access-client-id"] == "mine"
    assert "CF-Access-Client-Id" not in found.headers
    assert found.origins["headers"] == "profile p, CLOUDFLARE_ACCESS_CLIENT_SECRET"
    assert CANARY not in repr(found)
    with pytest.raises(SettingsError, match="CF-Access-Client-Id has an invalid value"):
        settings.resolve({}, {"CLOUDFLARE_ACCESS_CLIENT_ID": "a\nb"})


@ABOVE
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"X-Key: {CANARY}, X-Number: 0123, X-Bool: yes", None),
        (f'X-Line: "{CANARY}\\n"', "the header X-Line has an invalid value"),
        ("X-Empty: ''", "the header X-Empty has an invalid value"),
        ("x-api-key: a", "the header x-api-key cannot be changed"),
        ("host: a", "the header host cannot be changed"),
        ("X-A: a, x-a: b", "the header x-a appears twice"),
        (f"'{CANARY} x': a", "invalid header name"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_without_their_value(text, message, config):
    config(f"profile: p\nprofiles: {{p: {{headers: {{{text}}}}}}}")
    if message is None:
        known = {"X-Key": CANARY, "X-Number": "0123", "X-Bool": "yes"}
        assert settings.resolve().headers == known
        return
    with pytest.raises(SettingsError, match=message) as caught:
        settings.resolve()
    assert CANARY not in f"{caught.value}{caught.value.hint}"
    config(f"profile: p\nprofiles: {{p: {{headers: '{CANARY}'}}}}")
    with pytest.raises(SettingsError, match="headers must be a mapping"):
        settings.resolve()


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "run", "list"],
        ["-v", "api", "--include", "GET", PATH],
        ["config", "show", "-f", "json"],
        ["config", "get", "headers"],
        ["profile", "list", "-f", "json"],
        ["run", "list", "--curl"],
        ["doctor", "--curl"],
        ["doctor", "--timeout", "5s"],
        ["auth", "status"],
    ],
)
def test_header_values_are_masked_everywhere(words, server, config, tmp_path):
    def echo(seen):
        return server.reply(
            {"detail": f"{seen.headers}", "plain": CANARY}, 400, {"X-Echo": f"is {CANARY}"}
        )

    for path in ("training_runs", "auth/apikey/me", "healthz"):
        server.on("GET", path, echo)
    server.on("GET", PATH, server.reply({"a": CANARY}, headers={"X-Echo": CANARY}))
    text = f"base_url: '{server.url}', api_key: {KEY}, headers: {json.dumps(HEADERS)}"
    config(f"profiles: {{p: {{{text}}}}}")
    log = tmp_path / "log"
    done = invoke([*words, "--profile", "p", "--log-file", str(log)], environ=CLOUDFLARE)
    assert done.stdout + done.stderr
    assert CANARY not in done.stdout + done.stderr + log.read_text()
    assert KEY not in done.stdout + done.stderr


@ABOVE
def test_curl_lines_have_variables_in_place_of_the_values(config):
    text = f"base_url: 'http://127.0.0.1:9', headers: {json.dumps(HEADERS)}"
    config(f"profiles: {{p: {{{text}}}}}")
    words = ["--profile", "p", "api", "GET", PATH, "--curl", "-H", "X-Request-Id: other"]
    line = invoke(words, environ=CLOUDFLARE).stdout
    for header in (
        '"Authorization: $AUTHORIZATION"',
        '"CF-Access-Client-Secret: $CLOUDFLARE_ACCESS_CLIENT_SECRET"',
        "'X-Request-Id: other'",
    ):
        assert f"--header {header}" in line


@ABOVE
def test_headers_are_not_sent_unencrypted_to_another_machine(connect):
    exposed = connect("http://far.test", allow_http=True, headers=HEADERS)._transport
    assert exposed._headers == HEADERS
    plain = connect("http://far.test", allow_http=False, needs_api_key=False, headers=HEADERS)
    assert plain._transport._headers == {}


@ABOVE
def test_a_value_that_is_a_word_stays_in_results(server, connect):
    words = {"X-Project": "a-project-with-a-long-name"}
    server.on("GET", PATH, {"supported_models": [{"model_name": words["X-Project"]}]})
    assert connect(server.url, headers=words).models.list()[0].model_name == words["X-Project"]


@ABOVE
def test_config_set_reads_headers_as_json(config, tmp_path):
    path = config("profiles: {p: {timeout: 30s}}")
    (tmp_path / "h.json").write_text(json.dumps(HEADERS, indent=1))
    words = ["--profile", "p", "config", "set", "headers"]
    done = invoke([*words, f"@{tmp_path}/h.json"])
    assert done.exit_code == 0, done
    assert CANARY not in done.stdout
    assert CANARY in path.read_text()
    assert settings.resolve({"profile": "p"}).headers == HEADERS
    assert invoke([*words, "{"]).exit_code == 1
    assert invoke(["--profile", "p", "config", "unset", "headers"]).exit_code == 0
    assert settings.resolve({"profile": "p"}).headers == {}
