"""The README's code runs, and what it names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from flaxnets import models, params
from flaxnets.weights import names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    """In an empty folder, for one epoch."""
    example = EXAMPLES[0]
    assert example.count("epochs=5") == 1
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example.replace("epochs=5", "epochs=1")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) <= 1
    assert not list(tmp_path.iterdir())


def test_the_pretrained_example_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    """On a file of that name with ones for weights: what a file is, its bytes tell."""
    model = models.build("resnet50")
    leaves = params.flatten(params.abstract(model, (1, 224, 224, 3)))
    tensors = {
        source.name: np.ones(source.shape(leaves[leaf].shape), np.float32)
        for leaf, source in names.name_map(model, "torchvision", leaves).items()
    }
    with (tmp_path / "resnet50-0676ba61.pth").open("wb") as file:
        np.savez(file, **tensors)
    monkeypatch.chdir(tmp_path)
    found = {"images": np.zeros((1, 64, 64, 3), np.float32)}
    exec(EXAMPLES[1], found)
    assert found["logits"].shape == (1, 1000)
    assert len(EXAMPLES) == 2


def test_the_paths_exist() -> None:
    paths = re.findall(r"\b(?:experiments|flaxnets)/[\w./-]*", README)
    assert "experiments/figures/mistakes.png" in paths
    for path in paths:
        assert (ROOT / path.rstrip(".")).exists(), path


def test_a_newcomer_needs_two_commands() -> None:
    """The lines that CI reads out of the README and runs in fresh environments."""
    commands = re.findall(r"^pip install -e.*", README, re.MULTILINE)
    assert len(commands) == 2
