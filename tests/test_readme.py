"""The README's code runs, and what it names exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import flaxnets
from flaxnets import data, models, params, weights
from flaxnets.data import download
from flaxnets.weights import cache, names

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
    """With ones for weights, where the published file would be, and its record."""
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path))
    model = models.build("resnet50")
    leaves = params.flatten(params.abstract(model, (1, 224, 224, 3)))
    tensors = {
        source.name: np.ones(source.shape(leaves[leaf].shape), np.float32)
        for leaf, source in names.name_map(model, "torchvision", leaves).items()
    }
    path = cache.place(weights.find("resnet50"))
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        np.savez(file, **tensors)
    entry = weights.find("resnet50")
    assert entry.expected
    record = {
        "published": entry.expected.digest,
        "sha256": download.digest(path),
        "size": path.stat().st_size,
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(record))
    found: dict = {"picture": np.zeros((64, 80, 3), np.uint8)}
    exec(EXAMPLES[1], found)
    assert found["logits"].shape == (1, 1000)


def test_the_transfer_example_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    """Up to the features, and a step on them."""
    monkeypatch.chdir(tmp_path)
    model, variables = flaxnets.create("squeezenet1_1", key=jax.random.key(0))
    weights.save(variables, "squeezenet1_1.safetensors", model)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found: dict = {"pictures": data.Split(pictures, np.array([0, 1], np.int32))}
    exec(EXAMPLES[2], found)
    # 13x13 pixels of fire8's 512 channels.
    assert found["seen"].images.shape == (2, 13 * 13 * 512)
    batch = {"image": found["seen"].images, "label": found["seen"].labels}
    state, metrics = found["step"](found["state"], batch)
    assert int(state.step) == 1 and np.isfinite(metrics["loss"])


def test_the_autoencoder_of_the_example_has_a_loss_to_be_trained_by() -> None:
    found: dict = {}
    exec(EXAMPLES[3], found)
    assert len(EXAMPLES) == 5
    shape = (2, 28, 28, 1)
    variables = params.initialize(found["model"], jax.random.key(0), shape)
    batch = {"image": np.full(shape, 0.5, np.float32), "label": np.zeros(2, np.int32)}
    loss = jax.jit(found["loss"])
    value, _ = loss(variables["params"], {}, batch, jax.random.key(1))
    assert np.isfinite(value) and value > 0


def test_the_attacks_of_the_example_say_what_stands(capsys) -> None:
    """Of pictures that are misclassified as they are, so that it is quick."""
    model = models.CNN(num_classes=5, widths=(4,), pools=1, dense=())
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    variables = params.initialize(model, jax.random.key(0), images.shape)
    logits, _ = jax.jit(model.apply)(variables, images)
    given = {"labels": (np.argmax(logits, axis=-1) + 1) % 5, "key": jax.random.key(1)}
    exec(
        EXAMPLES[4], {"model": model, "variables": variables, "images": images} | given
    )
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("0.0 0.0 ") and second == "[0.0, 0.0, 0.0, 0.0, 0.0]"


def test_the_paths_exist() -> None:
    paths = re.findall(r"\b(?:experiments|flaxnets)/[\w./-]*", README)
    assert "experiments/figures/mistakes.png" in paths
    for path in paths:
        assert (ROOT / path.rstrip(".")).exists(), path


def test_a_newcomer_needs_two_commands() -> None:
    """The lines that CI reads out of the README and runs in fresh environments."""
    commands = re.findall(r"^pip install -e.*", README, re.MULTILINE)
    assert len(commands) == 2
