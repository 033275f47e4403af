"""Random geometric changes of faces, as face swapping programs train with.

Functions `(key, images f32[B, H, W, C]) -> images`, as in `augmentation`, except that
what is moved in from outside repeats the border, as skin and walls go on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.data.augmentation import Augmentation, interpolated


def warp(deviation: float = 0.03, *, points: int = 5) -> Augmentation:
    """Bends each image smoothly, by normal displacements of a coarse grid's points.

    An encoder that is given warped pictures, and whose decoder is to give back the
    unwarped ones, has to know the face rather than repeat the picture. The scheme is
    that of the first public face swapping programs (deepfakes/faceswap, `original`
    model): 5x5 points, moved by 5 of the face's 160 pixels. Between the points
    displacements are bilinear.

    Args:
        deviation: of each displacement in each direction, as a share of the side.
        points: of the grid along each side, the corners included.

    Raises:
        ArgumentError: the deviation is negative, or there are fewer than 2 points.
    """
    if deviation < 0:
        raise errors.ArgumentError(
            f"deviation is {deviation}, but must not be negative"
        )
    if points < 2:
        raise errors.ArgumentError(f"points is {points}, but must be at least 2")

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        moves = jax.random.normal(key, (2, batch, points, points))
        dense = jnp.einsum(
            "dbij,yi,xj->dbyx", moves, _between(height, points), _between(width, points)
        )
        rows = jnp.arange(height)[None, :, None] + deviation * height * dense[0]
        columns = jnp.arange(width)[None, None, :] + deviation * width * dense[1]
        return _sampled(images, rows, columns)

    return augment


def jolt(
    *, degrees: float = 10.0, zoom: float = 0.05, shift: float = 0.05
) -> Augmentation:
    """Turns, enlarges and moves each image about its middle, bilinearly.

    Everything is uniform, and its defaults are those of the programs that `warp`
    follows.

    Args:
        degrees: largest angle to either side.
        zoom: largest change of the size, as a share of it.
        shift: largest move in each direction, as a share of the side.

    Raises:
        ArgumentError: one is negative, or zoom is 1 or more.
    """
    for name, value in (("degrees", degrees), ("zoom", zoom), ("shift", shift)):
        if value < 0 or (name == "zoom" and value >= 1):
            raise errors.ArgumentError(
                f"{name} is {value}, but must not be negative, and zoom be below 1"
            )
    limits = np.array([np.deg2rad(degrees), zoom, shift, shift], np.float32)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        drawn = jax.random.uniform(key, (4, batch, 1, 1), minval=-1.0)
        angle, growth, down, right = drawn * limits[:, None, None, None]
        cosine = jnp.cos(angle) / (1 + growth)
        sine = jnp.sin(angle) / (1 + growth)
        middle, centre = (height - 1) / 2, (width - 1) / 2
        y = (jnp.arange(height) - middle)[None, :, None] - down * height
        x = (jnp.arange(width) - centre)[None, None, :] - right * width
        return _sampled(
            images, cosine * y + sine * x + middle, cosine * x - sine * y + centre
        )

    return augment


def _between(size: int, points: int) -> np.ndarray:
    """Weights f32[size, points] of a grid's points at each pixel, linear between."""
    place = np.linspace(0, points - 1, size)
    distance = np.abs(place[:, None] - np.arange(points)[None])
    return np.maximum(1 - distance, 0).astype(np.float32)


def _sampled(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear values at places f32[B, H, W], those outside moved to the border."""
    _, height, width, _ = images.shape
    return interpolated(
        images, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    )
