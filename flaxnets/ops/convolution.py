"""Convolution in one, two and three dimensions, lowered as each backend runs it best.

On CPU, XLA runs a convolution inside a compiled loop many times slower than outside
one, while matrix products run at full speed in both. On GPU and TPU the native
convolution is best. The results are equal to float tolerance.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxnets import errors
from flaxnets.ops import products

Padding = str | int | Sequence[int | tuple[int, int]]
# Above this many input channels times window the native CPU convolution outside a loop
# reaches the matrix product's rate, and patches would only cost memory.
_WINDOW_LIMIT = 4608

_LAYOUTS = {1: ("NWC", "WIO"), 2: ("NHWC", "HWIO"), 3: ("NDHWC", "DHWIO")}


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlates `x` with `kernel`, as `jax.lax.conv_general_dilated` does.

    Args:
        x: [B, *spatial, C] with one, two or three spatial dimensions.
        kernel: [*window, C / groups, F].
        strides: of the window, one number or one a dimension.
        padding: `SAME`, `VALID`, a number for every side, or one number or a
            (low, high) pair a dimension.
        dilation: spacing of the kernel's taps.
        groups: number of groups that the channels are divided into.

    Returns:
        [B, *output spatial, F].

    Raises:
        ArgumentError: ranks, channels, groups or options that do not fit each other.
    """
    rank = x.ndim - 2
    if rank not in _LAYOUTS or kernel.ndim != x.ndim:
        raise errors.ArgumentError(
            f"conv takes x [B, *spatial, C] and kernel [*window, C, F] of 1 to 3 "
            f"spatial dimensions, but got shapes {x.shape} and {kernel.shape}"
        )
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise errors.ArgumentError(
            f"x has {x.shape[-1]} channels and the kernel {kernel.shape[-2]} -> "
            f"{kernel.shape[-1]} with groups={groups}: the channels must be groups "
            "times the kernel's input channels, and the outputs divisible by groups"
        )
    x, kernel = of_one_type(x, kernel)
    steps = per_dimension(strides, rank, "strides")
    spacing = per_dimension(dilation, rank, "dilation")
    extent = tuple(
        (size - 1) * gap + 1
        for size, gap in zip(kernel.shape[:rank], spacing, strict=True)
    )
    pairs = padding_pairs(padding, x.shape[1:-1], extent, steps)
    geometry = products.Geometry(steps, pairs, spacing)
    check_fits(extent, x.shape[1:-1], pairs)

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        image, weights = _LAYOUTS[rank]
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            steps,
            pairs,
            rhs_dilation=spacing,
            dimension_numbers=(image, weights, image),
            feature_group_count=groups,
        )

    def as_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return products.conv(x, kernel, geometry)

    if groups > 1 or math.prod(kernel.shape[:-1]) > _WINDOW_LIMIT:
        return native(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=as_products, default=native)


def of_one_type(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in the type that products of them have; XLA's own takes no other."""
    dtype = jnp.result_type(x, kernel)
    return x.astype(dtype), kernel.astype(dtype)


def check_fits(
    extent: Sequence[int], sizes: Sequence[int], pairs: products.Pairs
) -> None:
    """Raises an ArgumentError where a window is larger than the padded image."""
    padded = tuple(size + sum(pair) for size, pair in zip(sizes, pairs, strict=True))
    if any(size < taps for size, taps in zip(padded, extent, strict=True)):
        raise errors.ArgumentError(
            f"the window spans {tuple(extent)} and the padded image only {padded}; "
            "give larger images, more padding, or a smaller window"
        )


def per_dimension(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """One positive number for each of `rank` dimensions."""
    values = repeated(value, rank)
    if len(values) != rank or min(values) < 1:
        raise errors.ArgumentError(
            f"{name} is {value!r}, but must be a positive number, or {rank} of them"
        )
    return values


def repeated(value: Any, count: int) -> tuple[Any, ...]:
    """What is given, or one whole number so many times, numpy's too."""
    return (value,) * count if isinstance(value, numbers.Integral) else tuple(value)


def padding_pairs(
    padding: Padding,
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
) -> products.Pairs:
    """(low, high) padding of each dimension."""
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise errors.ArgumentError(
                f"padding is {padding!r}, but must be 'SAME', 'VALID', a number, or a "
                "number or pair for each dimension"
            )
        return tuple(jax.lax.padtype_to_pads(sizes, window, strides, padding.upper()))
    values = repeated(padding, len(sizes))
    if len(values) != len(sizes):
        raise errors.ArgumentError(
            f"padding is {padding!r}, but must have {len(sizes)} entries"
        )
    pairs = tuple(repeated(value, 2) for value in values)
    if any(len(pair) != 2 for pair in pairs):
        raise errors.ArgumentError(
            f"padding is {padding!r}, but must have a number or a (low, high) pair for "
            "each dimension"
        )
    if any(min(pair) < 0 for pair in pairs):
        raise errors.ArgumentError(
            f"padding is {padding!r}, but cannot be negative; cut the image instead"
        )
    return pairs
