"""The benchmark from its command line, at the smallest size."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]


TINY = (
    *"mnist --dataset digits --device cpu --rounds 1 --batch-sizes 16".split(),
    *"--steps 3 --windows 2 --no-race".split(),
)


def benchmark(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | variables
    )


def scripted(script: str, out: Path) -> dict:
    """The result that a script leaves in the folder it is given."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "result.json").read_text())


def test_measures_and_leaves_its_results(tmp_path: Path) -> None:
    """Also where a peer is not installed, which is said and is no failure."""
    hide = "import sys\n\nsys.modules['keras'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    done = benchmark(
        *(*TINY, "--contenders", "flaxnets", "keras-jax", "--out", str(tmp_path)),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["complete"] and not result["failures"]
    assert result["skipped"] == {"keras-jax": "keras not installed"}
    row = result["summary"]["steps"]["16"]["rows"]["flaxnets"]
    (steps,) = [o for o in result["outcomes"] if o["kind"] == "steps"]
    assert steps["window_steps"] == 3 and len(steps["window_seconds"]) == 2
    # A step cannot beat the machine's own products and memory.
    assert row["times_floor"] > 1
    assert row["first_step_seconds"]["median"] > row["step_ms"]["median"] / 1e3
    table = (tmp_path / "table.txt").read_text()
    assert "flaxnets" in table and "skipped: keras-jax: keras not installed" in table
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 400


def test_networks_are_measured_and_absent_ones_said(tmp_path: Path) -> None:
    """One small network: a model that no peer here has."""
    script = """
import sys
from experiments.benchmark import networks
networks.CPU = {
    "small": networks.Task("forward", "squeezenet_caffe", 2, 64, calls=1),
    "step": networks.Task("train_step", "squeezenet_caffe", 2, 64, calls=1),
}
config = networks.Config(
    rounds=1, tasks=("small", "step"), windows=1, device="cpu",
    contenders=("pytorch",), out=__import__("pathlib").Path(sys.argv[1]),
)
sys.exit(networks.run(config))
"""
    result = scripted(script, tmp_path)
    assert result["complete"] and not result["failures"]
    for task in ("small", "step"):
        assert list(result["summary"][task]["rows"]) == ["flaxnets"]
        assert result["summary"][task]["rows"]["flaxnets"]["step_ms"]["median"] > 0
    assert 0 < result["summary"]["small"]["share_of_products"]["median"] < 10
    others = {o["status"] for o in result["outcomes"] if o["contender"] == "pytorch"}
    assert others <= {"not installed", "no network"} and len(others) == 1
    assert "squeezenet_caffe logits, 2 x 64x64" in (tmp_path / "table.txt").read_text()
    assert (tmp_path / "plot.png").exists()


def test_autoencoders_and_operators_are_measured(tmp_path: Path) -> None:
    script = """
import sys
from experiments.benchmark import autoencoders
Task = autoencoders.Task
autoencoders.CPU = {
    "step": Task("train_step", "max_unpool", 2, 8, 1, (4,), calls=1),
    "operator": Task("operator", "transposed", 2, 8, 4, calls=1),
}
config = autoencoders.Config(
    rounds=1, tasks=("step", "operator"), windows=1, device="cpu",
    contenders=("keras-jax",), out=__import__("pathlib").Path(sys.argv[1]),
)
sys.exit(autoencoders.run(config))
"""
    result = scripted(script, tmp_path)
    for task in ("step", "operator"):
        assert result["summary"][task]["rows"]["flaxnets"]["step_ms"]["median"] > 0
    # Keras cannot do either.
    others = {o["status"] for o in result["outcomes"] if o["contender"] == "keras-jax"}
    assert others <= {"not installed", "no network"} and len(others) == 1
    table = (tmp_path / "table.txt").read_text()
    assert "autoencoder with max unpool, training step, 2 x 8x8x1" in table
    assert "transposed, with its gradient, 2 x 8x8x4" in table


def test_attacks_are_measured_with_their_success(tmp_path: Path) -> None:
    script = """
import sys
from experiments.benchmark import attacks
attacks.CPU = {"small": attacks.Task(2, attack_steps=3)}
config = attacks.Config(
    rounds=1, tasks=("small",), windows=1, device="cpu",
    contenders=("keras-jax",), out=__import__("pathlib").Path(sys.argv[1]),
)
sys.exit(attacks.run(config))
"""
    result = scripted(script, tmp_path)
    ours, theirs = result["outcomes"]
    assert result["summary"]["small"]["rows"]["flaxnets"]["step_ms"]["median"] > 0
    assert 0 <= ours["success_rate"] <= 1
    assert theirs["status"] in ("not installed", "no network")
    table = (tmp_path / "table.txt").read_text()
    assert "PGD-3 at epsilon 0.3, 2 pictures of 28x28" in table
    assert f"fooled: flaxnets {ours['success_rate']:.1%}" in table


def test_interrupted_leaves_what_it_has_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmark", *TINY, "--rounds", "99"]
    process = subprocess.Popen(
        [*command, "--contenders", "flaxnets", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Its workers' arguments name files there.
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 1/99"):
            break
    while len(processes_that_name(tmp_path)) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (130, "interrupted\n")
    assert not processes_that_name(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["complete"]
    assert "steps" in {outcome["kind"] for outcome in result["outcomes"]}
    assert not list(tmp_path.glob("benchmark-*"))


def processes_that_name(path: Path) -> list[str]:
    """The processes that have a path in their command line."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(path).encode() in line.read_bytes():
                found.append(line.parent.name)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("minst", "no benchmark 'minst'"),
        ("mnist --round 3", "--rounds"),
        ("mnist --rounds 0", "--rounds is 0"),
        ("mnist --seed -1", "--seed is -1"),
        ("mnist --out pyproject.toml", "--out pyproject.toml: a file"),
        ("networks --tasks vgg61", "--tasks vgg61: unknown; known are: vgg16"),
        ("networks --tasks", "--tasks is empty"),
        ("networks --rounds 0", "--rounds is 0"),
        ("mnist --batch-sizes 0", "--batch-sizes is (0,)"),
        ("mnist --batch-sizes --no-race", "--batch-sizes is empty"),
        ("mnist --target 99", "--target is 99"),
        ("mnist --contenders jax", "--contenders jax: unknown"),
        ("mnist --dataset gone.npz", "gone.npz: no such file"),
    ],
)
def test_mistakes_get_one_clear_line(arguments: str, message: str) -> None:
    done = benchmark(*arguments.split())
    assert done.returncode in (1, 2)
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
