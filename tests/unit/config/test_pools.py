"""Options of HTTP pools: how they are read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinkex import settings
from tinkex.config.pools import options_of
from tinkex.exceptions import SettingsError
from tinkex.plugins import PoolOptions

HERE = Path("/etc/tinkex")


def found(values, name="office"):
    return options_of(name, {"http_pools": {name: values}}, HERE, {"default", "local"})


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("office", None, PoolOptions("auto")),
        ("local", {"insecure": True}, PoolOptions("local", insecure=True)),
        ("office", {"driver": "local", "insecure": True}, PoolOptions("local", insecure=True)),
        ("office", {"ca_bundle": "ca.pem"}, PoolOptions("auto", ca_bundle="/etc/tinkex/ca.pem")),
        ("office", {"ca_bundle": "/ca.pem"}, PoolOptions("auto", ca_bundle="/ca.pem")),
        ("office", {"ca_bundle": None}, PoolOptions("auto")),
    ],
)
def test_options_are_read(name, values, expected):
    assert found(values, name)[0] == expected


def test_paths_may_begin_with_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert found({"client_cert": "~/c.pem"})[0].client_cert == "/home/me/c.pem"


@pytest.mark.parametrize(
    ("values", "what", "hint"),
    [
        ({"insecur": 3}, "unknown option 'insecur'", "Known options: driver, ca_bundle"),
        ({3: 3}, "unknown option '3'", "Known"),
        ({"insecure": "yes"}, "expected true or false, not", ""),
        ({"ca_bundle": 3}, "must be a path", ""),
        ({"ca_bundle": ""}, "must be a path", ""),
        ({"driver": ["x"]}, "must be a name", ""),
        ({"client_key": "k.pem"}, "has a client_key but no client_cert", "certificate"),
        ([1], "must be a mapping", ""),
    ],
)
def test_what_is_refused(values, what, hint):
    with pytest.raises(SettingsError, match=what) as caught:
        found(values)
    assert hint in (caught.value.hint or "")


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("TINKEX_CONFIG", str(path))
    monkeypatch.delenv("TINKEX_HTTP_POOL", raising=False)
    return path.write_text


def test_a_name_chosen_by_option_variable_or_profile(config, monkeypatch):
    config(
        "http_pools: {a: {ca_bundle: /1}, b: {ca_bundle: /2}, c: {ca_bundle: /3}}\nprofiles: {p: {http_pool: c}}"
    )
    assert settings.resolve({"http_pool": "a"}).pool_options.ca_bundle == "/1"
    assert settings.resolve({"profile": "p"}).pool_options.ca_bundle == "/3"
    monkeypatch.setenv("TINKEX_HTTP_POOL", "b")
    assert settings.resolve({}).pool_options.ca_bundle == "/2"
    assert settings.resolve({}).pool_options.driver == "auto"


def test_the_pool_of_another_server_keeps_its_address(config):
    config("http_pools: {mine: {driver: local}}")
    found = settings.resolve({"http_pool": "mine"})
    assert (found.pool_driver, found.needs_api_key) == ("local", False)
    assert found.origins["base_url"] == "HTTP pool local"


@pytest.mark.parametrize("profile", ["local", "mine"])
def test_another_pool_does_not_replace_the_server_of_a_profile(config, monkeypatch, profile):
    config("http_pools: {own: {driver: local}}\nprofiles: {mine: {http_pool: own}}")
    one, other = {"profile": profile, "http_pool": "default"}, "http://127.0.0.1:9"
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:8")  # --profile precedes it
    for pool in ("default", "auto"):
        with pytest.raises(SettingsError, match=r"requires the HTTP pool '(local|own)'") as caught:
            settings.resolve({**one, "http_pool": pool})
        assert str(caught.value).endswith(f"but --http-pool selects '{pool}'")
        assert "Omit --http-pool, or specify" in str(caught.value.hint)
    assert settings.resolve({**one, "http_pool": "local"}).base_url.startswith("http://local.")
    assert settings.resolve({**one, "base_url": other}).base_url == other

    monkeypatch.setenv("TINKEX_PROFILE", profile)
    monkeypatch.setenv("TINKEX_HTTP_POOL", "default")
    assert settings.resolve().base_url == "http://127.0.0.1:8"
    monkeypatch.delenv("TINKER_BASE_URL")
    with pytest.raises(SettingsError, match="but TINKEX_HTTP_POOL selects 'default'") as caught:
        settings.resolve()
    assert "Unset TINKEX_HTTP_POOL, or specify" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "flags", "what", "hint"),
    [
        ("http_pools: [1]", {}, "http_pools in the configuration file", ""),
        (
            "profiles: {p: {http_pool: {insecure: true}}}",
            *({"profile": "p"}, "a name, not a mapping", "http_pools at the top"),
        ),
        (
            "http_pools: {office: {driver: nope}}",
            *({"http_pool": "office"}, r"nope.*from http_pools\.office", ""),
        ),
    ],
)
def test_configurations_that_are_refused(config, text, flags, what, hint):
    config(text)
    with pytest.raises(SettingsError, match=what) as caught:
        settings.resolve(flags)
    assert hint in (caught.value.hint or "")


def test_certificates_of_the_official_service_are_checked_unless_it_is_named():
    settings.resolve({"insecure": True, "base_url": settings.DEFAULT_BASE_URL}).check_pool()
    with pytest.raises(SettingsError, match="cannot be turned off for the default base URL"):
        settings.resolve({"insecure": True}).check_pool()
