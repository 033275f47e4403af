"""Ways back from pooled maps to larger ones, channels last."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.ops import convolution, pooling


def nearest(x: jax.Array, factor: int | Sequence[int]) -> jax.Array:
    """Repeats each value over a block.

    Args:
        x: [B, *spatial, C].
        factor: the block's size, one number or one a dimension.

    Returns:
        [B, *spatial * factor, C].
    """
    return _in_blocks(x, factor, jnp.broadcast_to)


def bed_of_nails(x: jax.Array, factor: int | Sequence[int]) -> jax.Array:
    """Puts each value at the first place of a block of zeros.

    Args:
        x: [B, *spatial, C].
        factor: the block's size, one number or one a dimension.

    Returns:
        [B, *spatial * factor, C].
    """

    def nailed(x: jax.Array, shape: Sequence[int]) -> jax.Array:
        first = np.zeros(shape[2:-1:2], bool)
        first[(0,) * first.ndim] = True
        mask = np.expand_dims(first, (0, *range(1, x.ndim - 1, 2), x.ndim - 1))
        return jnp.where(mask, x, np.zeros((), x.dtype))

    return _in_blocks(x, factor, nailed)


def _in_blocks(x, factor, fill) -> jax.Array:
    """Each value becomes a block, as `fill(x [B, h, 1, w, 1, C], shape)` makes it."""
    rank = pooling.rank_of(x)
    sizes = convolution.per_dimension(factor, rank, "factor")
    tall = [
        extent for pair in zip(x.shape[1:-1], sizes, strict=True) for extent in pair
    ]
    shape = (x.shape[0], *tall, x.shape[-1])
    x = jnp.expand_dims(x, tuple(range(2, 2 * rank + 1, 2)))
    whole = [size * length for size, length in zip(sizes, x.shape[1:-1:2], strict=True)]
    return fill(x, shape).reshape(shape[0], *whole, shape[-1])


def max_pool_with_switches(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: convolution.Padding = "VALID",
) -> tuple[jax.Array, jax.Array]:
    """Max pooling that also tells where each maximum was.

    Of equal maxima the first counts, in the order of rows; it takes the gradient too.

    Args:
        x: [B, *spatial, C].
        window, strides, padding: as for `max_pool`.

    Returns:
        The maxima [B, *output spatial, C], and their places, int32 of the same shape:
        indices into the flattened spatial dimensions of `x`, as PyTorch's
        `max_pool2d(return_indices=True)` gives them.
    """
    sizes, steps, pairs = pooling.geometry(x, window, strides, padding)
    spatial = x.shape[1:-1]
    convolution.check_fits(sizes, spatial, pairs)
    # The maximum along one dimension after the other, the last one first: so it is the
    # first in the order of rows. Its place is known along the dimensions that are done.
    places: jax.Array | None = None
    for axis in reversed(range(1, x.ndim - 1)):
        size, step, pair = sizes[axis - 1], steps[axis - 1], pairs[axis - 1]
        beyond = math.prod(spatial[axis:])
        taps = _taps(x, axis, size, step, pair)
        known = [0] * size if places is None else _taps(places, axis, size, step, pair)
        row = np.arange(taps[0].shape[axis], dtype=np.int32) * step - pair[0]
        row = row.reshape([-1 if place == axis else 1 for place in range(x.ndim)])
        inside = [
            (0 <= row + tap) & (row + tap < spatial[axis - 1]) for tap in range(size)
        ]
        best, found, valid = taps[0], known[0] + row * beyond, inside[0]
        for tap in range(1, size):
            keep = (valid & (best >= taps[tap])) | (best != best) | ~inside[tap]
            best = jnp.where(keep, best, taps[tap])
            found = jnp.where(keep, found, known[tap] + (row + tap) * beyond)
            valid = valid | inside[tap]
        x, places = best, jnp.broadcast_to(found, best.shape)
    return x, jnp.asarray(places, jnp.int32)


def max_unpool(
    x: jax.Array,
    switches: jax.Array,
    shape: Sequence[int],
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: convolution.Padding = "VALID",
) -> jax.Array:
    """Puts each value where a maximum was, and zeros elsewhere.

    Zeiler and Fergus 2014 (arXiv 1311.2901), section 2.1; the values and gradients of
    PyTorch's `max_unpool2d`. Where windows overlap and share a maximum, the last of
    them in the order of rows gives its value, and each of them takes the gradient.

    Args:
        x: [B, *pooled spatial, C].
        switches: int32 of that shape, from `max_pool_with_switches` with the same
            window, strides and padding.
        shape: the spatial shape that was pooled.
        window, strides, padding: as for the pooling.

    Returns:
        [B, *shape, C].

    Raises:
        ArgumentError: shapes that do not fit each other.
    """
    rank = pooling.rank_of(x)
    whole = convolution.per_dimension(tuple(shape), rank, "shape")
    picture = jax.ShapeDtypeStruct((x.shape[0], *whole, x.shape[-1]), x.dtype)
    sizes, steps, pairs = pooling.geometry(picture, window, strides, padding)
    pooled = tuple(
        (length + sum(pair) - size) // step + 1
        for length, size, step, pair in zip(whole, sizes, steps, pairs, strict=True)
    )
    if x.shape[1:-1] != pooled or switches.shape != x.shape:
        raise errors.ArgumentError(
            f"values are {list(x.shape)} and switches {list(switches.shape)}, but "
            f"pooling {list(whole)} by a window of {list(sizes)} gives "
            f"{[x.shape[0], *pooled, x.shape[-1]]}; give what was pooled"
        )
    if all(size <= step for size, step in zip(sizes, steps, strict=True)):
        return _unpool_apart(x, switches, whole, steps, pairs)
    return _unpool_overlapping(x, switches, whole, sizes, steps, pairs)


def _taps(
    x: jax.Array, axis: int, size: int, step: int, pair: tuple[int, int]
) -> list[jax.Array]:
    """The first values of all windows along a dimension, the second ones, and so on."""
    if size == step and not any(pair):
        # As a reshape: on CPU its gradient is faster than that of slices.
        count = x.shape[axis] // size
        x = jax.lax.slice_in_dim(x, 0, count * size, axis=axis)
        x = x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
        return [
            jax.lax.index_in_dim(x, tap, axis + 1, keepdims=False)
            for tap in range(size)
        ]
    edges = [(*pair, 0) if place == axis else (0, 0, 0) for place in range(x.ndim)]
    x = jax.lax.pad(x, np.zeros((), x.dtype), edges)
    span = x.shape[axis] - size + 1
    return [jax.lax.slice_in_dim(x, tap, tap + span, step, axis) for tap in range(size)]


def _unpool_apart(x, switches, shape, steps, pairs) -> jax.Array:
    """Windows that do not overlap: each value and zeros fill a block of their own."""
    zero = np.zeros((), x.dtype)
    parts = [
        jnp.where(here, x, zero)
        for here, _ in _matches(switches, shape, steps, steps, pairs)
    ]
    # Stacked, and not compared in one piece: the gradient is faster on CPU.
    for axis in range(len(shape), 0, -1):
        step = steps[axis - 1]
        blocks = [
            jnp.stack(parts[start : start + step], axis + 1)
            for start in range(0, len(parts), step)
        ]
        parts = [one_after_the_other(block, axis + 1, axis) for block in blocks]
    (found,) = parts
    edges = [
        (-before, length + before - size, 0)
        for length, size, (before, _) in zip(
            shape, found.shape[1:-1], pairs, strict=True
        )
    ]
    return jax.lax.pad(found, zero, [(0, 0, 0), *edges, (0, 0, 0)])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _unpool_overlapping(x, switches, shape, sizes, steps, pairs) -> jax.Array:
    """Windows that share places: later ones cover earlier ones."""
    found = jnp.zeros((x.shape[0], *shape, x.shape[-1]), x.dtype)
    # A place's later windows see it at earlier offsets.
    for here, edges in reversed(_matches(switches, shape, sizes, steps, pairs)):
        value = jax.lax.pad(x, np.zeros((), x.dtype), edges)
        found = jnp.where(jax.lax.pad(here, np.False_, edges), value, found)
    return found


@_unpool_overlapping.defjvp
def _(shape, sizes, steps, pairs, primals, tangents):
    """As PyTorch has it: none covers another, so that each takes the gradient."""
    x, switches = primals
    zero = np.zeros((), x.dtype)
    changes = [
        jax.lax.pad(jnp.where(here, tangents[0], zero), zero, edges)
        for here, edges in _matches(switches, shape, sizes, steps, pairs)
    ]
    value = _unpool_overlapping(x, switches, shape, sizes, steps, pairs)
    return value, functools.reduce(jnp.add, changes)


def _matches(switches, shape, sizes, steps, pairs):
    """For each offset in a window, the windows whose maximum lies there.

    And the edges that bring a value of each window to that place, for `jax.lax.pad`.
    """
    found = []
    for offset in itertools.product(*map(range, sizes)):
        index, inside = np.int32(0), np.True_
        edges = [(0, 0, 0)]
        for axis, (start, step) in enumerate(zip(offset, steps, strict=True)):
            first, count = start - pairs[axis][0], switches.shape[axis + 1]
            row = np.arange(count, dtype=np.int32) * step + first
            own = [1] * switches.ndim
            own[axis + 1] = -1
            index = index + (row * math.prod(shape[axis + 1 :])).reshape(own)
            # What lies in the padding would have another place's index.
            inside = inside & ((0 <= row) & (row < shape[axis])).reshape(own)
            last = first + (count - 1) * step
            edges.append((first, shape[axis] - 1 - last, step - 1))
        here = switches == index
        found.append((here if inside.all() else here & inside, [*edges, (0, 0, 0)]))
    return found


def depth_to_space(x: jax.Array, factor: int | Sequence[int]) -> jax.Array:
    """Sub-pixel up-sampling: channels become the values of a block.

    Shi et al. 2016 (arXiv 1609.05158). The channels are those of the block's first
    place, then those of its second, in the order of rows, as in TensorFlow's
    `depth_to_space`; PyTorch's `pixel_shuffle` has a block's places next to each
    other, so a kernel of PyTorch's has [..., F * places] where this one has
    [..., places * F].

    Args:
        x: [B, *spatial, places * C].
        factor: the block's size, one number or one a dimension.

    Returns:
        [B, *spatial * factor, C].
    """
    rank = pooling.rank_of(x)
    sizes = convolution.per_dimension(factor, rank, "factor")
    if x.shape[-1] % math.prod(sizes):
        raise errors.ArgumentError(
            f"x has {x.shape[-1]} channels, but must have a multiple of "
            f"{math.prod(sizes)}, the places of a block of {list(sizes)}"
        )
    spatial = x.shape[1:-1]
    channels = x.shape[-1] // math.prod(sizes)
    x = x.reshape(x.shape[0], *spatial, *sizes, channels)
    order = [0]
    for axis in range(1, rank + 1):
        order += [axis, rank + axis]
    whole = [length * size for length, size in zip(spatial, sizes, strict=True)]
    return x.transpose(*order, x.ndim - 1).reshape(x.shape[0], *whole, channels)


def one_after_the_other(x: jax.Array, inner: int, outer: int) -> jax.Array:
    """Makes of two dimensions one, in which the inner one runs faster."""
    x = jnp.moveaxis(x, inner, outer + 1)
    size = x.shape[outer] * x.shape[outer + 1]
    return x.reshape(*x.shape[:outer], size, *x.shape[outer + 2 :])
