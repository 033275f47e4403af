"""Functions of a batch, computed in parts where that is faster."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxnets import errors


def in_parts(
    function: Callable[[Any, jax.Array], Any], size: int = 8
) -> Callable[[Any, jax.Array], Any]:
    """A function of a batch that on a CPU takes a few examples at a time.

    What is between the layers of a network then stays in the CPU's cache; on other
    devices the batch is computed at once. The results are equal to float tolerance, as
    long as the function treats each example for itself: a network does so except in
    training.

    >>> apply = jax.jit(ops.in_parts(model.apply))
    >>> logits, endpoints = apply(variables, images)

    Args:
        function: (variables, images [B, ...]) to a tree of arrays [B, ...].
        size: examples at a time.

    Raises:
        ArgumentError: size is not positive.
    """
    if size < 1:
        raise errors.ArgumentError(f"size is {size}, but must be at least 1")

    def at_once(variables: Any, images: jax.Array) -> Any:
        return function(variables, images)

    def parts(variables: Any, images: jax.Array) -> Any:
        return by_parts(lambda part: function(variables, part), images, size)

    def apply(variables: Any, images: jax.Array) -> Any:
        if len(images) <= size:
            return at_once(variables, images)
        return jax.lax.platform_dependent(variables, images, cpu=parts, default=at_once)

    return apply


def by_parts(function: Callable[[jax.Array], Any], x: jax.Array, size: int) -> Any:
    """A function of `x` [B, ...], applied to `size` examples after the others.

    What is left at the end, where the batch is no multiple, is a smaller part.
    """
    whole = len(x) // size
    head = x[: whole * size].reshape(whole, size, *x.shape[1:])
    found = jax.lax.map(function, head)
    found = jax.tree.map(lambda y: y.reshape(whole * size, *y.shape[2:]), found)
    if whole * size == len(x):
        return found
    rest = function(x[whole * size :])
    return jax.tree.map(lambda y, z: jnp.concatenate([y, z]), found, rest)
