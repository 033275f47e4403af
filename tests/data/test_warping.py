"""Warps against scipy, and what they must leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, ndimage

from flaxnets import errors
from flaxnets.data import warping

KEY = jax.random.key(4)
IMAGES = np.asarray(jax.random.uniform(jax.random.key(5), (3, 12, 10, 2)))


def _at(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """scipy's bilinear values, the border repeated."""
    return np.stack(
        [
            ndimage.map_coordinates(part, [rows, columns], order=1, mode="nearest")
            for part in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )


def test_a_warp_is_a_smooth_displacement_of_a_grid() -> None:
    found = jax.jit(warping.warp(0.1, points=4))(KEY, IMAGES)
    _, height, width, _ = IMAGES.shape
    moves = np.asarray(jax.random.normal(KEY, (2, 3, 4, 4)))
    corners = np.linspace(0, height - 1, 4), np.linspace(0, width - 1, 4)
    places = np.stack(np.mgrid[:height, :width], axis=-1).astype(float)
    for index, image in enumerate(IMAGES):
        rows, columns = (
            places[..., axis]
            + 0.1
            * side
            * interpolate.RegularGridInterpolator(corners, moves[axis, index])(places)
            for axis, side in enumerate((height, width))
        )
        # The bilinear weights of a place near a border differ in float32's last bits.
        np.testing.assert_allclose(found[index], _at(image, rows, columns), atol=2e-5)


def test_a_jolt_is_a_similarity_about_the_middle() -> None:
    change = warping.jolt(degrees=30.0, zoom=0.2, shift=0.1)
    found = jax.jit(change)(KEY, IMAGES)
    drawn = np.asarray(jax.random.uniform(KEY, (4, 3, 1, 1), minval=-1.0))[..., 0, 0]
    _, height, width, _ = IMAGES.shape
    middle = np.array([height - 1, width - 1]) / 2
    for index, image in enumerate(IMAGES):
        angle = np.deg2rad(30.0 * drawn[0, index])
        turn = np.array(
            [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        ) / (1 + 0.2 * drawn[1, index])
        moved = 0.1 * drawn[2:, index] * np.array([height, width])
        offset = middle - turn @ (middle + moved)
        for channel in range(2):
            expected = ndimage.affine_transform(
                image[..., channel], turn, offset, order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[index, ..., channel], expected, atol=2e-5)


def test_nothing_moves_on_average_and_a_plain_wall_stays_plain() -> None:
    count, size = 2000, 17
    dot = jnp.zeros((size, size, 1)).at[8, 8].set(1.0)
    dots = jnp.broadcast_to(dot, (count, size, size, 1))

    @jax.jit
    def means(dots: jax.Array) -> jax.Array:
        changes = (warping.warp(0.05), warping.jolt(shift=0.1))
        return jnp.stack([change(KEY, dots).mean(axis=0)[..., 0] for change in changes])

    place = np.arange(size)
    for mean in np.asarray(means(dots)):
        total = mean.sum()
        centre = (mean.sum(axis=1) @ place / total, mean.sum(axis=0) @ place / total)
        # A dot moves by less than 2 pixels; the mean of 2,000 has a deviation of 0.03.
        np.testing.assert_allclose(centre, (8, 8), atol=0.15)
    wall = jnp.full((4, 9, 9, 3), 0.3)
    for change in (warping.warp(0.5), warping.jolt(degrees=90, zoom=0.5, shift=0.5)):
        np.testing.assert_allclose(jax.jit(change)(KEY, wall), wall, atol=1e-6)


def test_each_picture_has_its_own_draw() -> None:
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    found = np.asarray(jax.jit(warping.warp())(KEY, same))
    assert len({image.tobytes() for image in found}) == 3
    none = jax.jit(warping.warp(0.0))(KEY, IMAGES)
    np.testing.assert_allclose(none, IMAGES, atol=1e-6)


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(errors.ArgumentError, match="deviation is -1"):
        warping.warp(-1)
    with pytest.raises(errors.ArgumentError, match="points is 1"):
        warping.warp(points=1)
    with pytest.raises(errors.ArgumentError, match="zoom is 1"):
        warping.jolt(zoom=1)
    with pytest.raises(errors.ArgumentError, match="degrees is -2"):
        warping.jolt(degrees=-2)
