"""Auto-PGD on networks whose weakest points are known, and its formulas."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack.apgd import (
    checkpoints,
    difference_of_logits_ratio,
    targeted_difference_of_logits_ratio,
)
from tests.attack import small


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.3)])
def test_apgd_reaches_the_weakest_point(norm: attack.Norm, epsilon: float) -> None:
    # For l2 no value comes near 0 or 1, where the weakest point has no formula.
    images = small.pictures() if norm == "linf" else small.pictures(0.3, 0.7)
    labels = np.zeros(len(images), int)
    made = attack.apgd(epsilon, norm, steps=40)
    found = small.compiled(made, small.two_classes)(images, labels, jax.random.key(0))
    slope = (small.KERNEL[:, 0] - small.KERNEL[:, 1]).astype(np.float64)
    flat = images.reshape(len(images), -1).astype(np.float64)
    if norm == "linf":
        low, high = np.maximum(flat - epsilon, 0), np.minimum(flat + epsilon, 1)
        least = np.where(slope > 0, low, high) @ slope + 20
    else:
        least = flat @ slope - epsilon * np.linalg.norm(slope) + 20
    assert (least > 1).all()
    reached = np.asarray(found, np.float64).reshape(len(images), -1) @ slope + 20
    # The length of the slope is about 11; l2 steps end a small angle away.
    np.testing.assert_allclose(reached, least, atol=2e-3)
    small.assert_bounded(found, images, epsilon, norm)


def climbed(image: np.ndarray, epsilon: float, steps: int) -> np.ndarray:
    """Algorithm 1 of the paper for one picture, linf and label 0."""
    kernel = small.KERNEL.astype(np.float64)

    def evaluated(point: np.ndarray) -> tuple[float, np.ndarray]:
        inner = 9 * point @ kernel
        logits = np.sin(inner)
        logits[0] += 4
        shares = np.exp(logits[1:] - logits[0])
        weights = np.append(-shares.sum(), shares) / (1 + shares.sum())
        return np.log1p(shares.sum()), kernel @ (9 * np.cos(inner) * weights)

    def projected(point: np.ndarray) -> np.ndarray:
        return np.clip(np.clip(point, image - epsilon, image + epsilon), 0, 1)

    size, places = 2 * epsilon, checkpoints(steps)
    previous = point = image
    value, gradient = evaluated(point)
    best, best_gradient = (value, point), gradient
    values, checked, halved, before = [value], -np.inf, True, 0
    for step in range(1, steps + 1):
        momentum = 1 if step == 1 else 0.75
        target = projected(point + size * np.sign(gradient))
        further = momentum * (target - point) + (1 - momentum) * (point - previous)
        previous, point = point, projected(point + further)
        value, gradient = evaluated(point)
        values.append(value)
        if value > best[0]:
            best, best_gradient = (value, point), gradient
        if step in places:
            rises = sum(
                values[at] > values[at - 1] for at in range(before + 1, step + 1)
            )
            few = rises <= 0.75 * (step - before)
            stalled = not halved and best[0] <= checked
            halved, checked, before = few or stalled, best[0], step
            if halved:
                size, point, gradient = size / 2, best[1], best_gradient
    return best[1]


@pytest.fixture
def double_precision() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_takes_the_steps_of_the_paper(double_precision: None) -> None:
    images = small.pictures().astype(np.float64)
    epsilon, steps = 1 / 16, 100

    def logits(points: jax.Array) -> jax.Array:
        return jnp.sin(9 * small.affine(points)) + jnp.array([[4.0, 0, 0, 0, 0]])

    made = attack.apgd(epsilon, steps=steps, random_start=False)
    run = small.compiled(made, logits)
    found = np.asarray(run(images, np.zeros(len(images), int), jax.random.key(0)))
    for image, point in zip(images, found, strict=True):
        expected = climbed(image.ravel(), epsilon, steps)
        np.testing.assert_allclose(point.ravel(), expected, atol=1e-9)


def test_breaks_what_can_be_broken_and_nothing_else() -> None:
    small.assert_breaks_what_can_be_broken(
        lambda epsilon: attack.apgd(epsilon, loss="dlr", targets=9, steps=20)
    )


def test_bounds_progress_calls_and_independence() -> None:
    made = attack.apgd(0.07, "l2", loss="dlr", steps=12, restarts=2)
    # Of the picture itself, and of each start and each step.
    small.assert_bounded_independent_and_better(
        made, 0.07, "l2", difference_of_logits_ratio, 1 + 2 * 13
    )


def test_gives_the_pictures_back_where_there_is_nothing_to_follow() -> None:
    small.assert_gives_the_pictures_back(
        attack.apgd(0.1, "l2", loss="dlr", targets=2, steps=3)
    )


def test_losses_by_their_formulas() -> None:
    logits = np.random.default_rng(2).normal(size=(7, 6)).astype(np.float32)
    labels, targets = np.arange(7) % 6, (np.arange(7) + 2) % 6
    for row, label, target, loss, aimed in zip(
        logits,
        labels,
        targets,
        difference_of_logits_ratio(logits, labels),
        targeted_difference_of_logits_ratio(logits, labels, targets),
        strict=True,
    ):
        down = sorted(row, reverse=True)
        other = max(value for index, value in enumerate(row) if index != label)
        expected = -(row[label] - other) / (down[0] - down[2])
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        expected = -(row[label] - row[target])
        expected /= down[0] - (down[2] + down[3]) / 2
        np.testing.assert_allclose(aimed, expected, rtol=1e-5)


def test_checkpoints_are_the_papers() -> None:
    # p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99.
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000)[1] == 410
    assert checkpoints(1) == [1]


@pytest.mark.parametrize(("targets", "least"), [(None, 3), (1, 4)])
def test_dlr_needs_classes(targets: int | None, least: int) -> None:
    made = attack.apgd(0.1, loss="dlr", targets=targets)
    given = small.pictures(), np.zeros(len(small.pictures()), int), jax.random.key(0)
    jax.eval_shape(
        small.compiled(made, lambda images: small.affine(images)[:, :least]), *given
    )
    with pytest.raises(errors.ArgumentError, match=f"{least - 1} classes"):
        jax.eval_shape(
            small.compiled(made, lambda images: small.affine(images)[:, : least - 1]),
            *given,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1}, "epsilon"),
        ({"loss": "hinge"}, "ce, dlr"),
        ({"targets": 2}, "only 'dlr'"),
        ({"loss": "dlr", "targets": 0}, "targets is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2, "random_start": False}, "the same"),
    ],
)
def test_options_are_checked_at_once(options: dict, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        attack.apgd(**{"epsilon": 0.1, **options})
