"""FAB on affine networks, whose boundaries it meets exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack.fab import to_boundary
from tests.attack import small


def test_breaks_what_can_be_broken_and_nothing_else() -> None:
    small.assert_breaks_what_can_be_broken(
        lambda epsilon: attack.fab(epsilon, targets=9, steps=5)
    )


def test_l2_breaks_what_is_nearer_than_epsilon() -> None:
    # No value comes near 0 or 1, so that distances have a formula.
    images = small.pictures(0.3, 0.7)
    logits = images.reshape(len(images), -1) @ small.KERNEL
    labels = logits.argmax(axis=1)
    distances = np.full(logits.shape, np.inf)
    for picture, label in enumerate(labels):
        for other in set(range(5)) - {label}:
            slope = small.KERNEL[:, label] - small.KERNEL[:, other]
            lead = logits[picture, label] - logits[picture, other]
            distances[picture, other] = lead / np.linalg.norm(slope)
    nearest = np.sort(distances.min(axis=1))
    # A step goes 1.05 times as far as the boundary.
    epsilon = (nearest[3] * 1.05 + nearest[4]) / 2
    assert nearest[3] * 1.06 < epsilon < nearest[4]
    run = small.compiled(attack.fab(float(epsilon), "l2", steps=5), small.affine)
    found = run(images, labels, jax.random.key(0))
    small.assert_bounded(found, images, float(epsilon), "l2")
    after = np.asarray(found).reshape(len(images), -1) @ small.KERNEL
    np.testing.assert_array_equal(
        after.argmax(axis=1) != labels, distances.min(axis=1) < epsilon
    )


def test_gives_the_pictures_back_where_there_is_nothing_to_follow() -> None:
    small.assert_gives_the_pictures_back(attack.fab(0.1, "l2", targets=2, steps=3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_to_the_boundary_is_the_shortest(norm: attack.Norm) -> None:
    points = small.pictures()
    slope = np.random.default_rng(3).normal(size=points.shape).astype(np.float32)
    slope[:, 0] = 0
    # The last one is farther away than [0, 1] allows.
    lead = np.float32([0.3, -0.5, 2, -3, 1e-3, 5, -7, 500])
    find = jax.jit(lambda points, lead, slope: to_boundary(points, lead, slope, norm))
    move = np.asarray(find(points, lead, slope)).astype(np.float64)
    assert (points + move >= -1e-6).all() and (points + move <= 1 + 1e-6).all()
    reached = lead + (slope * move).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(reached[:-1], 0, atol=1e-5)
    # What is not stopped by 0 or 1 moves by the same length, or in proportion to its
    # slope, and what is stopped would have moved further: the conditions of the
    # shortest step (Karush, Kuhn and Tucker).
    speed = np.sign(slope) if norm == "linf" else slope
    for its, at, rate in zip(move[:-1], points, speed, strict=False):
        ratios = np.abs(its[rate != 0] / rate[rate != 0])
        stopped = np.isclose((at + its)[rate != 0], 0) | np.isclose(
            (at + its)[rate != 0], 1
        )
        length = ratios[~stopped].max()
        np.testing.assert_allclose(ratios[~stopped], length, rtol=1e-3)
        assert (ratios[stopped] <= length * 1.001).all()
    # All that can move away from a positive lead is at its bound.
    end = jnp.where(slope[-1] > 0, 0, 1)
    np.testing.assert_allclose(
        (points + move)[-1][slope[-1] != 0], end[slope[-1] != 0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 2}, "epsilon"),
        ({"targets": 0}, "targets is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_options_are_checked_at_once(options: dict, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        attack.fab(**{"epsilon": 0.1, **options})
