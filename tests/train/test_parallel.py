"""Training on four virtual devices, in a process of its own, beside one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from flaxnets import data, errors, models, train
from flaxnets.train import losses

folder, batch_size, resident, begun = sys.argv[1:]
generator = np.random.default_rng(0)
labels = generator.integers(0, 3, 40).astype(np.int32)
images = generator.integers(0, 200, (40, 6, 6, 1)).astype(np.uint8)
split = data.Split(images, labels)
digits = data.Dataset("generated", split, data.Split(images[:7], labels[:7]),
                      tuple("abc"), "generated")
model = models.CNN(num_classes=3, widths=(4,), pools=1, dense=(8,))
optimizer = optax.sgd(0.1)
variables = model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
state = train.create(variables, optimizer, key=jax.random.key(1))
with train.Checkpoints(Path(folder)) as checkpoints:
    if checkpoints.latest():
        state = checkpoints.restore(state)
    try:
        fitted = train.fit(
            state, train.make_step(losses.classification(model.apply), optimizer),
            digits, epochs=int(begun) + 1, batch_size=int(batch_size), seed=0,
            evaluator=train.Evaluator(model.apply, batch_size=7),
            learning_rate=optax.constant_schedule(0.1), checkpoints=checkpoints,
            resident_bytes=None if resident == "resident" else 0)
    except errors.ArgumentError as error:
        sys.exit(str(error))
kernel = fitted.state.params["dense1"]["kernel"]
record = fitted.records[-1]
print(json.dumps({"loss": record["train_loss"], "test_loss": record["test_loss"],
                  "devices": len(kernel.devices()), "kernel": kernel.tolist()}))
"""


def trained(folder: Path, devices: int, batch: int = 8, *, resident=True, begun=0):
    flags = f"--xla_force_host_platform_device_count={devices}"
    kind = "resident" if resident else "streamed"
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(batch), kind, str(begun)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def assert_alike(one: dict, other: dict) -> None:
    # Sums over the batch in another order, for five steps of plain SGD.
    np.testing.assert_allclose(one["kernel"], other["kernel"], atol=1e-5)
    for name in ("loss", "test_loss"):
        assert one[name] == pytest.approx(other[name], rel=1e-5)


@pytest.mark.parametrize("resident", [True, False])
def test_four_devices_share_a_batch(tmp_path: Path, resident: bool) -> None:
    found = {}
    for devices in (1, 4):
        done = trained(tmp_path / str(devices), devices, resident=resident)
        assert done.returncode == 0, done.stderr
        found[devices] = json.loads(done.stdout)
        assert found[devices]["devices"] == devices
    assert_alike(found[1], found[4])


@pytest.mark.once
def test_a_run_goes_on_with_fewer_devices(tmp_path: Path) -> None:
    found = {}
    for first, then in ((4, 1), (1, 1)):
        folder = tmp_path / f"{first}"
        assert trained(folder, first).returncode == 0
        done = trained(folder, then, begun=1)
        assert done.returncode == 0, done.stderr
        found[first] = json.loads(done.stdout)
    assert_alike(found[4], found[1])


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    done = trained(tmp_path, 4, batch=6)
    assert done.returncode == 1
    assert "batch_size is 6, but 4 devices" in done.stderr
    assert "such as 4 or 8" in done.stderr
    assert "Traceback" not in done.stderr
