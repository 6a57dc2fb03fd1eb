"""Checkpoints, through the installed program and the embedded service."""

from __future__ import annotations

import json
import os

import pytest

MODEL = "tinkex/baker-street-2M"


def test_save_with_a_name_and_json(served, tmp_path):
    output = tmp_path / "c.json"
    done = served(f"checkpoint --base-model {MODEL} --name v1.2 --output {output} --json")
    assert done.rows == json.loads(output.read_text())
    assert done.rows["weights_path"].endswith("/sampler_weights/v1.2")


def test_save_with_the_metadata_on_standard_output(served, tmp_path):
    save = ("checkpoint", "--base-model", MODEL, "--rank", "1", "--output", "-")
    for words in ([], ["--json"]):
        done = served(*save, *words, cwd=tmp_path)
        assert list(json.loads(done.stdout))[:2] == ["base_model", "model_id"]
        assert done.stderr == ""
    assert not (tmp_path / "-").exists()


def test_unknown_base_model_is_refused_and_writes_nothing(served, tmp_path):
    output = tmp_path / "c.json"
    done = served(f"checkpoint --base-model no/such --output {output}", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("Checkpoint failed. Please check your inputs: ")
    assert "no/such" in done.stderr
    assert not output.exists()


def test_list(served, saved):
    path = saved["weights_path"]
    lines = served("checkpoint list --limit 0").stdout.splitlines()
    mine = [line for line in lines if line.endswith("\t" + path)]
    assert len(mine) == 1
    assert mine[0].split("\t")[0] == path.split("/", 3)[3]
    rows = {r["tinker_path"]: r for r in served("checkpoint list --limit 0 --json").rows}
    row = rows[path]
    assert row["checkpoint_type"] == "sampler"
    assert row["size_bytes"] > 0
    assert row["public"] is False
    assert row["time"].endswith("Z")
    one = served(f"checkpoint list --run-id {saved['model_id']} -f value -c Path")
    assert one.stdout == path + "\n"


@pytest.mark.parametrize("form", ["table", "plain", "value"])
def test_an_offset_behind_the_end_does_not_say_that_there_are_none(served, saved, form):
    for noun in ("checkpoint", "run", "session"):
        done = served(f"{noun} list --offset 1000 -f {form}")
        assert done.stdout == ""
        assert done.stderr.startswith("Nothing to show: --offset 1000 skips all ")
        assert done.stderr.count("\n") == 1


def test_list_pages(served, saved, tmp_path):
    for index in range(2):
        served(
            f"checkpoint --base-model {MODEL} --rank 1 --output",
            str(tmp_path / f"{index}"),
        )
    everything = served("checkpoint list --limit 0").stdout.splitlines()
    first = served("checkpoint list --limit 1")
    second = served("checkpoint list --limit 1 --offset 1")
    assert [first.stdout.strip(), second.stdout.strip()] == everything[:2]
    assert f"1 of {len(everything)} checkpoints shown" in first.stderr
    assert served("checkpoint list --offset 100000").stdout == ""


@pytest.mark.parametrize("form", ["table", "yaml", "csv", "json", "value", "plain"])
def test_paths_are_whole_in_every_format(served, saved, form):
    done = served(f"checkpoint list --limit 0 -f {form}", COLUMNS="40")
    assert saved["weights_path"] in done.stdout


def test_info(served, saved):
    done = served(f"checkpoint info {saved['weights_path']}")
    assert done.stdout.splitlines()[:3] == [f"Base model: {MODEL}", "LoRA: true", "LoRA rank: 4"]
    shown = served(f"checkpoint info {saved['weights_path']} -f json").rows
    assert shown["base_model"] == MODEL
    assert shown["lora_rank"] == 4
    assert shown["is_lora"] is True
    assert shown["run_id"] == saved["model_id"]
    assert shown["tinker_path"] == saved["weights_path"]


def test_info_of_something_that_is_not_there_names_the_sibling(served, saved):
    wrong = saved["weights_path"].replace("/sampler_weights/", "/weights/")
    done = served(f"checkpoint info {wrong}", code=1)
    assert done.stdout == ""
    assert saved["weights_path"] in done.stderr


def test_publish_and_unpublish(served, saved):
    path = saved["weights_path"]
    assert served(f"checkpoint publish {path}").stdout == f"Published {path}\n"
    assert served(f"checkpoint info {path} -f json").rows["public"] is True
    again = served(f"checkpoint publish {path}", code=1)
    assert (again.stdout, again.stderr.count("\n") <= 2) == ("", True)
    done = served(f"checkpoint unpublish {path} -f json")
    assert done.rows == [{"tinker_path": path, "public": False, "error": None}]


def test_delete(served, saved):
    path = saved["weights_path"]
    assert served(f"checkpoint delete {path}").stdout == f"Deleted {path}\n"
    assert path not in served("checkpoint list --limit 0").stdout
    done = served(f"checkpoint delete {path}", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("Checkpoint delete failed. Please check your inputs: ")


def test_delete_of_several_tries_all_and_fails_once(served, saved, tmp_path):
    path, missing = saved["weights_path"], "tinker://none/weights/x"
    done = served(f"checkpoint delete --yes {missing} {path}", code=1)
    assert done.stdout == f"Deleted {path}\n"
    assert "Not deleted: tinker://none/weights/x" in done.stderr
    assert "1 of 2 checkpoints could not be deleted" in done.stderr


def test_delete_of_several_as_json_tells_each_outcome(served, saved):
    path, missing = saved["weights_path"], "tinker://none/weights/x"
    done = served(f"checkpoint delete --yes {missing} {path} -f json", code=1)
    failed, deleted = done.rows
    assert (failed["tinker_path"], failed["deleted"]) == (missing, False)
    assert "HTTP 404" in failed["error"]
    assert deleted == {"tinker_path": path, "deleted": True, "error": None}
    assert json.loads(done.stderr)["error"]["category"] == "user"


def test_delete_with_a_malformed_path_deletes_nothing(served, saved):
    done = served(f"checkpoint delete {saved['weights_path']} tinker://x", code=1)
    assert (done.stdout, "not a checkpoint path" in done.stderr) == ("", True)
    assert saved["weights_path"] in served("checkpoint list --limit 0").stdout


def test_download_does_not_touch_files_that_are_there_without_force(served, saved, tmp_path):
    target = tmp_path / "d"
    target.mkdir()
    (target / "adapter_config.json").write_text("mine")
    (target / "other.txt").write_text("mine too")
    done = served(f"checkpoint download {saved['weights_path']} --output {target}", code=1)
    assert done.stdout == ""
    assert "--force" in done.stderr
    assert (target / "adapter_config.json").read_text() == "mine"
    served(f"checkpoint download {saved['weights_path']} --output {target} --force")
    assert json.loads((target / "adapter_config.json").read_text())["r"] == 4
    assert (target / "other.txt").read_text() == "mine too"


def test_download_of_nothing_leaves_nothing(served, saved, tmp_path):
    target = tmp_path / "d"
    done = served(f"checkpoint download tinker://none/weights/x --output {target}", code=1)
    assert done.stdout == ""
    assert not target.exists() or not os.listdir(target)


def test_a_downloaded_checkpoint_can_be_sampled_by_its_directory(served, saved, tmp_path):
    target = tmp_path / "d"
    served(f"checkpoint download {saved['weights_path']} --output {target}")
    options = ("--prompt", "Holmes", "--max-tokens", "4", "--seed", "1", "--json")
    by_directory = served(f"run --model-path {target}", *options)
    by_path = served(f"run --model-path {saved['weights_path']}", *options)
    assert by_directory.stdout == by_path.stdout


def test_save_from_what_was_saved_before(served, saved, tmp_path):
    target, output = tmp_path / "d", tmp_path / "next.json"
    served(f"checkpoint download {saved['weights_path']} --output {target}")
    for source in (target, tmp_path / "saved.json"):
        done = served(f"checkpoint --model-path {source} --output {output}")
        assert "starting fresh" in done.stderr
        assert json.loads(output.read_text())["base_model"] == MODEL
    shown = served(f"checkpoint --model-path {target} --output {output} --json")
    rank = served(f"checkpoint info {shown.rows['weights_path']} -f json").rows["lora_rank"]
    assert rank == 4  # the adapter's, since no other was given


@pytest.mark.parametrize(
    "command", ["info", "publish", "unpublish", "delete", "download", "set-ttl", "copy"]
)
@pytest.mark.parametrize(
    "path", ["", "a/b", "@x", "tinker://", "tinker://a/b/c/d", "tinker://../weights/.."]
)
def test_malformed_paths(tinkex, command, path):
    more = ["--remove"] if command == "set-ttl" else []
    done = tinkex(f"checkpoint {command} --api-key k", path, *more, code=1)
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith(f"Checkpoint {command} failed. Please check your inputs: ")
    assert second.startswith("Hint: ")
