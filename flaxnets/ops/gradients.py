"""What lies between bright and dark in images."""

import jax
import jax.numpy as jnp

from flaxnets import errors

# Differences of brightness, of white 1, that are small beside those of a face's edges.
_SLIGHT = 0.01


def unsigned_gradients(images: jax.Array, *, neighbourhood: int = 15) -> jax.Array:
    """Edges of images, the same whichever side of them is the brighter one.

    The strength of an edge beside those around it, and its direction as that of an
    axis: of twice the angle, which is the same for both signs (Granlund 1978, "In
    search of a general picture processing operator"). Two people of whom one has dark
    hair above light skin and the other light hair above dark skin look alike in it.
    Dalal and Triggs find people by histograms of such gradients, for the same reason
    (2005, "Histograms of Oriented Gradients for Human Detection", sections 6.3, 6.4).

    Args:
        images: f[..., H, W, C] in [0, 1]; the mean of the channels counts.
        neighbourhood: pixels of a side of the square, around each pixel, in which
            the root of the mean squared gradient is taken; odd.

    Returns:
        f[..., H, W, 3]: the strength, from 0 to below 1, a half where the gradient is
        as large as those around it; and the strength times the cosine, and the sine,
        of twice the angle between the gradient and the rows.

    Raises:
        ArgumentError: the neighbourhood is not an odd number from 1 on.
    """
    if neighbourhood < 1 or neighbourhood % 2 == 0:
        raise errors.ArgumentError(
            f"neighbourhood is {neighbourhood}, but must be odd and at least 1"
        )
    brightness = _extended(images.mean(axis=-1), 1)
    across = brightness[..., 1:-1, 2:] - brightness[..., 1:-1, :-2]
    down = brightness[..., 2:, 1:-1] - brightness[..., :-2, 1:-1]
    energy = across**2 + down**2
    around = _extended(energy, neighbourhood // 2)
    for axis in (-2, -1):
        window = [1] * around.ndim
        window[axis] = neighbourhood
        around = jax.lax.reduce_window(
            around, 0.0, jax.lax.add, window, (1,) * around.ndim, "VALID"
        )
    # A root has no derivative at 0.
    least = (_SLIGHT / 10) ** 2
    usual = jnp.sqrt(around / neighbourhood**2 + least) + _SLIGHT
    magnitude = jnp.sqrt(energy + least)
    strength = magnitude / (magnitude + usual)
    share = strength / (energy + least)
    return jnp.stack(
        [strength, share * (across**2 - down**2), share * 2 * across * down], axis=-1
    )


def _extended(planes: jax.Array, pixels: int) -> jax.Array:
    """Planes [..., H, W] with their edges repeated."""
    sides = [(0, 0)] * (planes.ndim - 2) + [(pixels, pixels)] * 2
    return jnp.pad(planes, sides, mode="edge")
