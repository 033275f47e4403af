"""The run folder: refused before anything is lost, locked, resumed as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxnets import errors
from flaxnets.train import RunFolder, read_config

CONFIG = {"study": "test", "learning_rate": 0.1, "classes": ["a", "b"]}


def test_metrics_of_later_steps_and_a_torn_line_are_dropped(tmp_path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        for step in (1, 2, 3):
            folder.log({"step": step, "loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with RunFolder.open(tmp_path, CONFIG, resume=True) as folder:
        kept = folder.truncate_metrics(2)
        assert [record["step"] for record in kept] == [1, 2]
        folder.log({"step": 3, "loss": float("nan")})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 0.5, None]


def test_a_folder_that_holds_a_run_is_refused_with_the_choices(tmp_path) -> None:
    with RunFolder.open(tmp_path, CONFIG):
        pass
    with pytest.raises(errors.RunFolderError, match="--resume.*--overwrite.*--out"):
        RunFolder.open(tmp_path, CONFIG)


def test_overwrite_removes_the_run_and_nothing_else(tmp_path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        folder.log({"step": 1})
    (tmp_path / "thesis.txt").write_text("mine")
    with RunFolder.open(tmp_path, {**CONFIG, "seed": 1}, overwrite=True):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "metrics.jsonl").exists()
    assert read_config(tmp_path)["seed"] == 1


def test_resume_with_other_options_names_them(tmp_path) -> None:
    with RunFolder.open(tmp_path, CONFIG):
        pass
    with pytest.raises(errors.RunFolderError, match="learning_rate is 0.2, was 0.1"):
        RunFolder.open(tmp_path, {**CONFIG, "learning_rate": 0.2}, resume=True)


def test_nothing_to_resume_is_said(tmp_path) -> None:
    with pytest.raises(errors.RunFolderError, match="no run here"):
        RunFolder.open(tmp_path / "empty", CONFIG, resume=True)


def test_a_file_or_unwritable_place_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.RunFolderError, match="file: cannot be used"):
        RunFolder.open(tmp_path / "file", CONFIG)
    with pytest.raises(errors.RunFolderError, match="cannot be used"):
        RunFolder.open(Path("/proc/run"), CONFIG)


HOLDER = """
import sys, time
from pathlib import Path
from flaxnets.train import RunFolder
folder = RunFolder.open(Path(sys.argv[1]), {})
print("open", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not(tmp_path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        host = os.uname().nodename
        with pytest.raises(
            errors.RunFolderError, match=f"in use by process {holder.pid} on {host}"
        ):
            RunFolder.open(tmp_path, {}, overwrite=True)
        holder.kill()
    with RunFolder.open(tmp_path, {}, overwrite=True):
        pass
