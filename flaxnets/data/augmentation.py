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
        return _move(images, offsets[0], offsets[1], height, width)

    return augment


def crop(size: int) -> Augmentation:
    """Cuts a square of `size` pixels out of each image at a uniform place."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        if size > min(height, width):
            raise errors.ArgumentError(
                f"crop of {size} pixels is larger than the images ({height}x{width})"
            )
        rows, columns = jax.random.split(key)
        top = jax.random.randint(rows, (batch,), 0, height - size + 1)
        left = jax.random.randint(columns, (batch,), 0, width - size + 1)
        return _move(images, -top, -left, size, size)

    return augment


def flip(probability: float = 0.5) -> Augmentation:
    """Mirrors each image left to right with a probability."""
    _check_share("probability", probability)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        mirrored = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
        return jnp.where(mirrored, images[:, :, ::-1], images)

    return augment


def cutout(size: int) -> Augmentation:
    """Blanks a square of `size` pixels, centred anywhere (DeVries and Taylor 2017)."""

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
    """Turns each image about its centre by -degrees to +degrees, bilinearly."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        limit = jnp.deg2rad(degrees)
        angles = jax.random.uniform(key, (batch,), minval=-limit, maxval=limit)
        rows = jnp.arange(height) - (height - 1) / 2
        columns = jnp.arange(width) - (width - 1) / 2
        grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"))

        def turned(image: jax.Array, angle: jax.Array) -> jax.Array:
            cosine, sine = jnp.cos(angle), jnp.sin(angle)
            y = cosine * grid[0] + sine * grid[1] + (height - 1) / 2
            x = cosine * grid[1] - sine * grid[0] + (width - 1) / 2

            def channel(plane: jax.Array) -> jax.Array:
                return jax.scipy.ndimage.map_coordinates(plane, [y, x], order=1)

            return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

        return jax.vmap(turned)(images, angles)

    return augment


def _move(
    images: jax.Array, down: jax.Array, right: jax.Array, height: int, width: int
) -> jax.Array:
    """Windows [B, height, width, C] of images moved by whole pixels.

    As products with 0/1 matrices: exact in float32, and gathers are slow on CPU.
    """
    rows = _selector(down, images.shape[1], height, images.dtype)
    columns = _selector(right, images.shape[2], width, images.dtype)
    return jnp.einsum(
        "byh,bhwc,bxw->byxc", rows, images, columns, precision=jax.lax.Precision.HIGHEST
    )


def _selector(offsets: jax.Array, before: int, after: int, dtype) -> jax.Array:
    """0/1 matrices [B, after, before]: entry (i, j) is 1 where i - offset == j."""
    source = jnp.arange(after)[None] - offsets[:, None]
    return (source[:, :, None] == jnp.arange(before)[None, None]).astype(dtype)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise errors.ArgumentError(f"{name} is {value}, but must be between 0 and 1")
