"""The run folder: refused before anything is lost, locked, resumed as it was."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flaxnets
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


def begin(directory: Path, config: dict[str, Any]) -> None:
    """Begins a run that trains one step."""
    with RunFolder.open(directory, config) as folder:
        folder.log({"step": 1})


def test_a_folder_that_holds_a_run_is_refused_with_the_choices(tmp_path) -> None:
    begin(tmp_path, CONFIG)
    with pytest.raises(errors.RunFolderError, match="--resume.*--overwrite.*--out"):
        RunFolder.open(tmp_path, CONFIG)


@pytest.mark.parametrize("resume", [False, True])
def test_where_nothing_was_trained_a_run_begins(tmp_path, resume: bool) -> None:
    for place in (tmp_path / "absent", tmp_path / "config"):
        for seed in (0, 1):
            with RunFolder.open(place, {"seed": seed}, resume=resume) as folder:
                assert not folder.resumed
                # What a trainer makes before its first step.
                folder.path("checkpoints").mkdir(exist_ok=True)
                folder.truncate_metrics(0)
            assert read_config(place)["seed"] == seed


def test_one_command_starts_and_restarts(tmp_path) -> None:
    resumed = []
    for step in (1, 2, 3):
        with RunFolder.open(tmp_path, CONFIG, resume=True) as folder:
            resumed.append(folder.resumed)
            folder.log({"step": step})
    assert resumed == [False, True, True]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_overwrite_removes_the_run_and_nothing_else(tmp_path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        folder.log({"step": 1})
    (tmp_path / "thesis.txt").write_text("mine")
    with RunFolder.open(tmp_path, {**CONFIG, "seed": 1}, overwrite=True):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "metrics.jsonl").exists()
    assert read_config(tmp_path)["seed"] == 1


def test_overwrite_spares_what_another_study_left(tmp_path) -> None:
    """Such as the network that this one is about to read."""
    with RunFolder.open(tmp_path, {**CONFIG, "study": "mnist"}) as folder:
        folder.log({"step": 1})
    for other in (CONFIG, {**CONFIG, "study": "invert"}):
        for overwrite in (True, False):
            with pytest.raises(errors.RunFolderError, match="another study, mnist, wh"):
                RunFolder.open(tmp_path, other, overwrite=overwrite)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert read_config(tmp_path)["study"] == "mnist"


def test_resume_with_other_options_names_them(tmp_path) -> None:
    begin(tmp_path, CONFIG)
    with pytest.raises(errors.RunFolderError, match="learning_rate is 0.2, was 0.1"):
        RunFolder.open(tmp_path, {**CONFIG, "learning_rate": 0.2}, resume=True)


def test_the_config_tells_which_version_began_the_run(tmp_path) -> None:
    begin(tmp_path, CONFIG)
    assert read_config(tmp_path) == {"flaxnets": flaxnets.__version__, **CONFIG}


@pytest.mark.parametrize(
    ("version", "name"),
    [({"flaxnets": "0.0.9"}, "flaxnets 0.0.9"), ({}, "an older flaxnets")],
)
def test_a_run_of_an_older_version_is_resumed_or_named(tmp_path, version, name) -> None:
    begin(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text(json.dumps({**version, **CONFIG}))
    options = {**CONFIG, "rotation": 5.0}
    for defaults in ({}, {"zoom": 0.0}):
        with pytest.raises(errors.RunFolderError, match=f"begun by {name}, which had"):
            RunFolder.open(tmp_path, options, resume=True, defaults=defaults)
    with pytest.raises(errors.RunFolderError, match="rotation is 5.0, was 0.0"):
        RunFolder.open(tmp_path, options, resume=True, defaults={"rotation": 0.0})
    options["rotation"] = 0.0
    with RunFolder.open(
        tmp_path, options, resume=True, defaults={"rotation": 0.0}
    ) as folder:
        assert folder.resumed


def test_a_run_with_a_damaged_or_absent_config_is_not_resumed(tmp_path) -> None:
    begin(tmp_path, CONFIG)
    path = tmp_path / "config.json"
    for content in ("{", "7", "\0"):
        path.write_text(content)
        with pytest.raises(errors.RunFolderError, match="config.json: damaged"):
            RunFolder.open(tmp_path, CONFIG, resume=True)
    path.unlink()
    with pytest.raises(errors.RunFolderError, match="config.json is missing"):
        RunFolder.open(tmp_path, CONFIG, resume=True)


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
    # The dead process's name is still in the file.
    assert str(holder.pid) in (tmp_path / "lock").read_text()
    with RunFolder.open(tmp_path, {}, overwrite=True):
        pass


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyboardInterrupt(), True), (SystemExit(143), True), (SystemExit(0), False)],
)
def test_who_stops_a_run_is_told_how_to_go_on(
    tmp_path: Path, capsys, error: BaseException, told: bool
) -> None:
    with pytest.raises(type(error)), RunFolder.open(tmp_path, {}):
        raise error
    expected = f"{tmp_path}: what is finished is kept; go on with the same options and"
    assert (expected in capsys.readouterr().out) == told


def test_a_lock_outlives_the_owner_before(tmp_path) -> None:
    """Whoever waits on the file of a run that ends still shares it with the next."""
    with RunFolder.open(tmp_path, {}):
        waiting = (tmp_path / "lock").open()
    with waiting, RunFolder.open(tmp_path, {}), pytest.raises(BlockingIOError):
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)


FULL = """
import resource, sys
from pathlib import Path
from flaxnets import errors
from flaxnets.train import RunFolder
with RunFolder.open(Path(sys.argv[1]), {}) as folder:
    folder.write_json("result.json", ["old"])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    for write in (
        lambda: folder.write_json("result.json", ["new"] * 1000),
        lambda: folder.log({"step": 1, "text": "x" * 1000}),
    ):
        try:
            write()
        except errors.RunFolderError as error:
            print(error)
"""


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, line in zip(
        ("result.json", "metrics.jsonl"), done.stdout.splitlines(), strict=True
    ):
        assert f"{tmp_path / name}: cannot be written (File too large); " in line
        assert "bytes are free" in line
    assert json.loads((tmp_path / "result.json").read_text()) == ["old"]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_no_run_made_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    with pytest.raises(errors.RunFolderError, match="figures, but no config.json"):
        RunFolder.open(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """The system takes five bytes of the second line, then none."""
    path = tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder.open(tmp_path, CONFIG) as folder:
        folder.log({"step": 1})
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
        try:
            with pytest.raises(errors.RunFolderError, match="metrics.jsonl: cannot be"):
                folder.log({"step": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.stat().st_size == size
        folder.log({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
