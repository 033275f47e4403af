"""Max and average pooling over one, two or three spatial dimensions, channels last."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.ops import convolution, products


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: convolution.Padding = "VALID",
    ceil_mode: bool = False,
) -> jax.Array:
    """The largest value of each window; of equal ones, the first takes the gradient.

    Args:
        x: [B, *spatial, C].
        window: one number or one a dimension.
        strides: as `window` by default.
        padding: as for `conv`; padding never wins.
        ceil_mode: also take the last window where it only begins inside the image
            (Caffe's and PyTorch's rule).

    Raises:
        ArgumentError: ranks or options that do not fit, or a window larger than the
            padded image.
    """
    sizes, steps, pairs = geometry(x, window, strides, padding)
    if ceil_mode:
        pairs = _rounded_up(x.shape[1:-1], sizes, steps, pairs)
    convolution.check_fits(sizes, x.shape[1:-1], pairs)
    if sizes == steps and np.prod(sizes) <= 9 and not np.any(pairs):
        return _max_pool_tiles(x, sizes)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    low = -jnp.inf if floating else jnp.iinfo(x.dtype).min
    if np.prod(sizes) > 9:
        return _max_of_windows(x, low, sizes, steps, pairs)
    return _max_pool_overlapping(x, low, sizes, steps, pairs)


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: convolution.Padding = "VALID",
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of each window.

    Args:
        x: [B, *spatial, C].
        window: one number or one a dimension.
        strides: as `window` by default.
        padding: as for `conv`.
        count_include_pad: divide by the window's size at the border too, as torch
            does by default, instead of by the number of real values.

    Returns:
        [B, *output spatial, C] of the same type; sums of halves are of float32.

    Raises:
        ArgumentError: ranks or options that do not fit, a window larger than the
            padded image, or integers, whose means are none.
    """
    given, x = x.dtype, _summable(x, "avg_pool")
    sizes, steps, pairs = geometry(x, window, strides, padding)
    convolution.check_fits(sizes, x.shape[1:-1], pairs)
    zero = np.zeros((), x.dtype)
    total = _reduce(x, zero, jax.lax.add, sizes, steps, pairs)
    if count_include_pad or not np.any(pairs):
        return (total / np.prod(sizes).astype(x.dtype)).astype(given)
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    counts = _reduce(ones, zero, jax.lax.add, sizes, steps, pairs)
    return (total / jnp.broadcast_to(counts, total.shape)).astype(given)


def adaptive_avg_pool(x: jax.Array, outputs: int | Sequence[int]) -> jax.Array:
    """Means of windows that divide the image into `outputs` parts, as PyTorch's.

    Part i of n covers floor(i H / n) to ceil((i + 1) H / n).

    Args:
        x: [B, *spatial, C].
        outputs: how many parts, one number or one a dimension.

    Returns:
        [B, *outputs, C] of the same type; sums of halves are of float32.

    Raises:
        ArgumentError: ranks that do not fit, or integers, whose means are none.
    """
    rank = rank_of(x)
    given, x = x.dtype, _summable(x, "adaptive_avg_pool")
    parts = convolution.per_dimension(outputs, rank, "outputs")
    for axis, (count, size) in enumerate(
        zip(parts, x.shape[1:-1], strict=True), start=1
    ):
        if count == size:
            continue
        start = np.arange(count) * size // count
        end = -(-np.arange(1, count + 1) * size // count)
        place = np.arange(size)
        inside = (place >= start[:, None]) & (place < end[:, None])
        weights = jnp.asarray(inside / (end - start)[:, None], x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,))), -1, axis)
    return x.astype(given)


def _summable(x: jax.Array, name: str) -> jax.Array:
    """The values in a type whose sums are right."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise errors.ArgumentError(
            f"{name} takes floating point numbers, but x is {x.dtype}; convert it first"
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rank_of(x: jax.Array | jax.ShapeDtypeStruct) -> int:
    """How many spatial dimensions an image has."""
    rank = x.ndim - 2
    if rank not in (1, 2, 3):
        raise errors.ArgumentError(
            f"pooling takes x [B, *spatial, C] of 1 to 3 spatial dimensions, but got "
            f"shape {x.shape}"
        )
    return rank


def _rounded_up(
    sizes: Sequence[int],
    window: Sequence[int],
    steps: Sequence[int],
    pairs: products.Pairs,
) -> products.Pairs:
    """Padding that gives one more window where one begins before the image's end."""
    longer = []
    for size, taps, step, (low, high) in zip(sizes, window, steps, pairs, strict=True):
        count = -(-(size + low + high - taps) // step) + 1
        if (count - 1) * step >= size + low:
            count -= 1
        longer.append((low, max(high, (count - 1) * step + taps - size - low)))
    return tuple(longer)


def geometry(
    x: jax.Array | jax.ShapeDtypeStruct,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: convolution.Padding,
) -> tuple[tuple[int, ...], tuple[int, ...], products.Pairs]:
    """Sizes, strides and padding of windows over an image, checked."""
    rank = rank_of(x)
    sizes = convolution.per_dimension(window, rank, "window")
    steps = (
        sizes
        if strides is None
        else convolution.per_dimension(strides, rank, "strides")
    )
    pairs = convolution.padding_pairs(padding, x.shape[1:-1], sizes, steps)
    if any(max(pair) >= size for pair, size in zip(pairs, sizes, strict=True)):
        raise errors.ArgumentError(
            f"padding {pairs} is as large as the window {sizes}: some windows would "
            "hold padding only"
        )
    return sizes, steps, pairs


def _reduce(x, start, operation, sizes, steps, pairs) -> jax.Array:
    return jax.lax.reduce_window(
        x, start, operation, (1, *sizes, 1), (1, *steps, 1), ((0, 0), *pairs, (0, 0))
    )


def _max_pool_tiles(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Windows side by side, as a reshape and maxima.

    The gradient of reduce_window is slow on CPU; this one is a selection. Comparing
    in window order keeps reduce_window's meaning: the first of equal values takes the
    gradient, and NaN wins.
    """
    counts = [length // size for length, size in zip(x.shape[1:-1], sizes, strict=True)]
    whole = [count * size for count, size in zip(counts, sizes, strict=True)]
    x = x[(slice(None), *map(slice, whole))]
    pairs = itertools.chain.from_iterable(zip(counts, sizes, strict=True))
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    for axis in reversed(range(2, 2 * len(sizes) + 1, 2)):
        taps = [
            jax.lax.index_in_dim(x, tap, axis, keepdims=False)
            for tap in range(x.shape[axis])
        ]
        x = functools.reduce(_first_maximum, taps)
    return x


def _max_of_windows(x, low, sizes, steps, pairs) -> jax.Array:
    return _reduce(x, np.array(low, x.dtype), jax.lax.max, sizes, steps, pairs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool_overlapping(x, low, sizes, steps, pairs) -> jax.Array:
    """Windows that overlap: reduce_window, but not its slow gradient on CPU."""
    return _max_of_windows(x, low, sizes, steps, pairs)


@_max_pool_overlapping.defjvp
def _(low, sizes, steps, pairs, primals, tangents):
    def rule(form: Callable[..., jax.Array]) -> Callable[..., tuple]:
        pool = functools.partial(form, low=low, sizes=sizes, steps=steps, pairs=pairs)
        return lambda x, tangent: jax.jvp(pool, (x,), (tangent,))

    return jax.lax.platform_dependent(
        *primals,
        *tangents,
        cpu=rule(_max_of_slices),
        default=rule(_max_of_windows),
    )


def _max_of_slices(x, low, sizes, steps, pairs) -> jax.Array:
    """Maxima of strided slices, one dimension after the other, last one first.

    Like `_max_pool_tiles`, so that the first of equal values takes the gradient.
    """
    for axis in reversed(range(1, x.ndim - 1)):
        size, step, pair = sizes[axis - 1], steps[axis - 1], pairs[axis - 1]
        edges = [(*pair, 0) if place == axis else (0, 0, 0) for place in range(x.ndim)]
        x = jax.lax.pad(x, jnp.asarray(low, x.dtype), edges)
        span = x.shape[axis] - size + 1
        taps = [
            jax.lax.slice_in_dim(x, tap, tap + span, step, axis) for tap in range(size)
        ]
        x = functools.reduce(_first_maximum, taps)
    return x


def _first_maximum(best: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.where((best >= other) | (best != best), best, other)
