"""Every peer that is installed does in the benchmark what flaxnets does."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from experiments.benchmark.contenders import CONTENDERS, OURS

ROOT = Path(__file__).parents[2]


def test_peers_do_the_same_work(tmp_path: Path) -> None:
    """The same losses on the same batches from the same weights, and evaluation."""
    peers = [
        name
        for name, contender in CONTENDERS.items()
        if name != OURS and all(map(util.find_spec, contender.requires))
    ]
    if not peers:
        pytest.skip("needs the `peers` extra: PyTorch, Keras, TensorFlow")
    command = [sys.executable, "-m", "experiments.benchmark", "mnist", "--check"]
    command += ["--dataset", "digits", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "result.json").read_text())["outcomes"]
    checked = {o["contender"] for o in outcomes if o["status"] == "ok"}
    assert checked == {OURS, *peers}
    for name in peers:
        assert f"{name}: agrees with flaxnets" in done.stdout
