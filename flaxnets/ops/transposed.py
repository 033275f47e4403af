"""Transposed convolutions, and convolutions of un-pooled maps, channels last."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.ops import convolution, pooling, products, unpooling

Fill = Literal["nearest", "bed_of_nails"]
"""What a block of an un-pooled map holds: one value, or one value and zeros."""


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
    (the sub-pixel form), or on CPU products whose overlaps are added.

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
    x, kernel = _checked(x, kernel, "conv_transpose")
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
    return _transposed(x, kernel, _Outputs(steps, lows, lengths))


def _checked(x: jax.Array, kernel: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    if kernel.ndim != x.ndim or kernel.shape[-2] != x.shape[-1]:
        raise errors.ArgumentError(
            f"{name} takes x [B, *spatial, C] and kernel [*window, C, F], but got "
            f"shapes {x.shape} and {kernel.shape}"
        )
    return convolution.of_one_type(x, kernel)


class _Outputs(NamedTuple):
    """Where the outputs of a transposed convolution lie, one entry a dimension.

    Attributes:
        steps: its strides.
        lows: how much is cut off before the first of them.
        lengths: how many there are.
    """

    steps: Sequence[int]
    lows: Sequence[int]
    lengths: Sequence[int]

    @property
    def before_the_last(self) -> "_Outputs":
        """The same without the last dimension."""
        return _Outputs(*(values[:-1] for values in self))


def _transposed(x: jax.Array, kernel: jax.Array, outputs: _Outputs) -> jax.Array:
    """A transposed convolution, as each backend does it best; the taps are apart."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _few_at_a_time(
            functools.partial(_in_overlaps, outputs=outputs), x, kernel
        ),
        default=functools.partial(_in_places, outputs=outputs),
    )


def _in_overlaps(x: jax.Array, kernel: jax.Array, outputs: _Outputs) -> jax.Array:
    """Products of each value and all taps, whose overlaps are then added.

    Along the last dimension the values that meet in an output are gathered before the
    product instead, unless there are more of them than of products.
    """
    steps, lows, lengths = outputs
    rank, channels, features = len(steps), *kernel.shape[-2:]
    meeting = _meeting(kernel.shape[rank - 1], steps[-1], lows[-1])
    gathered = channels * sum(len(own) for own in meeting if len(own) > 1)
    if not 0 < gathered < features * math.prod(kernel.shape[:rank]):
        return _overlapped(_of_all_taps(x, kernel), outputs)
    count = -(-lengths[-1] // steps[-1])
    rows = []
    for own in meeting:
        patches = jnp.concatenate([_moved(x, rank, by, count) for _, by in own], -1)
        taps = jnp.concatenate(
            [jax.lax.index_in_dim(kernel, tap, rank - 1, False) for tap, _ in own], -2
        )
        parts = _of_all_taps(patches, taps)
        rows.append(_overlapped(parts, outputs.before_the_last))
    return _interleaved(rows, rank, lengths[-1])


def _overlapped(parts: jax.Array, outputs: _Outputs) -> jax.Array:
    """Adds what falls on the same output, along as many dimensions as outputs have.

    Args:
        parts: [B, *spatial, *window, F], the window having those dimensions only.
        outputs: of them.
    """
    tap_axis = parts.ndim - 1 - len(outputs.steps)
    for axis, (step, low, length) in enumerate(zip(*outputs, strict=True), start=1):
        count = -(-length // step)
        taps = [
            tap.squeeze(tap_axis)
            for tap in jax.lax.split(parts, (1,) * parts.shape[tap_axis], tap_axis)
        ]
        nothing = jnp.zeros_like(_moved(taps[0], axis, 0, count))
        rows = [
            functools.reduce(
                jnp.add,
                [_moved(taps[tap], axis, by, count) for tap, by in own] or [nothing],
            )
            for own in _meeting(len(taps), step, low)
        ]
        parts = _interleaved(rows, axis, length)
    return parts


def _meeting(taps: int, step: int, low: int) -> list[list[tuple[int, int]]]:
    """Which values meet in the outputs of a block, along one dimension.

    For each place in the block: the taps, and how far the value of each is from the
    block's own.
    """
    return [
        [
            (tap, (low + at - tap) // step)
            for tap in range((low + at) % step, taps, step)
        ]
        for at in range(step)
    ]


def _moved(x: jax.Array, axis: int, by: int, count: int) -> jax.Array:
    """So many values from `by` on, with zeros where there are none."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (-by, by + count - x.shape[axis], 0)
    return jax.lax.pad(x, np.zeros((), x.dtype), edges)


def _interleaved(rows: Sequence[jax.Array], axis: int, length: int) -> jax.Array:
    """The values of all rows by turns, the first so many of them."""
    whole = jnp.stack(rows, axis + 1)
    whole = unpooling.one_after_the_other(whole, axis + 1, axis)
    return jax.lax.slice_in_dim(whole, 0, length, axis=axis)


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


def _in_places(x: jax.Array, kernel: jax.Array, outputs: _Outputs) -> jax.Array:
    """The sub-pixel form: a convolution whose channels are the places of a block."""
    rank, extent, steps = x.ndim - 2, kernel.shape[:-2], outputs.steps
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
    whole = unpooling.depth_to_space(whole, steps)
    for axis, (_, low, length) in enumerate(zip(*outputs, strict=True), start=1):
        whole = _moved(whole, axis, low, length)
    return whole


def unpooled_conv(
    x: jax.Array,
    kernel: jax.Array,
    factor: int | Sequence[int],
    fill: Fill,
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
        fill: the un-pooling: "nearest" or "bed_of_nails".

    Returns:
        [B, *spatial * factor, F].

    Raises:
        ArgumentError: ranks or channels that do not fit each other, or another fill.
    """
    if fill not in get_args(Fill):
        raise errors.ArgumentError(
            f"fill is {fill!r}, but must be one of {', '.join(get_args(Fill))}"
        )
    rank = pooling.rank_of(x)
    x, kernel = _checked(x, kernel, "unpooled_conv")
    sizes = convolution.per_dimension(factor, rank, "factor")
    lengths = [size * length for size, length in zip(sizes, x.shape[1:-1], strict=True)]

    def turned(x: jax.Array, kernel: jax.Array) -> jax.Array:
        before = [taps // 2 for taps in kernel.shape[:rank]]
        kernel = jnp.flip(kernel, range(rank))
        if fill == "nearest":
            kernel = functools.reduce(_summed, enumerate(sizes), kernel)
        return _transposed(x, kernel, _Outputs(sizes, before, lengths))

    if fill == "nearest" and set(kernel.shape[:rank]) == {3} and min(sizes) > 1:
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
        parts = unpooling.one_after_the_other(
            jnp.stack(block, axis + 1), axis + 1, axis
        )
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
    more = convolution.repeated(added, rank)
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
