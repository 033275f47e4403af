"""The benchmark from its command line, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_measures_and_leaves_its_results(tmp_path: Path) -> None:
    done = benchmark(
        *"mnist --dataset digits --device cpu --rounds 1 --batch-sizes 16".split(),
        *"--steps 3 --windows 2 --no-race --contenders flaxnets".split(),
        *("--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["complete"]
    row = result["summary"]["steps"]["16"]["rows"]["flaxnets"]
    (steps,) = [o for o in result["outcomes"] if o["kind"] == "steps"]
    assert steps["window_steps"] == 3 and len(steps["window_seconds"]) == 2
    # A step cannot beat the machine's own products and memory.
    assert row["times_floor"] > 1
    assert row["first_step_seconds"]["median"] > row["step_ms"]["median"] / 1e3
    assert "flaxnets" in (tmp_path / "table.txt").read_text()
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("minst", "no benchmark 'minst'"),
        ("mnist --round 3", "--rounds"),
        ("mnist --rounds 0", "--rounds is 0"),
        ("mnist --batch-sizes 0", "--batch-sizes is (0,)"),
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
