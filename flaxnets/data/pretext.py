"""Tasks that pictures without labels set by themselves."""

import jax
import jax.numpy as jnp

from flaxnets import errors


def quarter_turns(
    key: jax.Array, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Turns each image by 0 to 3 quarters, which are its target (Gidaris et al. 2018).

    A network that tells how a picture was turned must know what is up in it. For
    `losses.classification(apply, mix=quarter_turns)`.

    Args:
        key: of the turns.
        images: f32[B, S, S, C].
        targets: f32[B, 4]; only its shape is looked at.

    Returns:
        The turned images, anticlockwise as `numpy.rot90` turns, and f32[B, 4].
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2] or targets.shape[-1] != 4:
        raise errors.ArgumentError(
            f"images are {list(images.shape)} and targets {list(targets.shape)}, but "
            "quarter turns need squares [B, S, S, C] and four classes [B, 4]"
        )
    turns = jax.random.randint(key, (len(images),), 0, 4)
    chosen = turns[:, None, None, None]
    # Two halves of a turn, each done or not, instead of four pictures to choose from.
    images = jnp.where(chosen % 2 == 1, jnp.rot90(images, 1, (1, 2)), images)
    images = jnp.where(chosen >= 2, images[:, ::-1, ::-1], images)
    return images, jax.nn.one_hot(turns, 4, dtype=images.dtype)
