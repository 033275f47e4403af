"""Bounds against float64, in which sums of float32 of these sizes are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors
from flaxnets.attack import base

EDGES = np.float32([0, 1, 1e-45, 1e-40, 1e-38, 1e-9, 0.5, 1 - 2**-24, 2**-24])


def edge_pictures() -> np.ndarray:
    """All edges, multiples of 1/255, and values of every size."""
    generator = np.random.default_rng(0)
    levels = np.arange(256, dtype=np.float32) / 255
    sizes = generator.random(4000) * 2.0 ** generator.integers(-40, 1, 4000)
    values = np.concatenate([EDGES, levels, sizes.astype(np.float32)])
    return values[: len(values) // 5 * 5].reshape(1, 5, -1, 1)


@pytest.mark.parametrize("epsilon", [0.3, 8 / 255, 0.1, 0.5, 1.0, 1e-3, 1e-9])
def test_linf_bounds_are_the_outermost_floats_inside(epsilon: float) -> None:
    images = edge_pictures()
    project = jax.jit(lambda images, far: base.within(images, far, epsilon, "linf"))
    exact = images.astype(np.float64)
    # Processors that round tiny numbers to zero may give one float less away there,
    # so that tightness is asked for at other sizes only.
    radius = float(base.rounded_down(epsilon))
    for far, sign in ((np.float32(9), 1), (np.float32(-9), -1)):
        found = np.asarray(project(images, np.full_like(images, far)))
        assert found.dtype == np.float32
        assert ((found >= 0) & (found <= 1)).all()
        distances = np.abs(found.astype(np.float64) - exact)
        assert (distances <= epsilon).all()
        farther = np.nextafter(found, np.float32(sign * 9))
        inside = (farther >= 0) & (farther <= 1)
        allowed = np.abs(farther.astype(np.float64) - exact) <= radius
        ordinary = (exact > 1e-30) | (exact == 0)
        assert not (inside & allowed & ordinary).any()


def test_linf_leaves_alone_what_is_inside() -> None:
    images = edge_pictures()
    moved = np.clip(images + np.float32(0.1), 0, 1)
    project = jax.jit(lambda images, moved: base.within(images, moved, 0.2, "linf"))
    np.testing.assert_array_equal(project(images, moved), moved)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_gives_the_pictures_back(norm: base.Norm) -> None:
    images = edge_pictures()
    found = base.within(jnp.asarray(images), jnp.ones(images.shape), 0.0, norm)
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("shape", [(300, 4, 4, 1), (4, 64, 64, 3)])
def test_l2_bound_holds_in_float64_and_is_reached(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    images = generator.random(shape, np.float32)
    images[0] = 0
    images[1] = 1
    scale = 10.0 ** generator.uniform(-3, 1, (shape[0], 1, 1, 1))
    moved = (images + scale * generator.normal(size=shape)).astype(np.float32)
    epsilon = 0.5
    project = jax.jit(lambda images, moved: base.within(images, moved, epsilon, "l2"))
    found = np.asarray(project(images, moved))
    assert ((found >= 0) & (found <= 1)).all()

    def lengths(pictures: np.ndarray) -> np.ndarray:
        difference = pictures.astype(np.float64) - images.astype(np.float64)
        return np.sqrt(np.square(difference).sum(axis=(1, 2, 3)))

    outside = lengths(moved) > epsilon
    assert outside.any() and not outside.all()
    assert (lengths(found) <= epsilon).all()
    # Shortened with its direction kept, then cut; a rounding of one float32 is lost.
    factor = np.minimum(1, epsilon / lengths(moved))[:, None, None, None]
    exact = images.astype(np.float64)
    reference = np.clip(exact + (moved - exact) * factor, 0, 1)
    np.testing.assert_allclose(found, reference, rtol=0, atol=2e-6)
    # Grey pictures have room for all of it.
    grey = np.full_like(images, 0.5)
    images = grey
    found = np.asarray(project(grey, grey + (moved - moved.mean()) / 30))
    moved = grey + (moved - moved.mean()) / 30
    assert (lengths(found) <= epsilon).all()
    assert (lengths(found)[lengths(moved) > epsilon] > epsilon * (1 - 1e-5)).all()


def test_margin_and_fooled_on_written_out_logits() -> None:
    logits = jnp.float32([[1, 5, 3], [1, 5, 3], [2, 2, 0], [2, 2, 0], [-3, -1, -2]])
    labels = jnp.int32([1, 2, 0, 1, 0])
    np.testing.assert_array_equal(base.margin(logits, labels), [2, -2, 0, 0, -2])
    found = base.fooled(logits, labels)
    np.testing.assert_array_equal(found, [False, True, False, True, True])
    np.testing.assert_array_equal(base.fooled(logits, labels, targeted=True), ~found)


@pytest.mark.parametrize(
    ("epsilon", "norm", "said"),
    [
        (-0.1, "linf", "not negative"),
        (float("nan"), "l2", "finite"),
        (float("inf"), "l2", "finite"),
        (8, "linf", "8 / 255"),
        (1e-12, "l2", "at least 1e-09"),
        (0.1, "l1", "linf, l2"),
    ],
)
def test_wrong_epsilon_is_refused(epsilon: float, norm: str, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        base.checked_epsilon(epsilon, norm)  # type: ignore[arg-type]


def test_right_epsilon_is_given_back() -> None:
    assert base.checked_epsilon(8 / 255, "linf") == 8 / 255
    assert base.checked_epsilon(0, "linf") == 0
    assert base.checked_epsilon(30, "l2") == 30
