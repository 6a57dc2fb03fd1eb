"""How the values of settings are parsed."""

from __future__ import annotations

import pytest

from tinkex.config import credentials, values
from tinkex.exceptions import SettingsError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60000", 60), (60000, 60), ("2m", 120), ("1h", 3600), ("500ms", 0.5), ("1.5s", 1.5)],
)
def test_timeouts(text, seconds):
    assert values.parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "abc", "5 days", "1e9h", "nan", "inf", "٣s", "1s2"]
)
def test_not_timeouts(text):
    with pytest.raises(SettingsError, match="not a timeout"):
        values.parse_timeout(text)


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://x", "host", "http://", "http://h:99999", "https://h?q=1", "https://h/#f"),
        "http://a b",
    ],
)
def test_not_base_urls(url):
    with pytest.raises(SettingsError, match="not a base URL"):
        values.parse("base_url", url)


def test_base_url_with_password_is_refused_without_repeating_it():
    with pytest.raises(SettingsError) as caught:
        values.parse("base_url", "https://me:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel", "a\x00b"])
def test_key_that_no_header_can_carry(key):
    with pytest.raises(SettingsError, match="API key contains"):
        credentials.checked(key)


def test_tags():
    assert (
        values.parse("tags", "a, b,,c ") == values.parse("tags", ["a", "b", "c"]) == ("a", "b", "c")
    )
