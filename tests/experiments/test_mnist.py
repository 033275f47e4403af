"""The MNIST study from its command line, on the embedded digits."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import mnist
from flaxnets import data
from flaxnets.train import Checkpoints

ROOT = Path(__file__).parents[2]
TRAIN = ("--dataset", "digits", "--batch-size", "64")


def study(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "experiments.mnist", *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, **options
    )


def parameters(run: Path) -> dict[str, np.ndarray]:
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.leaves()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An uninterrupted run of three epochs."""
    folder = tmp_path_factory.mktemp("study") / "run"
    done = study(*TRAIN, "--epochs", 3, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_leaves_everything_that_it_promises(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["dataset"] == "digits"
    assert result["parameters"] == 1_897_226
    assert (result["epochs"], result["steps"], result["batch_size"]) == (3, 66, 64)
    assert result["test_accuracy"] > 0.9
    for name in (
        "seed",
        "test_loss",
        "train_seconds",
        "startup_seconds",
        "examples_per_second",
        "peak_memory_bytes",
        "backend",
        "versions",
    ):
        assert result[name] is not None
    records = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["test_accuracy"] == result["test_accuracy"]
    assert json.loads((run / "config.json").read_text())["batch_size"] == 64
    for figure in (run / "figures").glob("*.png"):
        with Image.open(figure) as picture:
            assert picture.width > 400
    names = {figure.stem for figure in (run / "figures").glob("*.png")}
    assert names == {
        "samples",
        "curves",
        "confusion",
        "mistakes",
        "kernels",
        "feature_maps",
    }
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert "://" not in page


@pytest.mark.parametrize(
    "request_stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
)
def test_interrupted_and_resumed_ends_bit_equal(run, tmp_path, request_stop) -> None:
    """Stopped once the first epoch is on record, then resumed by the same command."""
    folder = tmp_path / "run"
    arguments = [*TRAIN, "--epochs", "3", "--out", str(folder)]
    command = [sys.executable, "-W", "error", "-m", "experiments.mnist", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/3"):
            process.send_signal(request_stop)
            break
    output, rest = process.communicate()
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert process.returncode == expected[request_stop], rest
    if request_stop != signal.SIGKILL:
        assert f"--out {folder} --resume" in output
    done = study(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    whole, resumed = parameters(run), parameters(folder)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_streamed_data_give_the_same_run(run: Path, tmp_path: Path) -> None:
    done = study(
        *TRAIN, "--epochs", 3, "--out", tmp_path / "run", "--device-limit-mb", 0
    )
    assert done.returncode == 0, done.stderr
    whole, streamed = parameters(run), parameters(tmp_path / "run")
    for name, value in whole.items():
        np.testing.assert_array_equal(value, streamed[name], err_msg=name)


def test_one_command_begins_and_goes_on(run: Path, tmp_path: Path) -> None:
    """`--resume` begins a run where there is none; a finished one stays as it is."""
    folder = tmp_path / "run"
    command = [*TRAIN, "--epochs", 3, "--out", folder, "--resume"]
    assert study(*command).returncode == 0
    before = json.loads((folder / "result.json").read_text())
    (folder / "report.html").unlink()
    again = study(*command)
    assert again.returncode == 0, again.stderr
    assert "resuming at step 66" in again.stdout
    after = json.loads((folder / "result.json").read_text())
    for name in ("steps", "train_seconds", "examples_per_second", "test_accuracy"):
        assert after[name] == before[name]
    assert (folder / "report.html").exists()
    for name, value in parameters(run).items():
        np.testing.assert_array_equal(value, parameters(folder)[name], err_msg=name)


def test_divergence_is_one_line_and_no_result(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = study(
        *(*TRAIN, "--epochs", 2, "--out", folder, "--optimizer", "sgd"),
        *("--schedule", "constant", "--learning-rate", 1e30),
    )
    assert done.returncode == 1
    assert re.search(
        r"error: the loss at step \d+ is not finite \(learning rate 1e\+30\); no "
        r"checkpoint was saved before it",
        done.stderr,
    )
    assert "Traceback" not in done.stderr
    assert not (folder / "result.json").exists()


def test_the_resume_command_repeats_what_was_asked_for() -> None:
    config = mnist.Config(
        dataset="digits", epochs=3, wandb=True, out=Path("a b"), resume=True
    )
    assert mnist.resume_command(config, Path("a b")) == (
        "python -m experiments.mnist --dataset digits --epochs 3 --wandb "
        "--out 'a b' --resume"
    )


def test_runs_begun_together_get_a_folder_each(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [mnist.run_directory(mnist.Config()) for _ in range(3)]
    assert [path.name for path in found] == ["mnist-001", "mnist-002", "mnist-003"]
    assert mnist.run_directory(mnist.Config(resume=True)).name == "mnist-003"


@pytest.mark.parametrize(
    ("checkpoint", "code", "message"),
    [
        ("best", 0, ""),
        ("66", 0, ""),
        ("65", 1, "no checkpoint of step 65; the steps that exist are"),
        ("newest", 1, "--checkpoint is 'newest'"),
    ],
)
def test_predicts_with_the_checkpoint_asked_for(
    run: Path, tmp_path: Path, checkpoint: str, code: int, message: str
) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(data.load("digits").test.images[0, ..., 0]).save(path)
    done = study("predict", "--run", run, "--checkpoint", checkpoint, path)
    assert done.returncode == code
    assert message in done.stderr


def test_predicts_digits_from_pictures(run: Path, tmp_path: Path) -> None:
    test = data.load("digits").test
    paths, truth = [], []
    for index in range(0, 40, 2):
        picture = Image.fromarray(255 - test.images[index, ..., 0]).resize((200, 200))
        paths.append(tmp_path / f"{index}.png")
        picture.save(paths[-1])
        truth.append(str(test.labels[index]))
    done = study("predict", "--run", run, "--json", *paths)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry["image"] for entry in found] == list(map(str, paths))
    for entry in found:
        assert sum(entry["probabilities"].values()) == pytest.approx(1)
    right = sum(e["class"] == t for e, t in zip(found, truth, strict=True))
    assert right >= 16
    drawn = study("predict", "--run", run, paths[0])
    assert f"{paths[0]}: {found[0]['class']}" in drawn.stdout
    assert drawn.stdout.count("%") == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epochs"),
        (["--dataset", "minst"], "did you mean mnist"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--learning-rate", "0"], "--learning-rate is 0"),
        (["--optimizer", "adamm"], "did you mean adam"),
        (["--optimizer", "sgd", "--weight-decay", "0.1"], "sgd has no weight decay"),
        (["--batch-size", "5000"], "batch_size is 5000.*1442"),
        (["--dropout", "1.5"], "--dropout is 1.5"),
        (["--rotation", "-5"], "rotation is -5.0 degrees"),
        (["--patience", "0"], "--patience is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(10**30)], "--seed is 1000.*below 4,294,967,296"),
        (["--device-limit-mb", "-1"], "--device-limit-mb is -1"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--dataset", "gone.npz"], "gone.npz: no such file"),
        (["--device", "tpu"], "--device tpu: no such device.*[Cc]pu"),
        (["predict", "--run", "gone", "x.png"], "gone: there is no run"),
        (["predict", "--run", "gone"], "no picture"),
    ],
)
def test_mistakes_get_one_clear_line(arguments, message, tmp_path) -> None:
    if arguments[0] != "predict":
        arguments = [*TRAIN, "--out", tmp_path / "run", *arguments]
    done = study(*arguments)
    assert done.returncode in (1, 2)
    assert re.search(message, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_used_folder_is_refused(run: Path) -> None:
    before = (run / "result.json").read_bytes()
    done = study(*TRAIN, "--epochs", 1, "--out", run)
    assert done.returncode == 1
    assert "--resume" in done.stderr and "--overwrite" in done.stderr
    assert (run / "result.json").read_bytes() == before


def test_survives_a_reader_that_leaves(tmp_path: Path) -> None:
    """`... | head -1` must not end the run."""
    folder = tmp_path / "run"
    command = (
        f"{sys.executable} -m experiments.mnist {' '.join(TRAIN)} --epochs 1 "
        f"--out {folder} 2>&1 | head -1"
    )
    environment = os.environ | {"TERM": "dumb"}
    environment.pop("DISPLAY", None)
    subprocess.run(
        command, shell=True, cwd=ROOT, check=True, capture_output=True, env=environment
    )
    assert (folder / "result.json").exists()
