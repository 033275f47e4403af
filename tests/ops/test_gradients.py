"""Edges against a loop, and against what they must not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flaxnets import errors, ops

IMAGES = np.random.default_rng(0).uniform(size=(2, 9, 12, 3))


def _by_loop(image: np.ndarray, size: int) -> np.ndarray:
    """Each pixel by itself, of brightness [H, W]."""
    height, width = image.shape

    def at(plane: np.ndarray, row: int, column: int) -> float:
        return plane[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]

    places = list(np.ndindex(height, width))
    gradient = np.zeros((height, width), complex)
    for row, column in places:
        across = at(image, row, column + 1) - at(image, row, column - 1)
        down = at(image, row + 1, column) - at(image, row - 1, column)
        gradient[row, column] = complex(across, down)
    energy, half = np.abs(gradient) ** 2, size // 2
    found = np.zeros((height, width, 3))
    for row, column in places:
        around = [
            at(energy, row + y, column + x)
            for y in range(-half, half + 1)
            for x in range(-half, half + 1)
        ]
        magnitude = abs(gradient[row, column])
        strength = magnitude / (magnitude + np.sqrt(np.mean(around)) + 0.01)
        doubled = strength * np.exp(2j * np.angle(gradient[row, column]))
        found[row, column] = strength, doubled.real, doubled.imag
    return found


@pytest.mark.parametrize("size", [1, 3, 7])
def test_each_pixel_beside_those_around_it(size: int) -> None:
    found = ops.unsigned_gradients(jnp.float32(IMAGES), neighbourhood=size)
    expected = [_by_loop(image.mean(axis=-1), size) for image in IMAGES]
    # The root is kept from zero by a thousandth of white.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.std(expected) > 0.2


def test_neither_side_brightness_nor_contrast_counts() -> None:
    images = jnp.float32(0.2 + 0.3 * IMAGES)
    found = ops.unsigned_gradients(images)
    np.testing.assert_allclose(ops.unsigned_gradients(1 - images), found, atol=1e-5)
    np.testing.assert_allclose(ops.unsigned_gradients(images + 0.4), found, atol=1e-5)
    # But for what counts as slight, one hundredth of white.
    faint = ops.unsigned_gradients(images / 2)
    np.testing.assert_allclose(faint, found, atol=0.03)
    assert float(ops.unsigned_gradients(jnp.full_like(images, 0.7)).max()) < 0.1


def test_a_quarter_turn_turns_the_angle_by_a_half() -> None:
    square = jnp.float32(IMAGES[:, :9, :9])
    strength, cosine, sine = jnp.moveaxis(ops.unsigned_gradients(square), -1, 0)
    turned = ops.unsigned_gradients(jnp.rot90(square, axes=(1, 2)))
    expected = [jnp.rot90(part, axes=(1, 2)) for part in (strength, -cosine, -sine)]
    np.testing.assert_allclose(turned, jnp.stack(expected, -1), atol=1e-6)


def test_any_leading_dimensions_and_a_gradient() -> None:
    images = jnp.float32(IMAGES)
    nested = ops.unsigned_gradients(images[None, :, None])
    np.testing.assert_array_equal(nested[0, :, 0], ops.unsigned_gradients(images))
    # By differences of float32, along a random direction.
    small = images[:1, :5, :5]
    edges = functools.partial(ops.unsigned_gradients, neighbourhood=3)
    check_grads(edges, (small,), 1, ["fwd", "rev"], atol=1e-2, rtol=1e-2, eps=1e-3)
    flat = jax.grad(lambda x: ops.unsigned_gradients(x).sum())(jnp.ones((1, 5, 5, 1)))
    assert np.isfinite(flat).all()


@pytest.mark.parametrize("size", [0, 4, -3])
def test_a_neighbourhood_has_a_middle(size: int) -> None:
    with pytest.raises(errors.ArgumentError, match=f"neighbourhood is {size}, but"):
        ops.unsigned_gradients(jnp.float32(IMAGES), neighbourhood=size)
