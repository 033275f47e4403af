"""What the benchmark of attacks gives its workers."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from experiments.benchmark import attacks, processes
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
    digits = data.load("digits")
    config = {"study": "mnist", "dataset": "digits"}
    config["dataset_sha256"] = data.fingerprint(digits)
    (run / "config.json").write_text(json.dumps(config))
    given = []

    def noted(contender, job) -> dict:
        given.append((job.images(), job.weights()))
        return {
            "status": "failed",
            "contender": contender.module,
            "message": "nothing was run",
        }

    monkeypatch.setattr(processes, "run", noted)
    tasks = {"few": attacks.Task(20)}
    monkeypatch.setattr(attacks, "CPU", tasks)
    out = tmp_path / "out"
    config = attacks.Config(rounds=1, tasks=("few",), device="cpu", run=run, out=out)
    assert attacks.run(config) == 1
    assert json.loads((out / "result.json").read_text())["config"]["run"] == str(run)
    expected = digits.test.images[:20].astype(np.float32) / 255
    assert given
    for images, weights in given:
        np.testing.assert_array_equal(images, expected)
        jax.tree.map(
            np.testing.assert_array_equal, params.unflatten(weights), dict(held)
        )
    monkeypatch.setattr(attacks, "CPU", {"many": attacks.Task(1000)})
    with pytest.raises(errors.ArgumentError, match=r"has 35\d test pictures, but 1000"):
        attacks.run(config)
    with pytest.raises(errors.RunFolderError, match="there is no run here"):
        attacks.run(attacks.Config(run=tmp_path / "nowhere"))
