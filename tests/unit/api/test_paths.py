"""Checkpoint paths and what they become in URLs."""

from __future__ import annotations

import pytest

from tinkex.api.paths import TinkerPath, run_url, short_names
from tinkex.exceptions import UsageError


@pytest.mark.parametrize(
    ("text", "run_id", "kind", "name"),
    [
        ("tinker://run-1/weights/0001", "run-1", "weights", "0001"),
        ("tinker://3f:train:0/sampler_weights/a.b", "3f:train:0", "sampler_weights", "a.b"),
        ("tinker://r/external_weights/download", "r", "external_weights", "download"),
        ("tinker://model_21/s0001", "model_21", "sampler_weights", "s0001"),
    ],
)
def test_paths_are_read(text, run_id, kind, name):
    path = TinkerPath.from_string(text)
    assert (path.run_id, path.kind, path.name) == (run_id, kind, name)
    assert str(path) == f"tinker://{run_id}/{kind}/{name}"
    assert TinkerPath.from_string(str(path)) == path


@pytest.mark.parametrize(
    "text",
    [
        *("", "run/weights/x", "http://run/weights/x", "tinker://", "tinker://run"),
        *("tinker://run/weights/", "tinker:///weights/x", "tinker://run/weights/x/y"),
        *("tinker://run/other/x", "tinker://run/weights/..", "tinker://../weights/x"),
        *("tinker://./x", "tinker://run/weights/a\nb", "tinker://run/weights/a\udcff"),
        "tinker://run/weights/" + "x" * 2000,
    ],
)
def test_others_are_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        TinkerPath.from_string(text)
    assert "tinker://RUN_ID/sampler_weights/NAME" in (caught.value.hint or "")
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%2e%2e", "a b", "ü", "%2F", "a;b", "a\\b"])
def test_no_character_of_a_name_changes_the_url(name, server, client):
    path = TinkerPath("r:train:0", "weights", name)
    server.on("DELETE", path.url, server.reply(status=204))
    client.checkpoints.delete(str(path))
    (seen,) = server.seen
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


ONE, OTHER = "699b8252-aa10-4e60", "699b8252-c000-4e60"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([f"{ONE}:train:0/weights/first"], ["699b8252:first"]),
        ([f"{ONE}:train:0/a", f"{OTHER}:train:0/a"], ["699b8252-a:a", "699b8252-c:a"]),
        ([f"{ONE}:train:0/a", f"{ONE}:train:1/a"], [f"{ONE}:train:0:a", f"{ONE}:train:1:a"]),
        (
            ["run-1:train:0/weights/0001", "run-1:train:0/sampler_weights/0001"],
            ["run-1:weights/0001", "run-1:sampler_weights/0001"],
        ),
        (["run-1/s1", "run-12/s1"], ["run-1:s1", "run-12:s1"]),
        (["run/a~1"], ["tinker://run/a~1"]),
        (["a@b/c"], ["tinker://a@b/c"]),
        (["no/such/kind"], ["tinker://no/such/kind"]),
        ([], []),
    ],
)
def test_short_names(paths, names):
    paths = [f"tinker://{path}" for path in paths]
    assert short_names(paths) == dict(zip(paths, names, strict=True))
