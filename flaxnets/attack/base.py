"""What all attacks share: their types, the bounds they keep, and when they succeed."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

Logits = Callable[[jax.Array], jax.Array]
"""`images f32[B, H, W, C] in [0, 1] -> logits f32[B, K]`, the variables bound."""
Attack = Callable[[Logits, jax.Array, jax.Array, jax.Array], jax.Array]
"""`(logits, images f32[B, H, W, C], labels int[B], key) -> adversarial images`.

Pure, so that the caller compiles it. The labels are the true classes, or the wanted
ones where the attack was made with `targeted=True`. The key is one, or key[B], one a
picture (`streams.per_picture`), so that what is drawn need not depend on the batch.
"""
Norm = Literal["linf", "l2"]
"""How the size of a perturbation is measured, over all values of one picture."""

# A smaller one is lost in the rounding of pictures, and is where the processors that
# round tiny numbers to zero would break the bound.
SMALLEST_EPSILON = 1e-9


def checked_epsilon(epsilon: float, norm: Norm) -> float:
    """The bound of a perturbation as a float, where it can be one.

    Args:
        epsilon: largest norm, in units of pictures in [0, 1].
        norm: "linf" or "l2".

    Raises:
        ArgumentError: unknown norm; epsilon negative, not finite, so small that
            float32 pictures cannot show it, or above 1 for linf, which is all of
            [0, 1].
    """
    if norm not in get_args(Norm):
        raise errors.ArgumentError(
            f"norm is {norm!r}, but must be one of {', '.join(get_args(Norm))}"
        )
    epsilon = float(epsilon)
    if not math.isfinite(epsilon) or epsilon < 0:
        raise errors.ArgumentError(
            f"epsilon is {epsilon}, but must be finite and not negative; it is in "
            "units of pictures in [0, 1]"
        )
    if 0 < epsilon < SMALLEST_EPSILON:
        raise errors.ArgumentError(
            f"epsilon is {epsilon}, less than float32 pictures can show; give 0 or "
            f"at least {SMALLEST_EPSILON}"
        )
    if norm == "linf" and epsilon > 1:
        raise errors.ArgumentError(
            f"epsilon is {epsilon}, but pictures are in [0, 1], so that 1 allows "
            f"everything; for levels of 255 give {epsilon:g} / 255"
        )
    return epsilon


def check_at_least_one(name: str, count: int) -> None:
    """Refuses an option that counts something and is less than one."""
    if count < 1:
        raise errors.ArgumentError(f"{name} is {count}, but must be at least 1")


def check_not_negative(name: str, value: float) -> None:
    """Refuses an option that is negative, NaN or infinite."""
    if not math.isfinite(value) or value < 0:
        raise errors.ArgumentError(
            f"{name} is {value}, but must be finite and not negative"
        )


def check_share(name: str, value: float) -> None:
    """Refuses an option that is a share of something and is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise errors.ArgumentError(f"{name} is {value}, but must be from 0 to 1")


def within(
    images: jax.Array, perturbed: jax.Array, epsilon: float, norm: Norm
) -> jax.Array:
    """The perturbed pictures, moved into [0, 1] and into the ball around the pictures.

    Both bounds hold for what is returned without any tolerance: for linf as real
    numbers (no float32 farther than epsilon is ever returned, and the farthest one
    that is not can be), for l2 with the norm measured in float64. For l2 the difference
    is first shortened and the pictures are then cut to [0, 1], the order of Madry et
    al.'s code; before the cut it is up to 1e-5 of epsilon shorter than allowed, which
    pays for the rounding.

    Args:
        images: f32[B, H, W, C] in [0, 1].
        perturbed: f32[B, H, W, C].
        epsilon: largest norm of the difference, see `checked_epsilon`. It counts as
            the largest float32 that is not above it.
        norm: "linf" or "l2".
    """
    if epsilon == 0:
        return images
    if norm == "linf":
        return jnp.clip(perturbed, *bounds(images, rounded_down(epsilon, images.dtype)))
    reach = in_ball(perturbed - images, epsilon, norm)
    return jnp.clip(images + reach, *bounds(images, jnp.abs(reach)))


def in_ball(differences: jax.Array, epsilon: float, norm: Norm) -> jax.Array:
    """Perturbations no longer than epsilon, without any tolerance as in `within`.

    Args:
        differences: f32[B, H, W, C].
        epsilon, norm: see `within`.
    """
    radius = rounded_down(epsilon, differences.dtype)
    if norm == "linf":
        return jnp.clip(differences, -radius, radius)
    flat = differences.reshape(differences.shape[0], -1)
    # The norm is at most this: half a unit of rounding for each step of the sum, for
    # the squares, the differences, the root, the quotient and the product.
    length = jnp.sqrt(_tree_sum(jnp.square(flat)))
    levels = math.ceil(math.log2(max(flat.shape[1], 2)))
    length = length * (1 + (levels + 8) * float(jnp.finfo(differences.dtype).eps) / 2)
    factor = jnp.where(length > radius, radius / jnp.maximum(length, radius), 1)
    return differences * factor.reshape(-1, *[1] * (differences.ndim - 1))


def bounds(
    images: jax.Array, radius: jax.Array | np.floating
) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest float32 in [0, 1] no farther than `radius`.

    Exact as real numbers: the sum's rounding error is itself computed without error
    (Knuth, The Art of Computer Programming 2, section 4.2.2, theorem B).

    Args:
        images: f32[...] in [0, 1].
        radius: f32[] or f32[...], not negative; 0 or at least `SMALLEST_EPSILON` for
            the bound to be exact where the processor rounds tiny numbers to zero.
    """
    high, above = _exact_sum(images, radius)
    low, below = _exact_sum(images, -radius)
    high = jnp.where(above < 0, jnp.nextafter(high, -jnp.inf), high)
    low = jnp.where(below > 0, jnp.nextafter(low, jnp.inf), low)
    return jnp.maximum(low, 0), jnp.minimum(high, 1)


def rounded_down(epsilon: float, dtype: Any = np.float32) -> np.floating:
    """The largest number of a type that is not above epsilon: 0.3 is between two."""
    kind = np.dtype(dtype).type
    nearest = kind(epsilon)
    return np.nextafter(nearest, kind(0)) if float(nearest) > epsilon else nearest


def where(chosen: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Whole pictures of the first or the second, by bool[B]."""
    return jnp.where(chosen.reshape(-1, *[1] * (first.ndim - 1)), first, second)


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The label's logit less the largest other one, f32[B]; negative: another class.

    Args:
        logits: f32[B, K], K at least 2.
        labels: int[B].
    """
    its = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    is_its = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return its - jnp.where(is_its, -jnp.inf, logits).max(axis=-1)


def fooled(logits: jax.Array, labels: jax.Array, targeted: bool = False) -> jax.Array:
    """Whether the attack has succeeded, bool[B].

    That is where the first largest logit is not the label's (or is, if targeted), so
    that the share that is fooled is what is missing from the accuracy.

    Args:
        logits: f32[B, K].
        labels: int[B] true classes, or the wanted ones if targeted.
        targeted: see labels.
    """
    is_label = logits.argmax(axis=-1) == labels
    return is_label if targeted else ~is_label


def _exact_sum(
    first: jax.Array, second: jax.Array | np.floating
) -> tuple[jax.Array, jax.Array]:
    """The rounded sum, and what is missing from it: together the sum without error."""
    total = first + second
    share = total - first
    return total, (first - (total - share)) + (second - share)


def _tree_sum(values: jax.Array) -> jax.Array:
    """Sums f32[B, N] by halves, so that the error is a few units whatever N is."""
    while (count := values.shape[1]) > 1:
        if count % 2:
            values = jnp.pad(values, ((0, 0), (0, 1)))
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]
