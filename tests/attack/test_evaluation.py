"""Tables of attacks against loops over pictures in plain numpy."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.train import metrics

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(0.2, 0.8, (30, 3, 2, 1)).astype(np.float32)
KERNELS = GENERATOR.normal(size=(2, 6, 3)).astype(np.float32)
KEY = jax.random.key(1)
EPSILONS = (0.15, 0.05, 0.1)
# A direction for each, and how far it goes by its epsilon.
ONE, OTHER, THIRD = GENERATOR.choice([-1, 1], (3, 3, 2, 1)).astype(np.float32)
# Breaks pictures that the others do not, only with a small epsilon.
NEAR = np.reshape(np.float32([-1, -1, -1, 1, -1, -1]), (3, 2, 1))
MOVES = {
    "one": (ONE, lambda epsilon: 0.99 * epsilon),
    "other": (OTHER, lambda epsilon: 0.99 * epsilon),
    "far": (THIRD, lambda epsilon: 1.5 * epsilon),
    "near": (NEAR, lambda epsilon: 0.99 * epsilon if epsilon < 0.07 else 0.0),
    "nothing": (ONE, lambda epsilon: 0.0),
}


def predicted(images: np.ndarray, kernel: np.ndarray = KERNELS[0]) -> np.ndarray:
    return ((images.reshape(len(images), -1) - 0.5) @ kernel).argmax(axis=1)


LABELS = predicted(IMAGES)
# Some are misclassified as they are.
LABELS[::7] = (LABELS[::7] + 1) % 3


def apply(kernel: jax.Array, images: jax.Array) -> tuple[jax.Array, dict]:
    # Not a matrix product: its sums depend on the size of the batch.
    flat = (images.reshape(len(images), -1, 1) - 0.5) * kernel[None]
    return flat.sum(axis=1), {}


def moved(images: np.ndarray, name: str, epsilon: float) -> np.ndarray:
    direction, size = MOVES[name]
    return np.clip(images + np.float32(size(epsilon)) * direction, 0, 1)


def mover(name: str) -> attack.evaluation.Factory:
    direction, size = MOVES[name]

    @functools.cache
    def factory(epsilon: float) -> attack.Attack:
        return lambda logits, images, labels, key: jnp.clip(
            images + size(epsilon) * direction[None], 0, 1
        )

    return factory


ATTACKS = {name: mover(name) for name in MOVES}


@pytest.fixture(scope="module")
def found() -> attack.Evaluated:
    return attack.evaluate(
        ATTACKS,
        apply,
        KERNELS[0],
        IMAGES,
        LABELS,
        key=KEY,
        epsilons=EPSILONS,
        batch_size=16,
    )


def test_rows_are_what_each_attack_did(found: attack.Evaluated) -> None:
    right = predicted(IMAGES) == LABELS
    assert 0 < right.sum() < 30
    np.testing.assert_array_equal(found.clean, right)
    assert found.epsilons == sorted(EPSILONS)
    assert [(row.attack, row.epsilon) for row in found.rows] == [
        (name, epsilon) for name in MOVES for epsilon in found.epsilons
    ]
    for row in found.rows:
        points = moved(IMAGES, row.attack, row.epsilon)
        difference = (points.astype(np.float64) - IMAGES).reshape(30, -1)
        linf = np.abs(difference).max(axis=1)
        broken = right & (predicted(points) != LABELS)
        fell = broken & (linf <= row.epsilon)
        np.testing.assert_array_equal(row.standing, right & ~fell)
        assert row.beyond == np.sum(broken & ~fell)
        # Programs may round the product differently.
        np.testing.assert_allclose(row.linf, linf[fell], atol=1e-7)
        np.testing.assert_allclose(
            row.l2, np.linalg.norm(difference[fell], axis=1), atol=1e-6
        )
        assert row.seconds > 0
    assert sum(row.beyond for row in found.rows) > 0


def test_what_has_no_epsilon_is_run_once_and_each_row_is_told() -> None:
    keys: list[str] = []
    told: list[attack.Tried] = []

    def unbounded(logits, images, labels, key):
        jax.debug.callback(lambda: keys.append("asked"))
        return jnp.clip(images + 0.1, 0, 1)

    found = attack.evaluate(
        {"once": lambda epsilon: unbounded, "again": lambda epsilon: unbounded},
        apply,
        KERNELS[0],
        IMAGES,
        LABELS,
        key=KEY,
        epsilons=EPSILONS,
        batch_size=30,
        after_each=told.append,
    )
    jax.effects_barrier()
    # Another name is another attack, with a key of its own.
    assert len(keys) == 2
    assert tuple(told) == found.rows and len(told) == 2 * len(EPSILONS)


def test_the_worst_case_is_that_of_a_loop_over_pictures(
    found: attack.Evaluated,
) -> None:
    for epsilon in found.epsilons:
        expected = []
        for picture, label in zip(IMAGES, LABELS, strict=True):
            stands = predicted(picture[None])[0] == label
            for smaller in (each for each in EPSILONS if each <= epsilon):
                for name in MOVES:
                    point = moved(picture[None], name, smaller)
                    size = np.abs(point.astype(np.float64) - picture).max()
                    broken = predicted(point)[0] != label
                    stands = stands and not (broken and size <= smaller)
            expected.append(stands)
        np.testing.assert_array_equal(found.worst_case(epsilon), expected)
    # No attack alone has it, nor have all together without their smaller epsilons.
    last = [row for row in found.rows if row.epsilon == 0.15]
    together = np.all([row.standing for row in last], axis=0).mean()
    assert together < min(row.accuracy for row in last)
    assert 0 < found.worst_case(0.15).mean() < together


def test_all_numbers_are_json(found: attack.Evaluated) -> None:
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["pictures"] == 30 and document["norm"] == "linf"
    assert document["clean"]["accuracy"] == found.clean.mean()
    for row, its in zip(found.rows, document["attacks"], strict=True):
        assert (its["attack"], its["epsilon"]) == (row.attack, row.epsilon)
        assert its["accuracy"] == row.standing.mean()
        low, high = metrics.accuracy_interval(int(row.standing.sum()), 30)
        assert its["accuracy_interval"] == [low, high]
        if row.attack == "nothing":
            assert its["linf_mean"] is its["l2_max"] is None
        elif row.linf.size:
            assert its["linf_mean"] == row.linf.mean()
            assert its["l2_max"] == row.l2.max()
    assert [its["accuracy"] for its in document["worst_case"]] == [
        found.worst_case(epsilon).mean() for epsilon in found.epsilons
    ]


def test_the_table_has_all_rows(found: attack.Evaluated) -> None:
    first, heads, clean, *lines = found.table().splitlines()
    assert "30 pictures" in first and "95 % interval" in heads
    assert clean.split()[1:3] == ["none", f"{found.clean.mean():.2%}"]
    expected = []
    for epsilon in found.epsilons:
        for row in found.rows:
            if row.epsilon == epsilon:
                expected.append(f"{epsilon:g} {row.attack} {row.accuracy:.2%}")
        worst = found.worst_case(epsilon).mean()
        expected.append(f"{epsilon:g} worst case {worst:.2%}")
    assert len(lines) == len(expected)
    for line, begin in zip(lines, expected, strict=True):
        assert " ".join(line.split()).startswith(begin)


def test_transfer_has_the_attack_itself_on_its_diagonal() -> None:
    """Elsewhere it has the same pictures, shown to another network."""

    @functools.cache
    def pgd(epsilon: float) -> attack.Attack:
        return attack.pgd(epsilon, steps=3)

    models = {"first": (apply, KERNELS[0]), "second": (apply, KERNELS[1])}
    attacks = {"pgd": pgd, "far": ATTACKS["far"]}
    epsilon = 0.1
    both = attack.transfer(
        attacks, models, IMAGES, LABELS, key=KEY, epsilon=epsilon, batch_size=16
    )
    assert both.standing.shape == (2, 2, 2, 30)
    for source, kernel in enumerate(KERNELS):
        right = predicted(IMAGES, kernel) == LABELS
        np.testing.assert_array_equal(both.clean[source], right)
        direct = attack.evaluate(
            attacks,
            apply,
            kernel,
            IMAGES,
            LABELS,
            key=KEY,
            epsilons=[epsilon],
            batch_size=16,
        )
        for number, row in enumerate(direct.rows):
            np.testing.assert_array_equal(
                both.standing[number, source, source], row.standing
            )
        # What is made too far away breaks nobody.
        np.testing.assert_array_equal(both.standing[1, :, source], [right, right])
        its = attack.run(
            pgd(epsilon),
            apply,
            kernel,
            IMAGES,
            LABELS,
            key=jax.random.fold_in(KEY, 0),
            batch_size=16,
        )
        other = KERNELS[1 - source]
        stands = (predicted(IMAGES, other) == LABELS) & (
            predicted(its.images, other) == LABELS
        )
        np.testing.assert_array_equal(both.standing[0, source, 1 - source], stands)
    document = json.loads(json.dumps(both.as_json(), allow_nan=False))
    cell = document["attacks"]["pgd"]["first"]["second"]
    assert cell["accuracy"] == both.standing[0, 0, 1].mean()
    assert document["clean"]["second"]["accuracy"] == both.clean[1].mean()
    _, heads, clean, *lines = both.table().splitlines()
    assert heads.split() == ["attack", "made", "on", "first", "second"]
    assert clean.split()[0] == "none"
    assert [line.split()[:2] for line in lines] == [
        [name, model] for name in attacks for model in models
    ]
    assert f"{both.standing[0, 0, 1].mean():.2%} (" in lines[0]


@pytest.mark.parametrize(
    ("attacks", "epsilons", "said"),
    [
        ({}, [0.1], "attacks is empty"),
        (ATTACKS, [], "epsilons is empty"),
        (ATTACKS, [0.1, -0.1], "epsilon is -0.1"),
        (ATTACKS, [8], "for levels of 255 give 8 / 255"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(attacks, epsilons, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        attack.evaluate(
            attacks, apply, KERNELS[0], IMAGES, LABELS, key=KEY, epsilons=epsilons
        )
