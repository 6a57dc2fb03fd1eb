"""The key: whose it is, whether the service accepts it, and revoking it."""

from __future__ import annotations

import base64
import json

import pytest
import responses

from tinkex.api import Identity, ServiceClient
from tinkex.exceptions import Forbidden, InvalidResponse, NotOffered, Unauthorized

BASE = "https://host.example/base"
API = f"{BASE}/api/v1"
ME = {
    "key_id": 7,
    "name": "laptop",
    "note": "",
    "details": {
        "org_details": {"name": "Example Org"},
        "user_details": {"email": "a@example.org"},
    },
}


def token(**claims) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJh.{payload}.sig"


@pytest.fixture
def service():
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def client():
    with ServiceClient(api_key="tml-raw", base_url=BASE) as client:
        yield client


def add_token(service, jwt: str | None) -> None:
    service.post(f"{API}/client/config", json={"pjwt_auth_enabled": jwt is not None})
    if jwt is not None:
        service.post(f"{API}/auth/token", json={"jwt": jwt})


@pytest.mark.parametrize(
    "body",
    [[], {}, {"key_id": None}, {"key_id": ""}, {"key_id": True}, {"key_id": 1, "details": 3}],
)
def test_unexpected_descriptions(service, client, body):
    service.get(f"{API}/auth/apikey/me", json=body)
    with pytest.raises(InvalidResponse):
        client.auth.check()


@pytest.mark.parametrize("body", [{"key_id": "k1"}, {"key_id": 1.0, "details": None}])
def test_what_a_server_does_not_report_is_left_out(service, client, body):
    service.get(f"{API}/auth/apikey/me", json=body)
    assert client.auth.check().api_key.email is None


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_information_gets_a_request_for_runs(service, client, status):
    service.get(f"{API}/auth/apikey/me", status=status, json={"detail": "Not Found"})
    runs = service.get(f"{API}/training_runs", json={"training_runs": []})
    assert client.auth.check().api_key is None
    service.replace("GET", runs.url, status=403, json={"detail": "Invalid API key"})
    with pytest.raises(Forbidden):
        client.auth.check()


CAPABILITIES = f"{API}/get_server_capabilities"


def keyless_is(status: int):
    def answer(request):
        return (200 if "X-API-Key" in request.headers else status), {}, "{}"

    return answer


@pytest.mark.parametrize(("keyless", "is_proved"), [(200, False), (401, True), (403, True)])
def test_a_server_without_lists_proves_the_key_only_where_it_needs_one(
    service, client, keyless, is_proved
):
    service.assert_all_requests_are_fired = False
    for path in ("auth/apikey/me", "training_runs", "checkpoints", "sessions"):
        service.get(f"{API}/{path}", status=404, json={"detail": "Not Found"})
    service.add_callback("GET", CAPABILITIES, keyless_is(keyless))
    assert client.auth.check().is_proved is is_proved
    service.replace("GET", CAPABILITIES, status=400, json={"error": "no API key given"})
    with pytest.raises(Unauthorized):
        client.auth.check()
    service.replace("GET", CAPABILITIES, status=404)
    with pytest.raises(NotOffered, match="does not offer an endpoint for checking a key"):
        client.auth.check()


def test_identity_joins_the_record_and_the_token(service, client):
    service.get(f"{API}/auth/apikey/me", json=ME)
    add_token(service, token(sub="tml:user:u1", org_id="o1", email="b@example.org"))
    assert client.auth.identity() == Identity(
        email="a@example.org",
        organization="Example Org",
        user_urn="tml:user:u1",
        org_urn="tml:organization:o1",
        key_id="7",
        key_name="laptop",
    )


@pytest.mark.parametrize("jwt", [None, "eyJ", "eyJ.%%%.x", "eyJ.W10.x", token(sub=5)])
def test_identity_without_a_useful_token(service, client, jwt):
    service.get(f"{API}/auth/apikey/me", json=ME)
    add_token(service, jwt)
    assert client.auth.identity().user_urn is None


def test_identity_without_a_record_of_the_key(service, client):
    service.get(f"{API}/auth/apikey/me", status=404, json={"detail": "Not Found"})
    add_token(service, token(sub="tml:user:u1", email=""))
    assert client.auth.identity() == Identity(user_urn="tml:user:u1")
    service.replace("POST", f"{API}/client/config", status=404)
    other = ServiceClient(api_key="tml-other", base_url=BASE)
    with other, pytest.raises(NotOffered, match="information about keys"):
        other.auth.identity()


def test_a_token_instead_of_a_key_is_read_itself(service):
    service.get(f"{API}/training_runs", json={"training_runs": []})
    with ServiceClient(api_key=token(sub="tml:user:u2"), base_url=BASE) as client:
        assert client.auth.check().api_key is None
        assert client.auth.identity().user_urn == "tml:user:u2"


def test_revoking(service, client):
    service.delete(f"{API}/auth/apikey/me", status=204)
    client.auth.revoke()
