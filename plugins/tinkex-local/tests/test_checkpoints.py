"""Checkpoints after they are saved: listed, shared, kept for a while, copied, fetched, deleted."""

import io
import shutil
import tarfile
import time

import pytest

from tinkex_local.state import checkpoints
from tinkex_local.state.archive import Archive
from tinkex_local.state.checkpoints import ABANDONED


@pytest.fixture
def run(client):
    return client.model()


@pytest.fixture
def url(client, run):
    """The address of one sampler checkpoint."""
    client.saved(run)
    return f"training_runs/{run}/checkpoints/sampler_weights/a"


def test_listings_are_newest_first_in_pages_with_a_cursor(client, run, clock):
    for name in "abc":
        clock.now += 1
        client.saved(run, "weights", name)
    page = client.get("checkpoints?limit=2&offset=1").json
    assert [item["checkpoint_id"] for item in page["checkpoints"]] == ["weights/b", "weights/a"]
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": 3}
    assert page["checkpoints"][0]["time"] == "2027-01-15T08:00:02.000000Z"
    of_run = client.get(f"training_runs/{run}/checkpoints").json
    assert len(of_run["checkpoints"]) == 3
    assert client.checkpoints("?limit=0") == []
    for scope in ("owned", "accessible"):
        assert len(client.checkpoints(f"?access_scope={scope}")) == 3
        assert len(client.get(f"training_runs?access_scope={scope}").json["training_runs"]) == 1


@pytest.mark.parametrize(
    "target",
    [
        *("checkpoints?limit=-1", "checkpoints?limit=x", "checkpoints?offset=-1"),
        *("checkpoints?limit=1.5", "checkpoints?limit=999999999999999999"),
        *(f"{what}?access_scope=mine" for what in ("checkpoints", "training_runs/x")),
        "training_runs?access_scope=mine",
    ],
)
def test_senseless_queries_are_422(client, target):
    assert client.get(target).status == 422


def test_publish_and_unpublish_each_work_once(client, url):
    for method, public in (("POST", True), ("DELETE", False)):
        assert client.request(method, f"{url}/publish").status == 204
        (item,) = client.checkpoints()
        assert item["public"] is public
        again = client.request(method, f"{url}/publish")
        assert (again.status, again.headers["x-should-retry"]) == (409, "false")


def test_delete_removes_row_and_files(client, app, url):
    assert client.delete(url).status == 204
    assert client.checkpoints() == []
    assert list(app.service.checkpoints.iterdir()) == []
    assert client.delete(url).status == 404


def test_an_expired_checkpoint_is_gone_everywhere(client, app, run, url, clock):
    clock.now += 10
    assert client.put(f"{url}/ttl", {"ttl_seconds": 3600}).status == 204
    (item,) = client.checkpoints()
    assert item["expires_at"] == "2027-01-15T09:00:10.000000Z"
    path = item["tinker_path"]
    clock.now += 3599
    client.get("healthz")  # sweeps, and not again for an hour
    clock.now += 1
    assert client.checkpoints() == []
    assert client.get(f"training_runs/{run}/checkpoints").json["checkpoints"] == []
    assert client.get(f"training_runs/{run}").json["last_sampler_checkpoint"] is None
    assert client.post("weights_info", {"tinker_path": path}).status == 404
    assert client.get(f"{url}/archive").status == 404
    assert client.delete(url).status == 404
    clock.now += 3600
    client.get("healthz")
    assert list(app.service.checkpoints.iterdir()) == []
    assert client.saved(run) == path  # its name is free again


def test_a_removed_lifetime_lets_it_live(client, url, clock):
    client.put(f"{url}/ttl", {"ttl_seconds": 3600})
    assert client.put(f"{url}/ttl", {"ttl_seconds": None}).status == 204
    clock.now += 10**7
    assert len(client.checkpoints()) == 1


@pytest.mark.parametrize("body", [{}, {"ttl_seconds": 3599}, {"ttl_seconds": 1.5}, [], None, "x"])
def test_a_senseless_lifetime_is_422(client, url, body):
    assert client.request("PUT", f"{url}/ttl", body).status == 422


# Downloads


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_an_archive_holds_the_adapter_and_the_marker(client, app, url, suffix):
    redirect = client.get(f"{url}/archive?format={suffix}")
    assert redirect.status == 302
    assert redirect.headers["expires"] == "Fri, 15 Jan 2027 08:15:00 GMT"
    assert redirect.json["url"] == redirect.headers["location"]
    answer = client.get(redirect.headers["location"])
    assert answer.status == 200
    if suffix == "tar":
        assert int(answer.headers["content-length"]) == len(answer.body)
    with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:" + suffix[4:]) as archive:
        found = {item.name: archive.extractfile(item).read() for item in archive}
    (directory,) = app.service.checkpoints.iterdir()
    expected = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert found == expected | {"checkpoint_complete": b""}


def test_a_signed_address_cannot_be_bent_to_another_thing_and_expires(client, run, url, clock):
    client.saved(run, "sampler_weights", "b")
    address = client.get(f"{url}/archive").headers["location"]
    path, _, query = address.partition("?")
    for bad in (
        address[:-1] + ("0" if address[-1] != "0" else "1"),
        address.replace("expires=1", "expires=2"),
        address.replace("/a/archive", "/b/archive"),
        address.replace("archive.tar", "archive.tar.gz"),
        path,
        f"{path}?{query.partition('&')[0]}",
        f"{path}?expires=&signature=",
        f"{path}?expires=١&signature=x",
    ):
        answer = client.get(bad)
        assert (answer.status, bool(answer.json["detail"])) == (403, True), bad
    clock.now += 899
    assert client.get(address).status == 200
    clock.now += 1
    assert client.get(address).status == 403


def test_exported_files_and_no_others_are_fetched_one_by_one(client, app, run, url):
    assert client.get(f"{url}/external_weights_urls").status == 400
    client.delete(url)
    client.saved(run, "external_weights", "e")
    answer = client.get(f"training_runs/{run}/checkpoints/external_weights/e/external_weights_urls")
    assert answer.json["expires"] == "2027-01-15T08:15:00.000000Z"
    assert set(answer.json["urls"]) == {"adapter_config.json", "adapter_model.safetensors"}
    (directory,) = app.service.checkpoints.iterdir()
    for name, address in answer.json["urls"].items():
        content = (directory / name).read_bytes()
        assert client.get(address).body == content
        part = client.get(address, range="bytes=10-19")
        assert (part.status, part.body) == (206, content[10:20])


def test_a_deletion_during_a_download_does_not_cut_it(client, app, url):
    (directory,) = app.service.checkpoints.iterdir()
    archive = Archive(directory, 0)
    chunks = iter(archive)
    first = next(chunks)
    client.delete(url)
    assert len(first + b"".join(chunks)) == archive.length


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fstate.sqlite3", "%2fetc%2fpasswd", "a%00", "%ff"]
)
def test_names_cannot_leave_the_run(client, app, run, url, name):
    for method in ("GET", "DELETE", "POST", "PUT"):
        for tail in ("", "/archive", "/publish", "/ttl"):
            target = f"training_runs/{run}/checkpoints/sampler_weights/{name}{tail}"
            answer = client.request(method, target, {"ttl_seconds": 3600})
            assert answer.status in (400, 404, 405)
            assert answer.json["detail"]
    assert (app.service.home / "state.sqlite3").exists()
    assert len(client.checkpoints()) == 1


def test_orphans_are_swept_and_work_in_progress_is_not(client, app, url, monkeypatch):
    root = app.service.checkpoints
    (kept,) = root.iterdir()
    (root / "orphan").mkdir()
    (root / "orphan" / "adapter_config.json").write_text("{}")
    (root / ".tmp-young").mkdir()
    checkpoints.sweep(app.service)
    assert {path.name for path in root.iterdir()} == {kept.name, ".tmp-young"}
    future = time.time() + ABANDONED + 60
    monkeypatch.setattr(time, "time", lambda: future)
    checkpoints.sweep(app.service)
    assert [path.name for path in root.iterdir()] == [kept.name]


def test_a_checkpoint_whose_files_were_removed_is_reported(client, home, url, caplog):
    address = client.get(f"{url}/archive").headers["location"]
    for directory in (home / "checkpoints").iterdir():
        shutil.rmtree(directory)
    answer = client.get(address)
    detail = "Cannot access the service state: No such file or directory"
    assert (answer.status, answer.json) == (500, {"detail": detail})
    assert caplog.text == ""


# Copies


@pytest.fixture
def path(client):
    """The path of a checkpoint to be copied."""
    return client.saved(client.model(), "weights", "one", user_metadata={"note": 1})


def copy_body(client, path, **more):
    return {"source_path": path, "session_id": client.session(), "model_seq_id": 0, **more}


def test_a_copy_is_a_checkpoint_of_its_own_run(client, path):
    body = copy_body(client, path, ttl_seconds=7200)
    copied = client.post("copy_weights", body).json["tinker_path"]
    assert copied == f"tinker://{body['session_id']}:train:0/weights/one"
    found = {checkpoint["tinker_path"]: checkpoint for checkpoint in client.checkpoints()}
    assert found[copied]["size_bytes"] == found[path]["size_bytes"]
    assert found[copied]["user_metadata"] == {"note": 1}
    assert (found[copied]["expires_at"] is None, found[path]["expires_at"]) == (False, None)
    original = f"training_runs/{path.split('/')[2]}/checkpoints/weights/one"
    assert client.delete(original).status == 204
    assert client.post("weights_info", {"tinker_path": copied}).json["lora_rank"] == 4
    refused = client.post("save_weights", {"model_id": copied.split("/")[2], "path": "x"})
    assert (refused.status, "unloaded" in refused.json["detail"]) == (400, True)


def test_a_repeated_copy_is_made_once(client, path):
    body = copy_body(client, path)
    assert client.post("copy_weights", body).json == client.post("copy_weights", body).json
    assert len(client.checkpoints()) == 2
    assert client.post("copy_weights", {**body, "ttl_seconds": 7200}).status == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"source_path": "tinker://none/weights/x"}, 404),
        ({"source_path": "nix"}, 400),
        ({"session_id": "none"}, 404),
        ({"session_id": None}, 400),
        ({"model_seq_id": None}, 400),
        ({"destination_project_id": "p"}, 400),
        ({"ttl_seconds": 3599}, 422),
        ({"source_path": 3}, 422),
    ],
)
def test_copies_that_cannot_be(client, path, change, status):
    answer = client.post("copy_weights", copy_body(client, path) | change)
    assert answer.status == status, answer.body
    assert len(client.checkpoints()) == 1
