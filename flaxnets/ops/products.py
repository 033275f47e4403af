"""Convolutions of one group as matrix products, for CPU.

The products themselves run at the machine's rate, so what tells the forms apart is the
memory that they move besides: patches of the image on one side, parts of the output on
the other. Each form is differentiated as it stands, in forward and reverse mode.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets.ops import batching

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


# Winograd's form along one dimension needs this many pixels to be worth its additions;
# the form along two this many channels on either side, or half as many of four times
# the pixels.
_WINOGRAD_PIXELS = 6000
_WINOGRAD_CHANNELS = 64

# Up to so many, pixels are put side by side as channels before a window strides over
# them: short runs of memory are slow to gather.
_FEW_CHANNELS = 4

# Floats that are worked on at a time: what is made of them should stay in the cache.
# Below twice as many nothing is gained, and the gradient would be computed in parts.
TILE_FLOATS = 1_600_000
_PATCH_FLOATS = 4_000_000
_OUTPUT_FLOATS = 640_000

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
    strided = math.prod(geometry.strides) > 1 and math.prod(geometry.dilation) == 1
    if strided and x.shape[-1] <= _FEW_CHANNELS and x.ndim > 3:
        x, kernel, geometry = _depth_from_space(x, kernel, geometry)
        form = functools.partial(tap_conv, geometry=geometry)
        outputs = math.prod(x.shape[1:-1]) * kernel.shape[-1]
        return few_at_a_time(form, x, kernel, outputs, _OUTPUT_FLOATS)
    taps, features = kernel.shape[0], kernel.shape[-1]
    row = math.prod(kernel.shape[1:-1])
    stride, padding = geometry.strides[0], geometry.padding[0]
    gap = geometry.dilation[0]
    plain = stride == gap == 1
    # Floats moved per output pixel: patches of whole windows and the output, against
    # patches of single rows and a part of the output for each of them, against the
    # image and a part of the output for each tap.
    image = math.prod(x.shape[1:])
    if _suits_winograd(x, kernel, geometry):
        form = functools.partial(winograd2d_conv, geometry=geometry)
        return few_at_a_time(form, x, kernel, image, TILE_FLOATS)
    window = math.prod(kernel.shape[:-2])
    spread = kernel.shape[-2] + window * features
    rowwise = row + taps * features
    if math.prod(geometry.strides) == 1 and spread < min(rowwise, taps * row):
        return spread_conv(x, kernel, geometry)
    if x.ndim == 3 or stride > 1 or taps * row + features <= rowwise:
        outputs = x.shape[1] + sum(padding) - (taps - 1) * gap
        narrow = taps * row < _NARROW and features < _NARROW
        tile = 2 if plain and narrow and outputs % 2 == 0 else 1
        form = functools.partial(window_conv, geometry=geometry, tile=tile)
        # A window of one pixel is the image itself.
        patches = window * image // math.prod(geometry.strides) if window > 1 else 0
        return few_at_a_time(form, x, kernel, patches, _PATCH_FLOATS)
    if plain and taps == 3 and padding == (1, 1) and x.dtype == jnp.float32:
        if math.prod(x.shape[:-1]) >= _WINOGRAD_PIXELS:
            return winograd_conv(x, kernel, geometry)
    return row_conv(x, kernel, geometry)


def _suits_winograd(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> bool:
    """Whether the form along two dimensions can be used, and is the fastest."""
    once = all(step == 1 for step in (*geometry.strides, *geometry.dilation))
    large = math.prod(x.shape[:-1]) >= 4 * _WINOGRAD_PIXELS
    wide = min(kernel.shape[-2:]) >= _WINOGRAD_CHANNELS // (2 if large else 1)
    return once and wide and kernel.shape[:-2] == (3, 3) and x.dtype == jnp.float32


def _depth_from_space(
    x: jax.Array, kernel: jax.Array, geometry: Geometry
) -> tuple[jax.Array, jax.Array, Geometry]:
    """The same convolution with stride 1, of as many more channels."""
    strides, rank = geometry.strides, x.ndim - 2
    taps = [-(-size // step) for size, step in zip(kernel.shape, strides, strict=False)]
    edges, grid = [(0, 0, 0)], []
    for axis in range(rank):
        (low, high), step = geometry.padding[axis], strides[axis]
        size = x.shape[axis + 1]
        outputs = (size + low + high - kernel.shape[axis]) // step + 1
        length = outputs - 1 + taps[axis]
        grid.append(length)
        # Pixels at the end that no window covers go.
        edges.append((low, step * length - size - low, 0))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [*edges, (0, 0, 0)])
    ends = [
        (0, step * count - size)
        for step, count, size in zip(strides, taps, kernel.shape, strict=False)
    ]
    kernel = jnp.pad(kernel, [*ends, (0, 0), (0, 0)])

    def deepened(array: jax.Array, first: int, counts: Sequence[int]) -> jax.Array:
        """Moves what lies within a step into the channels, from axis `first` on."""
        head, tail = array.shape[:first], array.shape[first + rank :]
        pairs = itertools.chain.from_iterable(zip(counts, strides, strict=True))
        array = array.reshape(*head, *pairs, *tail)
        outer = [first + 2 * axis for axis in range(rank)]
        inner = [axis + 1 for axis in outer]
        rest = range(first + 2 * rank, array.ndim)
        array = array.transpose(*range(first), *outer, *inner, *rest)
        depth = math.prod(strides) * tail[0]
        return array.reshape(*head, *counts, depth, *tail[1:])

    plain = Geometry((1,) * rank, ((0, 0),) * rank, (1,) * rank)
    return deepened(x, 1, grid), deepened(kernel, 0, taps), plain


def few_at_a_time(
    form: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    floats: int,
    limit: int,
) -> jax.Array:
    """`form(x, kernel)`, of a few images at a time where all would be too much.

    Nothing of a part is kept for the gradient but its images.

    Args:
        form: a convolution.
        x, kernel: what it takes.
        floats: that one image is turned into on the way.
        limit: how many there may be at a time.
    """
    if len(x) * floats <= 2 * limit:
        return form(x, kernel)
    once = jax.checkpoint(form)
    return batching.by_parts(
        lambda part: once(part, kernel), x, max(1, limit // floats)
    )


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


def tap_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A product for each tap of the first dimension, and their sum.

    The stride of that dimension is 1.
    """
    taps, gap = kernel.shape[0], geometry.dilation[0]
    patches = _pad(_rows(x, kernel, geometry), 1, geometry.padding[0])
    count = patches.shape[1] - (taps - 1) * gap
    return functools.reduce(
        jnp.add,
        (
            _product(patches[:, start : start + count], kernel[tap])
            for tap, start in zip(range(taps), itertools.count(0, gap))
        ),
    )


def spread_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """One product for all taps, whose parts are then added, each moved to its place.

    Every stride is 1.
    """
    rank, (channels, features) = x.ndim - 2, kernel.shape[-2:]
    matrix = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    parts = (x.reshape(-1, channels) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])
    parts = jnp.pad(parts, ((0, 0), *geometry.padding, (0, 0)))
    lengths = [
        size - (taps - 1) * gap
        for size, taps, gap in zip(
            parts.shape[1:-1], kernel.shape[:rank], geometry.dilation, strict=True
        )
    ]
    found = []
    for place, tap in enumerate(np.ndindex(*kernel.shape[:rank])):
        start = [at * gap for at, gap in zip(tap, geometry.dilation, strict=True)]
        spatial = [
            slice(at, at + length) for at, length in zip(start, lengths, strict=True)
        ]
        own = slice(place * features, (place + 1) * features)
        found.append(parts[(slice(None), *spatial, own)])
    return functools.reduce(jnp.add, found)


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
    return _of_output(products, 1)[:, :rows]


def winograd2d_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sixteen products for four outputs, where others need thirty-six.

    Two spatial dimensions of three taps, stride and dilation 1. A direct convolution's
    zeros are zeros here too.
    """
    batch, channels, features = len(x), x.shape[-1], kernel.shape[-1]
    outputs = [
        size + sum(pair) - 2
        for size, pair in zip(x.shape[1:3], geometry.padding, strict=True)
    ]
    tiles = [-(-size // 2) for size in outputs]
    sides = [
        (low, 2 * count + 2 - size - low)
        for size, (low, _), count in zip(
            x.shape[1:3], geometry.padding, tiles, strict=True
        )
    ]
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    inputs = [_of_input(rows, 2) for rows in _of_input(x, 1)]
    columns = [_combined(_OF_KERNEL, list(column)) for column in kernel.swapaxes(0, 1)]
    taps = [_combined(_OF_KERNEL, list(row)) for row in zip(*columns, strict=True)]
    products = [
        [
            (part.reshape(-1, channels) @ tap).reshape(batch, *tiles, features)
            for part, tap in zip(*row, strict=True)
        ]
        for row in zip(inputs, taps, strict=True)
    ]
    y = _of_output([_of_output(row, 2) for row in products], 1)
    return y[:, : outputs[0], : outputs[1]]


def _of_input(x: jax.Array, axis: int) -> list[jax.Array]:
    """What goes into the four products, of overlapping tiles of four along `axis`."""
    tiles = x.shape[axis] // 2 - 1
    x = x.reshape(*x.shape[:axis], tiles + 1, 2, *x.shape[axis + 1 :])
    # Split, not sliced with a stride: the gradient of that is slow.
    pairs = [half.squeeze(axis + 1) for half in jax.lax.split(x, (1, 1), axis + 1)]
    parts = [
        jax.lax.slice_in_dim(half, start, start + tiles, axis=axis)
        for start in range(2)
        for half in pairs
    ]
    return _combined(_OF_INPUT, parts)


def _of_output(products: Sequence[jax.Array], axis: int) -> jax.Array:
    """The four products' outputs, two for each tile along `axis`."""
    y = jnp.stack(_combined(_OF_OUTPUT, products), axis + 1)
    return y.reshape(*y.shape[:axis], 2 * y.shape[axis], *y.shape[axis + 2 :])


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
