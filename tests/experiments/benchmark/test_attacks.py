"""What the benchmark of attacks gives its workers."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from experiments.benchmark import attacks, side_by_side
from flaxnets import data, errors, models, params, train


def test_a_runs_network_and_its_test_pictures_are_attacked(
    tmp_path: Path, monkeypatch
) -> None:
    model = models.CNN()
    variables = params.initialize(model, jax.random.key(3), (1, 28, 28, 1))
    held = jax.device_get(variables["params"])
    run = tmp_path / "run"
    with train.Checkpoints(run / "checkpoints") as checkpoints:
        state = train.create(variables, optax.sgd(0.1), key=jax.random.key(0))
        checkpoints.save(0, state, metric=None, metadata={})
    config = {"study": "mnist", "dataset": "digits", "image_shape": [28, 28, 1]}
    config["classes"] = list("0123456789")
    (run / "config.json").write_text(json.dumps(config))
    given = []

    def noted(name, config, cpu, accelerator) -> int:
        for task in (*cpu.values(), *accelerator.values()):
            asked = side_by_side.Asked("eager", "cpu", False, 0, 1)
            job = task.job(asked)
            given.append((job.images(), job.weights()))
        return 0

    monkeypatch.setattr(side_by_side, "run", noted)
    assert attacks.run(attacks.Config(run=run, out=tmp_path / "out")) == 0
    expected = data.load("digits").test.images[:1000].astype(np.float32) / 255
    for images, weights in given:
        np.testing.assert_array_equal(images, expected)
        jax.tree.map(
            np.testing.assert_array_equal, params.unflatten(weights), dict(held)
        )
    with pytest.raises(errors.RunFolderError, match="there is no run here"):
        attacks.run(attacks.Config(run=tmp_path / "nowhere"))
