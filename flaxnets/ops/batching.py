"""Functions of a batch, computed in parts where that is faster."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_parts(
    function: Callable[[Any, jax.Array], Any], size: int = 8
) -> Callable[[Any, jax.Array], Any]:
    """A function of a batch that on a CPU takes a few examples at a time.

    What is between the layers of a network then stays in the CPU's cache; on other
    devices the batch is computed at once. The results are the same, as long as the
    function treats each example for itself: a network does so except in training.

    >>> apply = jax.jit(ops.in_parts(model.apply))
    >>> logits, endpoints = apply(variables, images)

    Args:
        function: (variables, images [B, ...]) to a tree of arrays [B, ...].
        size: examples at a time.
    """

    def at_once(variables: Any, images: jax.Array) -> Any:
        return function(variables, images)

    def parts(variables: Any, images: jax.Array) -> Any:
        whole = len(images) // size
        head = images[: whole * size].reshape(whole, size, *images.shape[1:])
        found = jax.lax.map(lambda part: function(variables, part), head)
        found = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), found)
        if whole * size == len(images):
            return found
        rest = function(variables, images[whole * size :])
        return jax.tree.map(lambda y, z: jnp.concatenate([y, z]), found, rest)

    def apply(variables: Any, images: jax.Array) -> Any:
        if len(images) <= size:
            return at_once(variables, images)
        return jax.lax.platform_dependent(variables, images, cpu=parts, default=at_once)

    return apply
