"""Random changes of images, on the device: functions `(key, images) -> images`.

Images are f32[B, H, W, C]; each image of a batch is changed by its own draw, what is
moved in from outside is 0, and the same key gives the same images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxnets import errors

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, each with a key of its own."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(augmentations))
        for augmentation, own in zip(augmentations, keys, strict=True):
            images = augmentation(own, images)
        return images

    return augment


def shift(pixels: int) -> Augmentation:
    """Moves each image by -pixels to +pixels in each direction, uniformly."""
    if pixels < 0:
        raise errors.ArgumentError(f"shift is {pixels} pixels, but cannot be negative")

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        _, height, width, _ = images.shape
        offsets = jax.random.randint(key, (2, len(images)), -pixels, pixels + 1)
        corners = pixels - offsets
        return _windows(_pad(images, pixels), corners[0], corners[1], height, width)

    return augment


def crop(size: int, *, padding: int = 0) -> Augmentation:
    """Cuts a square of `size` pixels out of each image at a uniform place.

    Args:
        size: of the square, in pixels.
        padding: zeros added on every side before cutting.

    Raises:
        ArgumentError: (when called on images) the square is larger than the padded
            images.
    """
    _check_positive("crop", size)
    if padding < 0:
        raise errors.ArgumentError(
            f"padding is {padding} pixels, but cannot be negative"
        )

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        images = _pad(images, padding)
        batch, height, width, _ = images.shape
        if size > min(height, width):
            raise errors.ArgumentError(
                f"crop of {size} pixels is larger than the images ({height}x{width} "
                "with padding); cut a smaller square or pad more"
            )
        rows, columns = jax.random.split(key)
        top = jax.random.randint(rows, (batch,), 0, height - size + 1)
        left = jax.random.randint(columns, (batch,), 0, width - size + 1)
        return _windows(images, top, left, size, size)

    return augment


def flip(probability: float = 0.5) -> Augmentation:
    """Mirrors each image left to right with a probability."""
    _check_share("probability", probability)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        mirrored = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
        return jnp.where(mirrored, images[:, :, ::-1], images)

    return augment


def cutout(size: int) -> Augmentation:
    """Blanks a square of `size` pixels, centred anywhere (DeVries and Taylor 2017).

    The part of the square that is outside the image is cut off.
    """
    _check_positive("cutout", size)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        rows, columns = jax.random.split(key)

        def inside(key: jax.Array, length: int) -> jax.Array:
            start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
            place = jnp.arange(length)[None]
            return (place >= start) & (place < start + size)

        hole = inside(rows, height)[:, :, None] & inside(columns, width)[:, None, :]
        return jnp.where(hole[..., None], 0.0, images)

    return augment


def rotation(degrees: float) -> Augmentation:
    """Turns each image about its centre by -degrees to +degrees, bilinearly.

    The angle is uniform; equal to `scipy.ndimage.affine_transform` of order 1 in mode
    `grid-constant`.
    """
    if not 0 <= degrees <= 180:
        raise errors.ArgumentError(
            f"rotation is {degrees} degrees, but must be between 0 and 180"
        )

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        limit = jnp.deg2rad(degrees)
        angles = jax.random.uniform(key, (batch, 1, 1), minval=-limit, maxval=limit)
        cosine, sine = jnp.cos(angles), jnp.sin(angles)
        middle, centre = (height - 1) / 2, (width - 1) / 2
        down = (jnp.arange(height) - middle)[None, :, None]
        right = (jnp.arange(width) - centre)[None, None, :]
        rows = cosine * down + sine * right + middle
        columns = cosine * right - sine * down + centre
        return _interpolated(images, rows, columns)

    return augment


def _interpolated(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear values at places f32[B, H, W] of images, in pixels; 0 outside.

    Four taps at one index into padded, flattened images, since
    `jax.scipy.ndimage.map_coordinates` took nine times as long on CPU.
    """
    batch, height, width, channels = images.shape
    wide = width + 2
    flat = _pad(images, 1).reshape(batch, -1, channels)
    top, left = jnp.floor(rows), jnp.floor(columns)
    inside = (top >= -1) & (top < height) & (left >= -1) & (left < width)
    # Padding moved the images by one; clipped places are not inside.
    first = jnp.clip(top.astype(jnp.int32) + 1, 0, height) * wide
    first += jnp.clip(left.astype(jnp.int32) + 1, 0, width)
    first = first.reshape(batch, -1, 1)

    def tap(offset: int) -> jax.Array:
        values = jnp.take_along_axis(
            flat, first + offset, axis=1, mode="promise_in_bounds"
        )
        return values.reshape(images.shape)

    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    upper = (1 - beside) * tap(0) + beside * tap(1)
    lower = (1 - beside) * tap(wide) + beside * tap(wide + 1)
    return jnp.where(inside[..., None], (1 - below) * upper + below * lower, 0.0)


def _pad(images: jax.Array, pixels: int) -> jax.Array:
    """Images with zeros on every side."""
    return jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))


def _windows(
    images: jax.Array, top: jax.Array, left: jax.Array, height: int, width: int
) -> jax.Array:
    """Windows [B, height, width, C] of images, with corners int32[B] inside them.

    Slices, since products with 0/1 matrices took eight times as long on CPU.
    """
    sizes = (height, width, images.shape[-1])

    def window(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, 0), sizes)

    return jax.vmap(window)(images, top, left)


def _check_positive(name: str, size: int) -> None:
    if size < 1:
        raise errors.ArgumentError(f"{name} is {size} pixels, but must be at least 1")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise errors.ArgumentError(f"{name} is {value}, but must be between 0 and 1")
