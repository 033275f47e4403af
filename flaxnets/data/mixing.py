"""Mixtures of a batch's examples and of their targets, on the device.

Functions `(key, images, targets f32[B, K]) -> (images, targets)`. An example is mixed
with the one before it in the batch, the first with the last: a random one, since
training shuffles (as torchvision pairs them). A batch has one draw, as in both papers'
code, torchvision, and timm.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxnets import errors

Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def mixup(alpha: float) -> Mix:
    """Blends examples: share * own + (1 - share) * other (Zhang et al. 2018).

    The share is drawn from Beta(alpha, alpha): near 0 or 1 for a small alpha, uniform
    for 1. Examples may have any shape, f32[B, ...]: pictures or features.
    """
    _check_alpha("mixup", alpha)

    def mix(
        key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        _check(images, targets)
        share = jax.random.beta(key, alpha, alpha)
        return _blended(images, share), _blended(targets, share)

    return mix


def cutmix(alpha: float) -> Mix:
    """Puts a box of the other image into each image f32[B, H, W, C] (Yun et al. 2019).

    The box has the image's aspect ratio and 1 - share of its area, with a share from
    Beta(alpha, alpha), is centred anywhere, and cut off at the rim. Targets are mixed
    by the pixels that are left.
    """
    _check_alpha("cutmix", alpha)

    def mix(
        key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if images.ndim != 4:
            raise errors.ArgumentError(
                f"cutmix needs images [B, H, W, C], but was given {_form(images)}; "
                "mix features with mixup"
            )
        _check(images, targets)
        _, height, width, _ = images.shape
        shares, rows, columns = jax.random.split(key, 3)
        side = jnp.sqrt(1 - jax.random.beta(shares, alpha, alpha))

        def inside(key: jax.Array, length: int) -> jax.Array:
            size = jnp.floor(length * side).astype(jnp.int32)
            start = jax.random.randint(key, (), 0, length) - size // 2
            place = jnp.arange(length)
            return (place >= start) & (place < start + size)

        box = inside(rows, height)[:, None] & inside(columns, width)[None]
        images = jnp.where(box[None, ..., None], _others(images), images)
        return images, _blended(targets, 1 - box.mean())

    return mix


def one_of(*mixes: Mix, probability: float = 1.0) -> Mix:
    """One of several ways of mixing, drawn for each batch; all are equally likely.

    Args:
        mixes: such as `mixup(0.2), cutmix(1.0)`.
        probability: that a batch is mixed at all.
    """
    if not mixes:
        raise errors.ArgumentError("one_of was given nothing to choose from")
    if not 0 <= probability <= 1:
        raise errors.ArgumentError(
            f"probability is {probability}, but must be between 0 and 1"
        )

    def neither(
        key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return images, targets

    def mix(
        key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        choices, chances, own = jax.random.split(key, 3)
        choice = jax.random.randint(choices, (), 0, len(mixes))
        mixed = jax.random.bernoulli(chances, probability)
        choice = jnp.where(mixed, choice, len(mixes))
        return jax.lax.switch(choice, (*mixes, neither), own, images, targets)

    return mix


def _others(values: jax.Array) -> jax.Array:
    return jnp.roll(values, 1, axis=0)


def _blended(values: jax.Array, share: jax.Array) -> jax.Array:
    mixed = share * values + (1 - share) * _others(values)
    return mixed.astype(values.dtype)


def _check_alpha(name: str, alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise errors.ArgumentError(
            f"{name}'s alpha is {alpha}, but must be above 0 and finite"
        )


def _check(images: jax.Array, targets: jax.Array) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise errors.ArgumentError(
            f"images are {_form(images)}, but must be floats to be mixed; divide bytes "
            "by 255"
        )
    probabilities = jnp.issubdtype(targets.dtype, jnp.floating) and targets.ndim == 2
    if not probabilities or len(targets) != len(images):
        raise errors.ArgumentError(
            f"targets are {_form(targets)}, but must be probabilities "
            f"float32[{len(images)}, classes], one row for each image; encode classes "
            "with jax.nn.one_hot"
        )


def _form(values: jax.Array) -> str:
    return f"{values.dtype}{list(values.shape)}"
