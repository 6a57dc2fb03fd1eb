"""``checkpoint push-hf`` with a failing Hub reports an error and does not reveal the token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.faults import ANSWERS, FAULTS
from tests.faults.test_matrix import CONNECTIONS, KEY, LIMIT
from tinkex.testing import invoke

constants = pytest.importorskip("huggingface_hub.constants")

TOKEN = "hf_canaryCanaryCanary0123"
#: huggingface_hub bounds the silence of a server, not how long it takes in all.
ENDLESS = ("dripping", "huge")
#: Faults that a client of the Hub meets; not those of futures and of our own protocol.
ALL = [
    *(name for name in CONNECTIONS if not name.startswith("tls-")),
    *(
        name
        for name in FAULTS
        if name not in ENDLESS and not name.startswith(("future-", "retry-after-", "losing"))
    ),
    *(f"status-{status}-json" for status in (400, 401, 403, 404, 409, 410, 413, 429, 500, 503)),
]
#: Tested in every run; the others with ``--all-faults``.
QUICK = ("refused", "silent", "close-before", "not-http", "html-502", *list(ANSWERS)[:6])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("--all-faults")
        metafunc.parametrize("fault", ALL if thorough else QUICK)


def test_a_hub_that_fails_is_reported(fault, faulty, saved, tmp_path, monkeypatch, home):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    address = {
        "refused": "http://127.0.0.1:9",
        "deaf": f"http://127.0.0.1:{faulty.ports['deaf']}",
        "unknown-host": "https://no-such-host.invalid",
        "not-tls": f"https://127.0.0.1:{faulty.ports['http']}",
    }
    done = invoke(
        [
            *("checkpoint", "push-hf", saved[0], "--repo", "ada/mine"),
            *("--hf-token", f"@{_token(home)}", "--base-url", faulty.upstream),
            *("--api-key", "tml-functional-test", "--timeout", f"{LIMIT:g}s"),
        ],
        environ={"HF_ENDPOINT": address.get(fault) or faulty.url(fault)},
    )
    assert done.exit_code == 1, done
    assert done.stdout == ""
    assert TOKEN not in done.stderr
    assert KEY not in done.stderr
    assert "Traceback" not in done.stderr
    assert "this is a bug" not in done.stderr, done
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("Checkpoint push-hf failed"), done
    assert lines[-1].startswith("Hint: "), done
    assert list(tmp_path.iterdir()) == []


def _token(home: Path) -> Path:
    (home / "token").write_text(TOKEN)
    return home / "token"
