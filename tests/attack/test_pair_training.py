"""A pair in the engine's loop: epochs, checkpoints, a signal, resuming."""

import io
import os
import signal

import jax
import numpy as np
import optax

from flaxnets import attack, data, train
from flaxnets.train import loop
from flaxnets.train.progress import Progress
from tests.attack import players


def drawn_targets(key, labels):
    """One of the two other classes; in fewer operations than `other_classes`."""
    return (labels + 1 + jax.random.bits(key, labels.shape, "uint8") % 2) % 3


OPTIONS = {"targets": drawn_targets}
NETWORKS = players.generator, players.classifier
SIDES = (
    attack.Player(
        attack.misleading(*NETWORKS, objective="hinge", norm_limit=0.5, **OPTIONS),
        optax.adam(1e-2),
        updates=1,
    ),
    attack.Player(
        attack.withstanding(*NETWORKS, **OPTIONS),
        optax.sgd(1e-2, momentum=0.9),
        updates=2,
    ),
)
STEP = attack.make_pair_step(*SIDES, population=2, shown="one")
EVALUATOR = attack.PairEvaluator(
    attack.noise_measure(*NETWORKS, population=2, **OPTIONS),
    metric="robust_accuracy",
    key=jax.random.key(3),
    batch_size=5,
)


def dataset() -> data.Dataset:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40).astype(np.int32)
    images = generator.integers(0, 255, (40, 2, 2, 1)).astype(np.uint8)
    split, test = data.Split(images, labels), data.Split(images[:7], labels[:7])
    return data.Dataset("generated", split, test, ("a", "b", "c"), "generated")


def begun() -> attack.Pair:
    members = [players.generator_variables(seed) for seed in range(2)]
    return attack.create_pair(
        *SIDES,
        attack.stack(members),
        players.classifier_variables(2),
        key=jax.random.key(1),
        population=2,
    )


def fit(state: attack.Pair, **options) -> train.Fitted[attack.Pair]:
    return train.fit(
        state,
        STEP,
        dataset(),
        epochs=2,
        batch_size=8,
        seed=0,
        evaluator=EVALUATOR,
        learning_rate=optax.constant_schedule(1e-2),
        **options,
    )


class Stopping(Progress):
    """Sends this process a signal in the second epoch."""

    def update(self, epoch, step, rate, metrics) -> None:
        if (epoch, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_killed_pair_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch) -> None:
    # One step a chunk, so that the signal comes between two of them.
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    whole = fit(begun())
    with train.Checkpoints(tmp_path) as checkpoints:
        stopping = Stopping(2, 5, stream=io.StringIO())
        first = fit(begun(), checkpoints=checkpoints, progress=stopping)
    assert (first.stopped, int(first.state.step)) == ("SIGTERM", 7)
    with train.Checkpoints(tmp_path) as checkpoints:
        rest = fit(
            checkpoints.restore(begun()),
            records=first.records,
            resumed=checkpoints.metadata(7),
            checkpoints=checkpoints,
        )
        leaves = checkpoints.leaves()
    assert [int(part.step) for part in (rest.state, *rest.state[1:])] == [10, 5, 10]

    def numbers(state):
        return {
            jax.tree_util.keystr(path): np.asarray(
                jax.random.key_data(leaf) if "key" in str(path[-1]) else leaf
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }

    found, expected = numbers(rest.state), numbers(whole.state)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    names = [
        name
        for name in whole.records[-1]
        if name.startswith(("train_", "test_")) or name in ("epoch", "step")
    ]
    assert {"train_generator_loss", "train_success_rate", "train_robust_accuracy"} <= (
        set(names)
    )
    for one, other in zip(whole.records, rest.records, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
    # What was saved is enough to go on with either network.
    saved = attack.pair_variables_of(leaves)
    jax.tree.map(np.testing.assert_array_equal, saved, rest.state.variables)
