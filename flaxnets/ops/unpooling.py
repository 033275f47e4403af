"""Ways back from pooled maps to larger ones, channels last."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.ops import convolution, pooling, products


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
        for _, here in _matches(switches, shape, steps, steps, pairs)
    ]
    # Stacked, and not compared in one piece: the gradient is faster on CPU.
    for axis in range(len(shape), 0, -1):
        step = steps[axis - 1]
        blocks = [
            jnp.stack(parts[start : start + step], axis + 1)
            for start in range(0, len(parts), step)
        ]
        parts = [_one_after_the_other(block, axis + 1, axis) for block in blocks]
    (found,) = parts
    edges = [
        (-before, length + before - size, 0)
        for length, size, (before, _) in zip(
            shape, found.shape[1:-1], pairs, strict=True
        )
    ]
    return jax.lax.pad(found, zero, [(0, 0, 0), *edges, (0, 0, 0)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _unpool_overlapping(x, switches, shape, sizes, steps, pairs) -> jax.Array:
    """Windows that share places: later ones cover earlier ones."""
    found = jnp.zeros((x.shape[0], *shape, x.shape[-1]), x.dtype)
    # A place's later windows see it at earlier offsets.
    for offset, here in reversed(_matches(switches, shape, sizes, steps, pairs)):
        edges = [
            (
                start - before,
                length - (start - before) - (count - 1) * step - 1,
                step - 1,
            )
            for start, (before, _), length, count, step in zip(
                offset, pairs, shape, x.shape[1:-1], steps, strict=True
            )
        ]
        edges = [(0, 0, 0), *edges, (0, 0, 0)]
        value = jax.lax.pad(x, np.zeros((), x.dtype), edges)
        found = jnp.where(jax.lax.pad(here, np.False_, edges), value, found)
    return found


def _overlapping_forward(x, switches, *geometry):
    return _unpool_overlapping(x, switches, *geometry), switches


def _overlapping_backward(shape, sizes, steps, pairs, switches, gradient):
    edges = [(0, 0, 0), *((*pair, 0) for pair in pairs), (0, 0, 0)]
    padded = jax.lax.pad(gradient, np.zeros((), gradient.dtype), edges)
    found = jnp.zeros(switches.shape, gradient.dtype)
    for offset, here in _matches(switches, shape, sizes, steps, pairs):
        ends = [
            start + (count - 1) * step + 1
            for start, count, step in zip(
                offset, switches.shape[1:-1], steps, strict=True
            )
        ]
        own = padded[(slice(None), *map(slice, offset, ends, steps))]
        found = jnp.where(here, own, found)
    return found, None


_unpool_overlapping.defvjp(_overlapping_forward, _overlapping_backward)


def _matches(switches, shape, sizes, steps, pairs):
    """For each offset in a window, the windows whose maximum lies there."""
    found = []
    for offset in itertools.product(*map(range, sizes)):
        index = np.zeros((1,) * switches.ndim, np.int32)
        for axis, (start, step) in enumerate(zip(offset, steps, strict=True)):
            row = np.arange(switches.shape[axis + 1]) * step + start
            own = [1] * switches.ndim
            own[axis + 1] = -1
            index = index + _place(row, axis, shape, pairs).reshape(own)
        found.append((offset, switches == index))
    return found


def _place(row: np.ndarray, axis: int, shape: Sequence[int], pairs: products.Pairs):
    """What a row of the padded picture adds to an index into the flattened one."""
    return ((row - pairs[axis][0]) * math.prod(shape[axis + 1 :])).astype(np.int32)


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
    x = x.reshape(x.shape[0], *spatial, *sizes, -1)
    order = [0]
    for axis in range(1, rank + 1):
        order += [axis, rank + axis]
    whole = [length * size for length, size in zip(spatial, sizes, strict=True)]
    return x.transpose(*order, x.ndim - 1).reshape(x.shape[0], *whole, x.shape[-1])


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: convolution.Padding = "SAME",
    output_padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Transposed convolution: each value adds a scaled kernel to the output.

    The gradient of `conv` with respect to its input, as PyTorch's
    `conv_transpose2d` and Keras's `Conv2DTranspose` are; flax's and jax's own, by
    default, is not. It is one convolution whose channels become the places of a block
    (the sub-pixel form), or on CPU one product whose overlaps are added.

    Args:
        x: [B, *spatial, C].
        kernel: [*window, C, F]. PyTorch's is [C, F, *window], Keras's [*window, F, C].
        strides: how many outputs an input is apart from the next.
        padding: what is cut from the output: numbers or pairs as PyTorch has them,
            or `SAME` and `VALID`, after which the output has `strides` times the
            input's size, or what is needed for all that kernels touch (Keras's rule).
        output_padding: with numbers for `padding`, how many more outputs there are at
            the end, below the stride or the dilation; 0 by default.
        dilation: spacing of the kernel's taps.

    Returns:
        [B, *output spatial, F].

    Raises:
        ArgumentError: ranks, channels or options that do not fit each other.
    """
    rank = pooling.rank_of(x)
    if kernel.ndim != x.ndim or kernel.shape[-2] != x.shape[-1]:
        raise errors.ArgumentError(
            f"conv_transpose takes x [B, *spatial, C] and kernel [*window, C, F], but "
            f"got shapes {x.shape} and {kernel.shape}"
        )
    steps = convolution.per_dimension(strides, rank, "strides")
    spacing = convolution.per_dimension(dilation, rank, "dilation")
    extent = tuple(
        (size - 1) * gap + 1
        for size, gap in zip(kernel.shape[:rank], spacing, strict=True)
    )
    lows, lengths = _output(
        x.shape[1:-1], extent, steps, spacing, padding, output_padding
    )
    if any(gap > 1 for gap in spacing):
        edges = [(0, 0, gap - 1) for gap in spacing]
        kernel = jax.lax.pad(
            kernel, np.zeros((), kernel.dtype), [*edges, (0, 0, 0), (0, 0, 0)]
        )
    return _transposed(x, kernel, steps, lows, lengths)


def _transposed(
    x: jax.Array,
    kernel: jax.Array,
    steps: Sequence[int],
    lows: Sequence[int],
    lengths: Sequence[int],
) -> jax.Array:
    """A transposed convolution, as each backend computes it best.

    Args:
        x, kernel: see `conv_transpose`, the taps already apart.
        steps: its strides.
        lows, lengths: how much is cut off before the output, and the output's size.
    """

    def cut(whole: jax.Array) -> jax.Array:
        edges = [
            (-low, length + low - size, 0)
            for low, length, size in zip(lows, lengths, whole.shape[1:-1], strict=True)
        ]
        zero = np.zeros((), whole.dtype)
        return jax.lax.pad(whole, zero, [(0, 0, 0), *edges, (0, 0, 0)])

    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: cut(
            _few_at_a_time(functools.partial(_in_overlaps, steps=steps), x, kernel)
        ),
        default=lambda x, kernel: cut(_in_places(x, kernel, steps)),
    )


def _in_overlaps(x: jax.Array, kernel: jax.Array, steps: Sequence[int]) -> jax.Array:
    """One product, each value times all taps, whose overlaps are then added."""
    parts = _of_all_taps(x, kernel)
    rank = len(steps)
    for axis, step in enumerate(steps, start=1):
        # Those of the dimensions before have gone into them.
        tap_axis = rank + 1
        taps = parts.shape[tap_axis]
        count = -(-taps // step)
        rows = []
        for block in range(count):
            own = jax.lax.slice_in_dim(
                parts, block * step, min((block + 1) * step, taps), axis=tap_axis
            )
            edges = [(0, 0, 0)] * own.ndim
            edges[axis] = (block, count - 1 - block, 0)
            edges[tap_axis] = (0, step - own.shape[tap_axis], 0)
            rows.append(jax.lax.pad(own, np.zeros((), own.dtype), edges))
        parts = _one_after_the_other(functools.reduce(jnp.add, rows), tap_axis, axis)
    return parts


def _few_at_a_time(form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`form(x, kernel)`, where it makes too much of all images a few at a time."""
    parts = math.prod((*x.shape[1:-1], *kernel.shape[:-2], kernel.shape[-1]))
    return products.few_at_a_time(form, x, kernel, parts, products.TILE_FLOATS)


def _of_all_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each value times each tap, [B, *spatial, *window, F]."""
    channels = x.shape[-1]
    matrix = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    return (x.reshape(-1, channels) @ matrix).reshape(
        *x.shape[:-1], *kernel.shape[:-2], kernel.shape[-1]
    )


def _one_after_the_other(x: jax.Array, inner: int, outer: int) -> jax.Array:
    """Makes of two dimensions one, in which the inner one runs faster."""
    x = jnp.moveaxis(x, inner, outer + 1)
    size = x.shape[outer] * x.shape[outer + 1]
    return x.reshape(*x.shape[:outer], size, *x.shape[outer + 2 :])


def _in_places(x: jax.Array, kernel: jax.Array, steps: Sequence[int]) -> jax.Array:
    """The sub-pixel form: a convolution whose channels are the places of a block."""
    rank, extent = x.ndim - 2, kernel.shape[:-2]
    # As many taps in each place's own kernel, some of them zero.
    taps = [-(-size // step) for size, step in zip(extent, steps, strict=True)]
    edges = [
        (0, count * step - size, 0)
        for count, step, size in zip(taps, steps, extent, strict=True)
    ]
    kernel = jax.lax.pad(
        kernel, np.zeros((), kernel.dtype), [*edges, (0, 0, 0), (0, 0, 0)]
    )
    inputs, features = kernel.shape[-2:]
    divided = [part for pair in zip(taps, steps, strict=True) for part in pair]
    kernel = kernel.reshape(*divided, inputs, features)
    # [taps..., inputs, places..., features], the taps reversed: the last tap of a
    # kernel comes from the earliest input.
    order = [*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2), 2 * rank + 1]
    kernel = jnp.flip(kernel.transpose(order), range(rank))
    kernel = kernel.reshape(*taps, inputs, math.prod(steps) * features)
    whole = convolution.conv(x, kernel, padding=[count - 1 for count in taps])
    return depth_to_space(whole, steps)


def unpooled_conv(
    x: jax.Array,
    kernel: jax.Array,
    factor: int | Sequence[int],
    unpooling: Literal["nearest", "bed_of_nails"],
) -> jax.Array:
    """A SAME convolution of un-pooled values, without un-pooling them.

    What `conv(nearest(x, factor), kernel)` and `conv(bed_of_nails(x, factor), kernel)`
    give, up to the order of sums: most of their products are of values that are there
    several times, or are zero. It is a transposed convolution with the taps turned
    around and, for `nearest`, added up over a block. Of 36 products, of a 3x3 kernel
    and a block of 2x2, at most 16 are left.

    Args:
        x: [B, *spatial, C].
        kernel: [*window, C, F].
        factor: the block's size, one number or one a dimension.
        unpooling: what a block holds: one value, or one value and zeros.

    Returns:
        [B, *spatial * factor, F].
    """
    rank = pooling.rank_of(x)
    sizes = convolution.per_dimension(factor, rank, "factor")
    lengths = [size * length for size, length in zip(sizes, x.shape[1:-1], strict=True)]

    def turned(x: jax.Array, kernel: jax.Array) -> jax.Array:
        before = [taps // 2 for taps in kernel.shape[:rank]]
        kernel = jnp.flip(kernel, range(rank))
        if unpooling == "nearest":
            kernel = functools.reduce(_summed, enumerate(sizes), kernel)
        return _transposed(x, kernel, sizes, before, lengths)

    if unpooling == "nearest" and set(kernel.shape[:rank]) == {3} and min(sizes) > 1:
        of_three = functools.partial(_nearest_of_three, sizes=sizes)
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: _few_at_a_time(of_three, x, kernel),
            default=turned,
        )
    return turned(x, kernel)


def _nearest_of_three(
    x: jax.Array, kernel: jax.Array, sizes: Sequence[int]
) -> jax.Array:
    """`unpooled_conv` for `nearest` and three taps a dimension.

    Within a block all taps see one value, so that their sum is enough; only the first
    tap of a block's first row, and the last one of its last, see a neighbour's. So
    there are 9 products of 36 for blocks of 2x2.
    """
    rank = len(sizes)
    for axis in range(rank):
        first, _, last = jax.lax.split(kernel, (1, 1, 1), axis)
        whole = kernel.sum(axis, keepdims=True)
        kernel = jnp.concatenate([first, whole, last], axis)
    parts = _of_all_taps(x, kernel)
    for axis, size in enumerate(sizes, start=1):
        first, whole, last = (
            jax.lax.index_in_dim(parts, tap, rank + 1, keepdims=False)
            for tap in range(3)
        )
        edges = [(0, 0, 0)] * first.ndim
        edges[axis] = (1, -1, 0)
        above = jax.lax.pad(first, np.zeros((), first.dtype), edges)
        edges[axis] = (-1, 1, 0)
        below = jax.lax.pad(last, np.zeros((), last.dtype), edges)
        block = [whole - first + above, *[whole] * (size - 2), whole - last + below]
        parts = _one_after_the_other(jnp.stack(block, axis + 1), axis + 1, axis)
    return parts


def _summed(kernel: jax.Array, dimension: tuple[int, int]) -> jax.Array:
    """The sums over each run of so many taps along an axis, with those at the ends."""
    axis, size = dimension
    runs = []
    for at in range(size):
        edges = [(0, 0, 0)] * kernel.ndim
        edges[axis] = (at, size - 1 - at, 0)
        runs.append(jax.lax.pad(kernel, np.zeros((), kernel.dtype), edges))
    return functools.reduce(jnp.add, runs)


def _output(
    spatial: Sequence[int],
    extent: Sequence[int],
    steps: Sequence[int],
    spacing: Sequence[int],
    padding: convolution.Padding,
    output_padding: int | Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """How much is cut off before the output of a transposed convolution; its size."""
    rank = len(spatial)
    if isinstance(padding, str):
        if output_padding is not None:
            raise errors.ArgumentError(
                f"output_padding is {output_padding!r} beside padding {padding!r}, but "
                "goes with numbers only"
            )
        same = padding.upper() == "SAME"
        convolution.padding_pairs(padding, spatial, extent, steps)
        beyond = [max(size - step, 0) for size, step in zip(extent, steps, strict=True)]
        lengths = [
            length * step + (0 if same else more)
            for length, step, more in zip(spatial, steps, beyond, strict=True)
        ]
        return [more // 2 if same else 0 for more in beyond], lengths
    pairs = convolution.padding_pairs(padding, spatial, extent, steps)
    added = output_padding if output_padding is not None else 0
    more = (added,) * rank if isinstance(added, int) else tuple(added)
    if len(more) != rank or any(
        not 0 <= value < max(step, gap)
        for value, step, gap in zip(more, steps, spacing, strict=True)
    ):
        raise errors.ArgumentError(
            f"output_padding is {output_padding!r}, but must be from 0 to below the "
            f"strides {list(steps)} or the dilation {list(spacing)}"
        )
    lengths = [
        (length - 1) * step + size + extra - sum(pair)
        for length, step, size, extra, pair in zip(
            spatial, steps, extent, more, pairs, strict=True
        )
    ]
    if min(lengths) < 1:
        raise errors.ArgumentError(
            f"padding {padding!r} cuts the whole output away; give less of it, or "
            "larger images"
        )
    return [pair[0] for pair in pairs], lengths
