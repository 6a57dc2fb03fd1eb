"""Files of checkpoints that are read on the service, without a download of the whole checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.storage import ARCHIVES, SEPARATE, Fault, Store, content, storing
from tinkex.api import ServiceClient
from tinkex.exceptions import InvalidResponse, NotFound
from tinkex.settings import Settings

SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"
#: Larger than what is read rather than skipped.
SIZE = 3_000_000
PATHS = {"separate": SEPARATE, **ARCHIVES}


@pytest.fixture(scope="module")
def large() -> bytes:
    return content(1_000_000) * (SIZE // 1_000_000)


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def store(request: pytest.FixtureRequest, large: bytes) -> Iterator[Store]:
    # The small file is behind the large one, and has to be found.
    with storing({LARGE: large, SMALL: b'{"r": 8}'}) as store:
        store.has_ranges = request.param
        yield store


def client(store: Store) -> ServiceClient:
    return ServiceClient(Settings(base_url=store.url, api_key="tml-test"))


@pytest.mark.parametrize("kind", PATHS)
def test_parts_of_files_are_read_in_any_order(kind: str, store: Store, large: bytes) -> None:
    with client(store) as service, service.checkpoints.open_files(PATHS[kind]) as files:
        assert files.open(SMALL).read() == b'{"r": 8}'
        file = files.open(LARGE)
        assert file.read(100) == large[:100]
        file.seek(2_500_000)
        assert file.read(50) == large[2_500_000:2_500_050]
        file.seek(7)
        assert file.read(5) == large[7:12]
        file.seek(-3, 2)
        assert file.read() == large[-3:]
        with pytest.raises(NotFound, match="has no file README"):
            files.open("README.md")


@pytest.mark.parametrize("store", [True], indirect=True)
@pytest.mark.parametrize("kind", ["separate", "tar"])
def test_only_the_parts_that_are_read_are_requested(kind: str, store: Store) -> None:
    store.faults = [Fault(hold=500_000)]  # more than that never arrives
    with client(store) as service, service.checkpoints.open_files(PATHS[kind]) as files:
        files.open(LARGE).read(1000)
        files.open(SMALL).read()
    assert [sent.start > SIZE for sent in store.sent] == [False, kind == "tar"]


@pytest.mark.parametrize("store", [True], indirect=True)
def test_a_lost_connection_is_replaced(store: Store, large: bytes) -> None:
    store.faults = [Fault(cut=300_000)]
    with client(store) as service, service.checkpoints.open_files(SEPARATE) as files:
        assert files.open(LARGE).read(1_000_000) == large[:1_000_000]


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x1f\x8b123"])
def test_an_archive_that_is_none(body: bytes, store: Store) -> None:
    store.instead = body
    path = ARCHIVES["tar"]
    with client(store) as service, pytest.raises(InvalidResponse, match="archive"):
        service.checkpoints.open_files(path).__enter__().open(SMALL)


@pytest.mark.parametrize("store", [True], indirect=True)
def test_the_directory_of_a_server_on_this_machine_is_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / SMALL).write_bytes(b'{"r": 9}')
    (tmp_path / "checkpoint" / LARGE).symlink_to("/etc/passwd")
    store.directory = (tmp_path / "checkpoint").as_uri()
    with client(store) as service, service.checkpoints.open_files(ARCHIVES["tar"]) as files:
        assert files.open(SMALL).read() == b'{"r": 9}'
        with pytest.raises(NotFound):
            files.open(LARGE)
