"""Changes of checkpoints whose ids have no kind, on servers that confuse them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from tests.contract.dialects.account import CHECKPOINT, KEY, Account, Saved
from tests.contract.dialects.official import Official
from tests.contract.dialects.skyrl import SkyRLMain
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import detail, listening, route
from tests.serving import Reply, Request
from tinkex.api import ServiceClient
from tinkex.exceptions import NotFound, SharedName
from tinkex.settings import Settings
from tinkex.testing import Invocation, invoke

ONE = "training_runs/{run}/checkpoints/{name}"
Speak = Callable[..., Invocation]


class OneSegment(Account):
    """Its ids have no kind, its routes one segment for them, and every answer is a success."""

    lacks: ClassVar[dict[str, int]] = {
        f"DELETE {CHECKPOINT}": 404,
        f"POST {CHECKPOINT}/publish": 404,
        f"DELETE {CHECKPOINT}/publish": 404,
        f"PUT {CHECKPOINT}/ttl": 404,
    }

    def __init__(self) -> None:
        super().__init__()
        self.saved = [Saved(self.run, "weights", "a"), Saved(self.run, "sampler_weights", "b")]
        self.expiring: list[str] = []

    def described(self, saved: Saved) -> dict[str, Any]:
        return super().described(saved) | {"checkpoint_id": saved.name}

    def first(self, run: str, name: str) -> Saved:
        return next(saved for saved in self.saved if (saved.run, saved.name) == (run, name))

    @route("DELETE", ONE)
    def delete_one(self, seen: Request, *where: str) -> Any:
        self.saved.remove(self.first(*where))
        return {"deleted": True}

    @route("POST", f"{ONE}/publish")
    def publish_one(self, seen: Request, *where: str) -> None:
        self.first(*where).public = True

    @route("PUT", f"{ONE}/ttl")
    def set_ttl_one(self, seen: Request, *where: str) -> None:
        self.expiring.append(self.first(*where).path)


@pytest.fixture
def speak() -> Iterator[Callable[[Account], Speak]]:
    """Return a function that starts a server and returns one that runs commands with it."""
    with ExitStack() as stack:

        def start(server: Account) -> Speak:
            url = stack.enter_context(listening(server))
            options = ["--base-url", url, "--api-key", KEY, "--timeout", "20s"]
            return lambda line, **more: invoke([*shlex.split(line), *options], **more)

        yield start


def tuft() -> TuFT:
    """Return a server with both kinds of ``final``, and with samplers ``1`` and ``2``."""
    server = TuFT()
    server.saved += [Saved(server.run, "sampler_weights", name) for name in ("1", "2")]
    return server


def left(server: Account) -> list[str]:
    return [f"{saved.kind}/{saved.name}" for saved in server.saved]


ALL = ["weights/final", "sampler_weights/final", "sampler_weights/1", "sampler_weights/2"]
WHY = "this server identifies checkpoints only by name, so it may change"


@pytest.mark.parametrize("cls", [TuFT, SkyRLMain])
@pytest.mark.parametrize("kind", ["weights", "sampler_weights"])
@pytest.mark.parametrize("more", ["", "--yes", "--dry-run"])
def test_deleting_one_of_two_kinds_of_a_name_is_refused(speak, cls, kind, more):
    server = cls()
    path, other = (s.path for s in sorted(server.saved, key=lambda s: s.kind != kind))
    done = speak(server)(f"checkpoint delete {path} {more}")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert f"{WHY} {other} instead" in done.stderr
    assert "Hint: To continue anyway, add --force." in done.stderr
    assert left(server) == ALL[:2]
    assert server.requests("DELETE", CHECKPOINT) == []


@pytest.mark.parametrize(
    "line",
    [
        "checkpoint delete tinker://{run}/sampler_weights/final {rest}",
        "checkpoint delete --type sampler --yes",
        "checkpoint delete --run-id {run} --type sampler --yes",
        "checkpoint prune --type sampler --keep-last 1 --include-newest --yes",
        "checkpoint prune --run-id {run} --type sampler --older-than 1s --include-newest --yes",
    ],
)
def test_bulk_deletion_and_prune_leave_the_training_state_of_that_name(speak, line):
    server = tuft()
    server.saved.append(Saved(server.run, "sampler_weights", "3"))
    rest = " ".join(f"tinker://{server.run}/sampler_weights/{n}" for n in (1, 2))
    run = speak(server)
    rehearsed = run(line.format(run=server.run, rest=rest) + " --dry-run")
    done = run(line.format(run=server.run, rest=rest))
    for seen in (rehearsed, done):
        path = f"tinker://{server.run}/sampler_weights/final"
        assert f"Not deleted: {path}: {WHY} {server.training} instead" in seen.stderr
        assert "could not be deleted" in seen.stderr
        assert seen.exit_code == 1
    assert left(server)[:2] == ALL[:2]
    assert 0 < len(left(server)) < 5  # the others are gone


def test_a_plan_shows_what_would_be_refused(speak):
    line = "checkpoint prune --type sampler --keep-last 1 --include-newest --dry-run -f json"
    done = speak(tuft())(line)
    rows = [
        (row["tinker_path"].rpartition("/")[2], row["action"], row["error"]) for row in done.rows
    ]
    assert [row[:2] for row in rows] == [("2", "keep"), ("1", "delete"), ("final", "refused")]
    assert [WHY in (row[2] or "") for row in rows] == [False, False, True]
    assert done.exit_code == 1


def test_with_force_what_is_lost_is_named(speak):
    server = tuft()
    done = speak(server)(f"checkpoint delete {server.sampling} --force")
    assert done.stdout == f"Deleted {server.sampling}\n"
    assert f"Warning: the server also deleted {server.training}\n" in done.stderr
    assert left(server) == ALL[2:]


def test_with_force_what_may_have_lost_its_files_is_named(speak):
    server = tuft()
    done = speak(server)(f"checkpoint delete {server.training} --force")
    assert done.stdout == f"Deleted {server.training}\n"
    note = (
        f"Warning: {server.sampling} is still listed, but its files may have been deleted, because"
    )
    assert f"{note} this server identifies checkpoints only by name\n" in done.stderr
    assert left(server) == ALL[1:]


def test_the_question_names_what_may_be_lost(speak):
    server = tuft()
    line = f"checkpoint delete {server.sampling} --force"
    done = speak(server)(line, stdin="n\n", terminal=True)
    assert f"{server.sampling}  (1.0 kB, {server.training} may also be deleted)" in done.stderr
    assert left(server) == ALL


def test_a_rehearsal_names_what_may_be_lost(speak):
    server = tuft()
    done = speak(server)(f"checkpoint delete {server.sampling} --force --dry-run")
    assert done.stdout == f"Would delete {server.sampling}\n"
    lost = f"Warning: deleting {server.sampling} may also delete {server.training}, because "
    lost += "this server does not distinguish checkpoints with the same name\n"
    assert (done.exit_code, lost in done.stderr) == (0, True)


@pytest.mark.parametrize("order", [1, -1])
def test_both_kinds_of_a_name_are_deleted_together(speak, order):
    server = tuft()
    paths = " ".join((server.training, server.sampling)[::order])
    done = speak(server)(f"checkpoint delete {paths}")
    assert done.stdout == "".join(f"Deleted {path}\n" for path in paths.split())
    assert (done.exit_code, "Warning" in done.stderr) == (0, False)
    assert left(server) == ALL[2:]


def test_many_are_deleted_and_what_stays_is_named(speak):
    class Keeping(TuFT):
        def delete(self, seen, *where):
            return super().delete(seen, *where) if where[2] != "keep" else Reply(None, 204)

    server = Keeping()
    server.saved = [Saved(server.run, "weights", f"{n}") for n in range(60)]
    server.saved += [Saved(server.run, kind, "both") for kind in ("weights", "sampler_weights")]
    server.saved.append(Saved(server.run, "weights", "keep"))
    done = speak(server)(f"checkpoint delete --run-id {server.run} --yes")
    assert len(done.stdout.splitlines()) == 62
    still = "the server reports success, but still lists the checkpoint"
    assert f"Not deleted: tinker://{server.run}/weights/keep: {still}" in done.stderr
    assert left(server) == ["weights/keep"]


def test_a_checkpoint_of_another_kind_is_not_deleted_instead(speak):
    server = tuft()
    path = f"tinker://{server.run}/weights/1"
    done = speak(server)(f"checkpoint delete {path} --force")
    assert f"no checkpoint {path} (HTTP 404)" in done.stderr
    assert f"Did you mean tinker://{server.run}/sampler_weights/1?" in done.stderr
    assert (done.exit_code, left(server)) == (1, ALL)


@pytest.mark.parametrize("what", ["publish", "unpublish", "set-ttl --ttl 7d"])
def test_no_other_kind_of_the_name_is_changed(speak, what):
    server = tuft()
    done = speak(server)(f"checkpoint {what} {server.sampling}")
    assert (done.exit_code, WHY in done.stderr) == (1, True)
    assert not any(saved.public for saved in server.saved)
    assert {seen.method for seen in server.seen} == {"GET"}


def test_where_ids_have_a_kind_nothing_is_refused_or_read_again(speak):
    server = Official()
    run = speak(server)
    assert run(f"checkpoint delete {server.sampling}").exit_code == 0
    assert [seen.method for seen in server.seen] == ["GET", "DELETE"]
    server.seen.clear()
    assert run(f"checkpoint delete --run-id {server.run} --yes").exit_code == 0
    assert [seen.method for seen in server.seen] == ["GET", "DELETE"]
    assert server.saved == []


# ---------------------------------------------------------------------- what a server says


def test_what_the_server_still_lists_is_not_reported_as_deleted(speak):
    class Deaf(OneSegment):
        def delete_one(self, seen, *where):
            return {"deleted": True}

    server = Deaf()
    done = speak(server)(f"checkpoint delete tinker://{server.run}/weights/a")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "the server reports success, but still lists the checkpoint" in done.stderr


def test_another_checkpoint_that_vanished_instead_is_named(speak):
    class Confused(OneSegment):
        def delete_one(self, seen, *where):
            self.saved = [saved for saved in self.saved if saved.name != "b"]

    server = Confused()
    done = speak(server)(f"checkpoint delete tinker://{server.run}/weights/a")
    gone = f"tinker://{server.run}/sampler_weights/b"
    assert (done.stdout, done.exit_code) == ("", 1)
    assert f"still lists the checkpoint, and deleted {gone} instead" in done.stderr


@pytest.mark.parametrize(
    "body", [{"success": False, "error": "held by a job"}, {"deleted": False, "detail": "held"}]
)
def test_a_success_that_says_it_failed_is_a_failure(speak, body):
    class Polite(Official):
        def delete(self, seen, *where):
            return Reply(body)

    done = speak(server := Polite())(f"checkpoint delete {server.training}")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert ": held" in done.stderr


def test_an_error_after_the_deletion_does_not_hide_it(speak, monkeypatch):
    class Crashing(OneSegment):
        def delete_one(self, seen, run, name):
            self.saved = [saved for saved in self.saved if saved.name != name]
            raise detail(500, "after all")

    monkeypatch.setattr("time.sleep", lambda _: None)
    server = Crashing()
    done = speak(server)(f"checkpoint delete tinker://{server.run}/weights/a")
    assert (done.stdout, done.exit_code) == (f"Deleted tinker://{server.run}/weights/a\n", 0)


def test_a_checkpoint_that_no_list_has_is_missing_and_no_failure_of_the_server(speak, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server = tuft()
    server.saved.clear()
    done = speak(server)(f"checkpoint delete {server.training}")
    assert f"no checkpoint {server.training} (HTTP 404)" in done.stderr
    assert (done.exit_code, "Consider retrying" in done.stderr) == (1, False)


# ---------------------------------------------------------------------- ids of one segment


def test_ids_of_one_segment_are_used_where_the_list_has_them(speak):
    server = OneSegment()
    run = speak(server)
    a, b = (saved.path for saved in server.saved)
    assert run(f"checkpoint publish {a}").stdout == f"Published {a}\n"
    assert [saved.public for saved in server.saved] == [True, False]
    assert run(f"checkpoint set-ttl {b} --ttl 7d").exit_code == 0
    assert server.expiring == [b]
    assert run(f"checkpoint delete {a} {b}").stdout == f"Deleted {a}\nDeleted {b}\n"
    assert server.saved == []


def test_ids_of_one_segment_are_not_used_for_a_name_of_two_kinds(speak):
    server = OneSegment()
    server.saved.append(Saved(server.run, "sampler_weights", "a"))
    for verb in ("delete", "publish", "set-ttl --ttl 7d"):
        done = speak(server)(f"checkpoint {verb} tinker://{server.run}/sampler_weights/a")
        assert (done.exit_code, WHY in done.stderr) == (1, True)
    assert len(server.saved) == 3


def test_unpublishing_never_asks_for_what_could_be_a_deletion(speak):
    server = OneSegment()
    done = speak(server)(f"checkpoint unpublish tinker://{server.run}/weights/a")
    assert "this server does not offer unpublishing" in done.stderr
    assert [s.path for s in server.seen if s.method == "DELETE"] == [
        f"training_runs/{server.run}/checkpoints/weights/a/publish"
    ]


def test_a_path_as_a_save_returned_it_is_found_under_another_scheme(speak):
    server = OneSegment()
    done = speak(server)(f"checkpoint delete mint://{server.run}/weights/a")
    assert done.stdout == f"Deleted mint://{server.run}/weights/a\n"
    assert left(server) == ["sampler_weights/b"]


def test_a_kind_of_the_server_s_own_is_deleted_where_it_is_named(speak):
    server = OneSegment()
    server.saved = [Saved(server.run, "checkpoints", name) for name in ("a", "b")]
    run = speak(server)
    done = run(f"checkpoint delete tinker://{server.run}/sampler_weights/a --force")
    assert (done.exit_code, len(server.saved)) == (1, 2)  # which the list does not have
    done = run(f"checkpoint delete tinker://{server.run}/checkpoints/a")
    assert (done.exit_code, left(server)) == (0, ["checkpoints/b"])


def test_the_id_of_the_list_is_used_where_it_is_not_the_name(speak):
    class Numbering(OneSegment):
        def described(self, saved):
            return super().described(saved) | {"checkpoint_id": f"{saved.name}1"}

        def first(self, run, name):
            return super().first(run, name.removesuffix("1"))

    server = Numbering()
    done = speak(server)(f"checkpoint delete tinker://{server.run}/weights/a")
    assert (done.exit_code, left(server)) == (0, ["sampler_weights/b"])


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, {"detail": "No such checkpoint"}), (400, {"detail": "Bad id"}), (405, {"detail": ""})],
)
def test_ids_of_one_segment_are_not_used_after_a_refusal(speak, status, body):
    class Refusing(OneSegment):
        def _dispatch(self, seen):
            if seen.method == "DELETE" and seen.path.count("/") == 4:
                return Reply(body, status)
            return super()._dispatch(seen)

    server = Refusing()
    done = speak(server)(f"checkpoint delete tinker://{server.run}/weights/a")
    assert (done.exit_code, len(server.saved)) == (1, 2)


# ---------------------------------------------------------------------- from Python


def test_from_python_force_is_a_parameter():
    server = tuft()
    with listening(server) as url, ServiceClient(Settings(base_url=url, api_key=KEY)) as client:
        for change in (client.checkpoints.delete, client.checkpoints.publish):
            with pytest.raises(SharedName, match=WHY):
                change(server.sampling)
        with pytest.raises(NotFound):
            client.checkpoints.delete(f"tinker://{server.run}/x")
        client.checkpoints.delete(server.sampling, force=True)
    assert left(server) == ALL[2:]
