"""Convolutions of one group as matrix products, for CPU.

The products themselves run at the machine's rate, so what tells the forms apart is the
memory that they move besides: patches of the image on one side, parts of the output on
the other. Each form is differentiated as it stands, in forward and reverse mode.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Pairs = tuple[tuple[int, int], ...]


class Geometry(NamedTuple):
    """How a window goes over an image, one entry a spatial dimension."""

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    @property
    def rest(self) -> "Geometry":
        """The same without the first dimension."""
        return Geometry(self.strides[1:], self.padding[1:], self.dilation[1:])


# Winograd's form needs this many pixels to be worth its additions.
_WINOGRAD_PIXELS = 6000

# Products with fewer columns than this are better shaped for two rows at once, although
# a quarter of what they multiply is zeros.
_NARROW = 32

# Winograd's minimal filtering F(2, 3) (Lavin and Gray 2016, section 4.1): transforms of
# four inputs, three taps, and four products. F(4, 3) would be 4 % faster still on the
# lecture's network, but where a direct convolution of zeros gives zeros it gives noise,
# which wakes units behind a picture's black border.
_OF_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OF_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`ops.conv` of one group, in the form that suits the shapes.

    Args:
        x: [B, *spatial, C] with one, two or three spatial dimensions.
        kernel: [*window, C, F].
        geometry: of the window.
    """
    taps, features = kernel.shape[0], kernel.shape[-1]
    row = math.prod(kernel.shape[1:-1])
    stride, padding = geometry.strides[0], geometry.padding[0]
    gap = geometry.dilation[0]
    plain = stride == gap == 1
    # Floats moved per output pixel: patches of whole windows and the output, against
    # patches of single rows and a part of the output for each of them.
    if x.ndim == 3 or stride > 1 or taps * row + features <= row + taps * features:
        outputs = x.shape[1] + sum(padding) - (taps - 1) * gap
        narrow = taps * row < _NARROW and features < _NARROW
        tile = 2 if plain and narrow and outputs % 2 == 0 else 1
        return window_conv(x, kernel, geometry, tile=tile)
    if plain and taps == 3 and padding == (1, 1) and x.dtype == jnp.float32:
        if math.prod(x.shape[:-1]) >= _WINOGRAD_PIXELS:
            return winograd_conv(x, kernel, geometry)
    return row_conv(x, kernel, geometry)


def window_conv(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, *, tile: int = 1
) -> jax.Array:
    """One product, of patches of whole windows.

    Args:
        tile: how many outputs along the first dimension come from one patch, which is
            that much longer. More than one needs stride and dilation 1 there, and a
            whole number of tiles.
    """
    taps, features = kernel.shape[0], kernel.shape[-1]
    if tile > 1:
        rest = ((0, 0),) * (kernel.ndim - 1)
        kernel = jnp.concatenate(
            [jnp.pad(kernel, ((at, tile - 1 - at), *rest)) for at in range(tile)], -1
        )
        geometry = geometry._replace(strides=(tile, *geometry.strides[1:]))
    window = (taps + tile - 1, *kernel.shape[1:-2])
    patches = _patches(x, window, geometry)
    y = _product(patches, kernel)
    if tile == 1:
        return y
    y = jnp.moveaxis(y.reshape(*y.shape[:-1], tile, features), -2, 2)
    return y.reshape(y.shape[0], tile * y.shape[1], *y.shape[3:])


def row_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """One product for all taps of the first dimension, whose parts are then added.

    The stride of that dimension is 1.
    """
    taps, features = kernel.shape[0], kernel.shape[-1]
    patches = _rows(x, kernel, geometry)
    gap = geometry.dilation[0]
    parts = _product(
        patches, jnp.moveaxis(kernel, 0, -2).reshape(*kernel.shape[1:-1], -1)
    )
    parts = _pad(parts, 1, geometry.padding[0])
    count = parts.shape[1] - (taps - 1) * gap
    return functools.reduce(
        jnp.add,
        (
            parts[:, start : start + count, ..., tap * features : (tap + 1) * features]
            for tap, start in zip(range(taps), itertools.count(0, gap))
        ),
    )


def winograd_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Four products for two outputs along the first dimension, where others need six.

    That dimension has three taps, padding (1, 1), and stride and dilation 1.
    """
    rows, tiles = x.shape[1], -(-x.shape[1] // 2)
    x = _pad(x, 1, (0, 2 * tiles - rows))
    x = x.reshape(x.shape[0], tiles, 2, *x.shape[2:])
    first, second = (part.squeeze(2) for part in jax.lax.split(x, (1, 1), axis=2))
    before = _pad(second[:, :-1], 1, (1, 0))
    after = _pad(first[:, 1:], 1, (0, 1))
    inputs = _combined(_OF_INPUT, [before, first, second, after])
    taps = [tap.squeeze(0) for tap in jax.lax.split(kernel, (1, 1, 1), axis=0)]
    products = [
        _product(_rows(part, kernel, geometry), tap)
        for part, tap in zip(inputs, _combined(_OF_KERNEL, taps), strict=True)
    ]
    y = jnp.stack(_combined(_OF_OUTPUT, products), axis=2)
    return y.reshape(y.shape[0], 2 * tiles, *y.shape[3:])[:, :rows]


def _rows(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Patches along all spatial dimensions but the first."""
    batch, rows = x.shape[:2]
    images = x.reshape(batch * rows, *x.shape[2:])
    patches = _patches(images, kernel.shape[1:-2], geometry.rest)
    return patches.reshape(batch, rows, *patches.shape[1:])


def _patches(x: jax.Array, window: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """What each window covers, [B, *output spatial, taps * C]."""
    strides, padding, dilation = geometry
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    extents = [(taps - 1) * gap for taps, gap in zip(window, dilation, strict=True)]
    starts = itertools.product(
        *(range(0, end + 1, gap) for end, gap in zip(extents, dilation, strict=True))
    )
    lengths = [size - end for size, end in zip(x.shape[1:-1], extents, strict=True)]
    slices = []
    for start in starts:
        ends = map(operator.add, start, lengths)
        limits = (x.shape[0], *ends, x.shape[-1])
        slices.append(jax.lax.slice(x, (0, *start, 0), limits, (1, *strides, 1)))
    return jnp.concatenate(slices, axis=-1)


def _product(patches: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., K] times [*window, C, F], K being the window's size times C."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    y = patches.reshape(-1, matrix.shape[0]) @ matrix
    return y.reshape(*patches.shape[:-1], matrix.shape[1])


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """A matrix times a column of arrays, without the terms that are zero."""
    return [
        functools.reduce(
            jnp.add,
            (
                float(weight) * part
                for weight, part in zip(row, parts, strict=True)
                if weight
            ),
        )
        for row in matrix
    ]


def _pad(x: jax.Array, axis: int, pair: tuple[int, int]) -> jax.Array:
    return jnp.pad(x, [pair if place == axis else (0, 0) for place in range(x.ndim)])
