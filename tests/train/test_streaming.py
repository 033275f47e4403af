"""Training on what does not fit the device: the same, also across a kill."""

import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxnets import data, models, params, train
from flaxnets.data import preprocessing
from flaxnets.train import losses, optimizers

PREPARE = preprocessing.Preprocessing(resize=12, crop=12)
EPOCHS = 3


def _folder(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for index in range(40):
        for split, name in (("train", "ant"), ("train", "bee"), ("val", "ant")):
            path = root / split / name / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (12, 14, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    (root / "val" / "bee").mkdir()
    Image.new("RGB", (12, 12)).save(root / "val" / "bee" / "black.png")
    return root


def trained(
    root: Path,
    checkpoints: train.Checkpoints | None = None,
    *,
    resident_bytes: int = 0,
    say=lambda record: None,
) -> train.Fitted:
    """Trains on pictures that are decoded batch by batch, from wherever it stands."""
    folder = data.image_folder(root)
    parts = [
        data.Pictures(folder, listing, PREPARE.cropped, workers=2).split()
        for listing in (folder.train, folder.validation)
    ]
    dataset = data.Dataset("ants", *parts, folder.class_names, "")
    model = models.CNN(num_classes=2, widths=(4,), dense=(8,), dropout=0.5)
    variables = params.initialize(model, jax.random.key(0), (1, 12, 12, 3))
    optimizer, schedule = optimizers.make("adam", learning_rate=1e-3, total_steps=60)
    state = train.create(variables, optimizer, key=jax.random.key(1))
    resumed, last = None, checkpoints.latest() if checkpoints else None
    if checkpoints and last is not None:
        state = checkpoints.restore(state, last)
        resumed = checkpoints.metadata(last)
    return train.fit(
        state,
        train.make_step(losses.classification(model.apply), optimizer),
        dataset,
        epochs=EPOCHS,
        batch_size=4,
        seed=3,
        evaluator=train.Evaluator(model.apply, batch_size=16),
        learning_rate=schedule,
        checkpoints=checkpoints,
        resumed=resumed,
        resident_bytes=resident_bytes,
        # After each call of the compiled steps, so that a kill finds some.
        save_seconds=0.0,
        on_record=say,
    )


def _leaves(fitted: train.Fitted) -> dict[str, np.ndarray]:
    return params.flatten(jax.device_get(fitted.state.variables))


def test_streamed_pictures_train_as_those_in_memory(tmp_path: Path) -> None:
    root, before = _folder(tmp_path), list(warnings.filters)
    streamed, held = trained(root), trained(root, resident_bytes=1 << 30)
    assert int(streamed.state.step) == EPOCHS * 20
    for name, leaf in _leaves(held).items():
        np.testing.assert_array_equal(_leaves(streamed)[name], leaf)
    assert 0 < streamed.waiting_share < 1
    # Nor are the process's warnings other ones than before.
    assert warnings.filters == before
    assert held.waiting_share == 0


def test_killed_in_an_epoch_it_ends_bit_equal(tmp_path: Path) -> None:
    root, kept = _folder(tmp_path / "pictures"), tmp_path / "checkpoints"
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import test_streaming as t;"
        "from flaxnets import train; from pathlib import Path\n"
        "with train.Checkpoints(Path(sys.argv[3])) as found:\n"
        "    t.trained(Path(sys.argv[2]), found, say=lambda record: time.sleep(60))"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), root, kept]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    # In the first epoch, between its first saved step and its end, which waits.
    deadline = time.monotonic() + 120
    steps: tuple[int, ...] = ()
    while not any(0 < step < 20 for step in steps):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
        if kept.exists():
            with train.Checkpoints(kept) as found:
                steps = found.steps()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with train.Checkpoints(kept) as checkpoints:
        checkpoints.clean()
        left = checkpoints.latest()
        assert left is not None and 0 < left <= 20
        resumed = trained(root, checkpoints)
    whole = trained(root)
    assert int(resumed.state.step) == int(whole.state.step)
    for name, leaf in _leaves(whole).items():
        np.testing.assert_array_equal(_leaves(resumed)[name], leaf)
    # The record of the epoch that was killed counts every step once.
    first, again = whole.records[0], resumed.records[0]
    assert again["train_loss"] == pytest.approx(first["train_loss"], rel=1e-6)


def test_training_ends_with_its_time(tmp_path: Path) -> None:
    digits = data.load("digits")
    model = models.CNN(num_classes=10, widths=(4,), dense=())
    variables = params.initialize(model, jax.random.key(0), (1, 28, 28, 1))
    optimizer, schedule = optimizers.make("sgd", learning_rate=0.1, total_steps=10**6)
    state = train.create(variables, optimizer, key=jax.random.key(1))
    step = train.make_step(losses.classification(model.apply), optimizer)
    evaluator = train.Evaluator(model.apply)
    options = {
        "epochs": 10**6,
        "batch_size": 16,
        "seed": 0,
        "evaluator": evaluator,
        "learning_rate": schedule,
        "seconds": 0.5,
    }
    with train.Checkpoints(tmp_path) as checkpoints:
        fitted = train.fit(state, step, digits, checkpoints=checkpoints, **options)
        steps = int(fitted.state.step)
        assert fitted.stopped == "time"
        assert fitted.train_seconds > 0 and fitted.skipped == 0
        # What was trained last is evaluated and saved, in the middle of an epoch too.
        assert fitted.records[-1]["step"] == steps == checkpoints.latest()
        resumed = checkpoints.metadata(steps)
        assert checkpoints.best() in [record["step"] for record in fitted.records]
    more = {"records": fitted.records, "resumed": resumed}
    state = jax.tree.map(jnp.copy, fitted.state)
    again = train.fit(state, step, digits, **more, **options)
    assert again.stopped == "time" and int(again.state.step) == steps
    # With more time it goes on in the middle of the epoch, of which one record is left.
    passed = resumed["seconds"] + resumed["beside"]
    longer = train.fit(
        fitted.state, step, digits, **more, **{**options, "seconds": passed + 0.2}
    )
    assert int(longer.state.step) > steps and longer.skipped == 0
    numbers = [record["epoch"] for record in longer.records]
    assert numbers == list(range(1, len(numbers) + 1))
