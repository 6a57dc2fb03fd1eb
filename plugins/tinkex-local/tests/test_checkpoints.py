"""Checkpoints after they are saved: listed, shared, kept for a while, fetched, deleted."""

import io
import shutil
import tarfile

import pytest

from tinkex_local.state import checkpoints
from tinkex_local.state.checkpoints import ABANDONED


@pytest.fixture
def run(client):
    return client.model()


@pytest.fixture
def url(client, run):
    """The address of one sampler checkpoint."""
    client.saved(run)
    return f"training_runs/{run}/checkpoints/sampler_weights/a"


def local(address: str) -> str:
    assert address.startswith("http://service.test/api/v1/signed/")
    return address.removeprefix("http://service.test")


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
    assert client.get("checkpoints?limit=0").json["checkpoints"] == []


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=-1", "limit=1.5", "limit=9" * 9])
def test_senseless_paging_is_422(client, query):
    assert client.get(f"checkpoints?{query}").status == 422


def test_publish_and_unpublish_each_work_once(client, run, url):
    for method, public in (("POST", True), ("DELETE", False)):
        assert client.request(method, f"{url}/publish").status == 204
        (item,) = client.get("checkpoints").json["checkpoints"]
        assert item["public"] is public
        again = client.request(method, f"{url}/publish")
        assert again.status == 409
        assert again.headers["X-Should-Retry"] == "false"


def test_delete_removes_row_and_files(client, app, url):
    assert client.delete(url).status == 204
    assert client.get("checkpoints").json["checkpoints"] == []
    assert list(app.service.checkpoints.iterdir()) == []
    assert client.delete(url).status == 404


def test_an_expired_checkpoint_is_gone_everywhere(client, app, run, url, clock):
    assert client.put(f"{url}/ttl", {"ttl_seconds": 3600}).status == 204
    (item,) = client.get("checkpoints").json["checkpoints"]
    assert item["expires_at"] == "2027-01-15T09:00:00.000000Z"
    path = item["tinker_path"]
    clock.now += 3600
    assert client.get("checkpoints").json["checkpoints"] == []
    assert client.get(f"training_runs/{run}/checkpoints").json["checkpoints"] == []
    assert client.get(f"training_runs/{run}").json["last_sampler_checkpoint"] is None
    assert client.post("weights_info", {"tinker_path": path}).status == 404
    assert client.get(f"{url}/archive").status == 404
    assert client.delete(url).status == 404
    assert client.saved(run) == path  # its name is free again


def test_the_files_of_an_expired_checkpoint_go_too(client, app, url, clock):
    client.put(f"{url}/ttl", {"ttl_seconds": 3600})
    clock.now += 7201
    client.get("healthz")
    assert list(app.service.checkpoints.iterdir()) == []


def test_a_removed_lifetime_lets_it_live(client, url, clock):
    client.put(f"{url}/ttl", {"ttl_seconds": 3600})
    assert client.put(f"{url}/ttl", {"ttl_seconds": None}).status == 204
    clock.now += 10**7
    assert len(client.get("checkpoints").json["checkpoints"]) == 1


@pytest.mark.parametrize("body", [{}, {"ttl_seconds": 3599}, {"ttl_seconds": 1.5}, [], None, "x"])
def test_a_senseless_lifetime_is_422(client, url, body):
    assert client.request("PUT", f"{url}/ttl", body).status == 422


# Downloads


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_an_archive_holds_the_adapter_and_the_marker(client, app, url, suffix):
    redirect = client.get(f"{url}/archive?format={suffix}")
    assert redirect.status == 302
    assert redirect.headers["Expires"] == "Fri, 15 Jan 2027 08:15:00 GMT"
    assert redirect.json["url"] == redirect.headers["Location"]
    answer = client.get(local(redirect.headers["Location"]))
    assert answer.status == 200
    if suffix == "tar":
        assert int(answer.headers["Content-Length"]) == len(answer.body)
    with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:" + suffix[4:]) as archive:
        found = {item.name: archive.extractfile(item).read() for item in archive}
    (directory,) = app.service.checkpoints.iterdir()
    expected = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert found == expected | {"checkpoint_complete": b""}


def test_a_signed_address_cannot_be_bent_to_another_thing(client, run, url):
    client.saved(run, "sampler_weights", "b")
    address = local(client.get(f"{url}/archive").headers["Location"])
    assert client.get(address).status == 200
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
        assert answer.status == 403, bad
        assert answer.json["detail"]


def test_a_signed_address_expires(client, url, clock):
    address = local(client.get(f"{url}/archive").headers["Location"])
    clock.now += 899
    assert client.get(address).status == 200
    clock.now += 1
    assert client.get(address).status == 403


def test_exported_files_are_fetched_one_by_one(client, app, run):
    client.saved(run, "external_weights", "e")
    answer = client.get(f"training_runs/{run}/checkpoints/external_weights/e/external_weights_urls")
    assert answer.json["expires"] == "2027-01-15T08:15:00.000000Z"
    assert set(answer.json["urls"]) == {"adapter_config.json", "adapter_model.safetensors"}
    (directory,) = app.service.checkpoints.iterdir()
    for name, address in answer.json["urls"].items():
        content = (directory / name).read_bytes()
        assert client.get(local(address)).body == content
        part = client.get(local(address), range="bytes=10-19")
        assert (part.status, part.body) == (206, content[10:20])


def test_only_exports_have_addresses_of_files(client, url):
    assert client.get(f"{url}/external_weights_urls").status == 400


def test_a_deletion_during_a_download_does_not_cut_it(client, app, url):
    from tinkex_local.state.archive import Archive

    (directory,) = app.service.checkpoints.iterdir()
    archive = Archive(directory, 0)
    chunks = iter(archive)
    first = next(chunks)
    client.delete(url)
    whole = first + b"".join(chunks)
    assert len(whole) == archive.length


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fstate.sqlite3", "%2fetc%2fpasswd", "a%00", "%ff"]
)
@pytest.mark.parametrize("tail", ["", "/archive", "/publish", "/ttl"])
def test_names_cannot_leave_the_run(client, app, run, url, name, tail):
    for method in ("GET", "DELETE", "POST", "PUT"):
        target = f"training_runs/{run}/checkpoints/sampler_weights/{name}{tail}"
        answer = client.request(method, target, {"ttl_seconds": 3600})
        assert answer.status in (400, 404, 405)
        assert answer.json["detail"]
    assert (app.service.home / "state.sqlite3").exists()
    assert len(client.get("checkpoints").json["checkpoints"]) == 1


# What killed processes leave behind


def test_orphans_are_swept_and_work_under_way_is_not(client, app, url, monkeypatch):
    root = app.service.checkpoints
    (kept,) = root.iterdir()
    (root / "orphan").mkdir()
    (root / "orphan" / "adapter_config.json").write_text("{}")
    (root / ".tmp-young").mkdir()
    checkpoints.sweep(app.service)
    assert {path.name for path in root.iterdir()} == {kept.name, ".tmp-young"}
    future = __import__("time").time() + ABANDONED + 1
    monkeypatch.setattr("time.time", lambda: future)
    checkpoints.sweep(app.service)
    assert [path.name for path in root.iterdir()] == [kept.name]


def test_a_checkpoint_whose_files_somebody_removed_is_told(client, home, caplog):
    run = client.model()
    client.saved(run)
    address = client.get(f"training_runs/{run}/checkpoints/sampler_weights/a/archive")
    for directory in (home / "checkpoints").iterdir():
        shutil.rmtree(directory)
    answer = client.get(address.headers["Location"].removeprefix("http://service.test"))
    told = "Files of the state cannot be used: No such file or directory"
    assert (answer.status, answer.json) == (500, {"detail": told})
    assert caplog.text == ""
