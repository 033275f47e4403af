"""One perturbation for all pictures, on a network where the best one is known."""

from functools import partial

import jax
import numpy as np
import pytest

from flaxnets import attack, errors
from tests.attack import small


@pytest.mark.parametrize(
    ("norm", "epsilon", "targeted"), [("linf", 0.1, False), ("l2", 0.3, True)]
)
def test_finds_the_direction_that_all_pictures_share(
    norm: attack.Norm, epsilon: float, targeted: bool
) -> None:
    images = small.pictures(0.4, 0.6)
    labels = np.full(len(images), int(targeted))
    make = attack.universal(epsilon, norm, steps=60, batch_size=3, targeted=targeted)
    found = jax.jit(partial(make, lambda x: small.two_classes(x) / 4))(
        images, labels, jax.random.key(0)
    )
    assert found.shape == images.shape[1:]
    slope = (small.KERNEL[:, 1] - small.KERNEL[:, 0]).reshape(found.shape)
    if norm == "linf":
        best = epsilon * np.sign(slope)
    else:
        best = epsilon * slope / np.linalg.norm(slope)
    # The bound holds exactly, which leaves the perturbation shorter by its rounding.
    np.testing.assert_allclose(found, best, atol=2e-5 * epsilon)
    exact = np.asarray(found, np.float64).ravel()
    assert np.linalg.norm(exact, np.inf if norm == "linf" else 2) <= epsilon


def test_pictures_already_lost_do_not_count() -> None:
    # The margins are far beyond where the loss is cut off, so nothing is left to gain.
    images = small.pictures(0.4, 0.6)
    labels = np.ones(len(images), int)
    make = attack.universal(0.1, steps=3)
    found = jax.jit(partial(make, small.two_classes))(images, labels, jax.random.key(0))
    np.testing.assert_array_equal(found, 0)


def test_added_keeps_the_bounds() -> None:
    images = small.pictures()
    perturbation = np.random.default_rng(5).normal(size=images.shape[1:])
    made = attack.added(perturbation.astype(np.float32), 0.2, "l2")
    found = jax.jit(partial(made, small.affine))(images, None, None)
    small.assert_bounded(found, images, 0.2, "l2")
    difference = np.linalg.norm((found - images).reshape(len(images), -1), axis=1)
    # Some of the perturbation is cut off where the pictures touch 0 and 1.
    assert (difference > 0.1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1}, "epsilon"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"step_size": -1}, "step_size is -1"),
    ],
)
def test_options_are_checked_at_once(options: dict, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        attack.universal(**{"epsilon": 0.1, **options})
