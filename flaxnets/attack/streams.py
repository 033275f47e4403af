"""A stream of randomness for each picture, whichever others are in its batch."""

import jax
import jax.numpy as jnp


def per_picture(key: jax.Array, count: int) -> jax.Array:
    """A key for each picture, key[B].

    Args:
        key: one key, of which each picture takes its own by its place in the batch, or
            a key for each picture, where its place among all pictures matters.
        count: B.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 1:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def advanced(keys: jax.Array, number: jax.Array | int) -> jax.Array:
    """Each picture's key for its `number`-th draw, key[B]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
