"""Ways to spoil images, for networks that learn to restore them; each takes a key."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

Corruption = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, images f32[B, H, W, C] in [0, 1]) -> images`, of the same shape."""


def gaussian(sigma: float, *, clip: bool = False) -> Corruption:
    """Adds independent normal noise to each value.

    Args:
        sigma: its standard deviation; white is 1.
        clip: whether the result is cut to [0, 1], as a camera would.
    """
    _check(sigma >= 0, f"sigma is {sigma}, but must not be negative")

    def corrupt(key: jax.Array, images: jax.Array) -> jax.Array:
        noisy = images + sigma * jax.random.normal(key, images.shape, images.dtype)
        return jnp.clip(noisy, 0, 1) if clip else noisy

    return corrupt


def salt_and_pepper(share: float) -> Corruption:
    """Makes a share of the pixels black or white, either equally often.

    Args:
        share: of the pixels, in expectation; all channels of a pixel together.
    """
    _check(0 <= share <= 1, f"share is {share}, but must be from 0 to 1")

    def corrupt(key: jax.Array, images: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(key, (*images.shape[:-1], 1), images.dtype)
        spoiled = jnp.where(drawn < share / 2, 0.0, 1.0).astype(images.dtype)
        return jnp.where(drawn < share, spoiled, images)

    return corrupt


def squares(size: int, count: int = 1) -> Corruption:
    """Makes squares black, each wholly inside the image.

    Args:
        size: of a side, in pixels.
        count: squares an image; they may overlap.
    """
    _check(size >= 1, f"size is {size}, but must be at least 1")
    _check(count >= 1, f"count is {count}, but must be at least 1")

    def corrupt(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        _check(
            size <= min(height, width),
            f"squares of {size} pixels do not fit images of {height}x{width}",
        )
        beyond = np.array([height, width])[:, None, None] - size + 1
        starts = jax.random.randint(key, (2, batch, count), 0, beyond)
        inside = []
        for first, length in zip(starts, (height, width), strict=True):
            place = np.arange(length)[None, None] - first[..., None]
            inside.append((place >= 0) & (place < size))
        hidden = jnp.any(inside[0][..., :, None] & inside[1][..., None, :], axis=1)
        return jnp.where(hidden[..., None], 0.0, images).astype(images.dtype)

    return corrupt


def blur(sigma: float) -> Corruption:
    """Convolves with a normal kernel, cut at four deviations; edges are mirrored.

    Equal to SciPy's `gaussian_filter` with its defaults. The key is not used.

    Args:
        sigma: the kernel's standard deviation in pixels.
    """
    _check(sigma > 0, f"sigma is {sigma}, but must be positive")
    radius = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()

    def corrupt(key: jax.Array, images: jax.Array) -> jax.Array:
        del key
        for axis in (1, 2):
            matrix = jnp.asarray(_mirrored(images.shape[axis], taps), images.dtype)
            found = jnp.tensordot(matrix, images, ((1,), (axis,)), precision="highest")
            images = jnp.moveaxis(found, 0, axis)
        return images

    return corrupt


def _mirrored(size: int, taps: np.ndarray) -> np.ndarray:
    """The matrix of a filter whose input goes on as its mirror image (a b | b a)."""
    radius = len(taps) // 2
    place = np.arange(size)[:, None] + np.arange(-radius, radius + 1)
    place = place % (2 * size)
    place = np.where(place < size, place, 2 * size - 1 - place)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], place), taps)
    return matrix


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise errors.ArgumentError(message)
