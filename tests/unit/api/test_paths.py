"""Checkpoint paths and what they become in URLs."""

from __future__ import annotations

import pytest

from tinkex.api.paths import TinkerPath, run_url
from tinkex.exceptions import UsageError


@pytest.mark.parametrize(
    ("text", "run_id", "kind", "name"),
    [
        ("tinker://run-1/weights/0001", "run-1", "weights", "0001"),
        ("tinker://3f:train:0/sampler_weights/a.b", "3f:train:0", "sampler_weights", "a.b"),
        ("tinker://r/external_weights/download", "r", "external_weights", "download"),
        ("tinker://model_21/s0001", "model_21", "sampler_weights", "s0001"),
        ("mint://r/weights/x", "r", "weights", "x"),
        ("twinkle://r/sampler_weights/20261130_101500", "r", "sampler_weights", "20261130_101500"),
        ("tinker://r/checkpoints/12", "r", "checkpoints", "12"),
        ("tinker://r/weights/a/b", "r", "weights", "a/b"),
    ],
)
def test_paths_are_read(text, run_id, kind, name):
    path = TinkerPath.from_string(text)
    assert (path.run_id, path.kind, path.name) == (run_id, kind, name)
    assert str(path) == f"{text.partition(':')[0]}://{run_id}/{kind}/{name}"
    assert TinkerPath.from_string(str(path)) == path
    assert path.url == f"training_runs/{run_id}/checkpoints/{kind}/{name}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "run/weights/x", "tinker://", "'", "tinker://run"),
        *("tinker://run/weights/", "tinker:///weights/x", "tinker://run/weights/x/y/z"),
        *("s3://run/weights/x", "tinker://run/weights/..", "tinker://../weights/x"),
        *("tinker://./x", "tinker://run/weights/a\nb", "tinker://run/weights/a\udcff"),
        "tinker://run/weights/" + "x" * 2000,
    ],
)
def test_others_are_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        TinkerPath.from_string(text)
    assert "tinker://RUN_ID/sampler_weights/NAME" in (caught.value.hint or "")
    str(caught.value).encode()


@pytest.mark.parametrize(
    "text",
    [
        *(" {} ", "{}/", "TINKER://{0.run_id}/{0.kind}/{0.name}", '"{}"', "'{}'", "`{}`"),
        '" `{}/` "\n',
    ],
)
def test_what_pasting_left_around_a_path_is_left_out(text):
    path = TinkerPath("r:train:0", "weights", "x")
    assert TinkerPath.from_string(text.format(path)) == path


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://tinker-console.example/training-runs/3f%3Atrain%3A0?x", "The run id is 3f:t"),
        ("https://tinker.example/checkpoints/r/weights%2Fx", "The run id is r."),
        ("HTTPS://other.example/x", "This is a web page URL. "),
        (" http://run/weights/x ", "This is a web page URL. "),
    ],
)
def test_the_hint_names_a_web_address_as_such(text, hint):
    with pytest.raises(UsageError) as caught:
        TinkerPath.from_string(text)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%2e%2e", "a b", "ü", "%2F", "a;b", "a\\b"])
def test_no_character_of_a_name_changes_the_url(name, server, client):
    path = TinkerPath("r:train:0", "weights", name)
    server.on("DELETE", path.url, server.reply(status=204))
    client.checkpoints.delete(str(path))
    (seen,) = server.requests(path.url, "DELETE")
    assert seen.path == path.url
    assert seen.query == {}
    assert "/checkpoints/weights/" in seen.path
    assert seen.path.startswith("training_runs/r:train:0/")


@pytest.mark.parametrize("run_id", ["", ".", "..", "a\tb"])
def test_run_ids_that_cannot_be_are_refused(run_id):
    with pytest.raises(UsageError):
        run_url(run_id)


def test_a_slash_in_a_run_id_stays_in_its_segment():
    assert run_url("a/../b") == "training_runs/a%2F..%2Fb"
