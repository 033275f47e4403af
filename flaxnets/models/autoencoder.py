"""Encoders and the decoders that mirror them."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from flaxnets import errors, ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

Unpooling = Literal[
    "nearest", "bed_of_nails", "max_unpool", "transposed", "resize", "subpixel"
]
UNPOOLINGS: tuple[Unpooling, ...] = (
    "nearest",
    "bed_of_nails",
    "max_unpool",
    "transposed",
    "resize",
    "subpixel",
)
# Those that do a convolution's work too.
_CONVOLVING = ("transposed", "subpixel")


class Level(NamedTuple):
    """What an encoder does at one resolution, and a decoder undoes.

    Attributes:
        widths: kernels of each 3x3 convolution, first to last.
        pooled: whether 2x2 max pooling follows.
        squeezes: kernels of a 1x1 convolution before each of them, as SqueezeNet's
            fire modules have one; () for none.
    """

    widths: tuple[int, ...]
    pooled: bool = True
    squeezes: tuple[int, ...] = ()


class Code(struct.PyTreeNode):
    """What a decoder is given.

    A pytree of the arrays; the shapes go along as they are, so that a code can be given
    to compiled functions.

    Attributes:
        values: f32[B, h, w, C], or f32[B, D] from a bottleneck.
        shapes: height and width of the images and after each level's pooling.
        switches: places of the maxima, for each level that pools.
    """

    values: jax.Array
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)
    switches: tuple[jax.Array, ...]


class Encoder(nn.Module):
    """Levels of 3x3 SAME convolutions with ReLU and 2x2 max pooling, and a bottleneck.

    Attributes:
        levels: the first one first.
        bottleneck: numbers in the code; None for a map.
        dtype: type of the computation (the parameters stay float32).
    """

    levels: Sequence[Level]
    bottleneck: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[Code, dict[str, jax.Array]]:
        """Maps f32[B, H, W, C] to a code and endpoints `level1`, ..., `code`.

        A level's endpoint is its map before the pooling.
        """
        x, endpoints = images, {}
        shapes, switches = [x.shape[1:3]], []
        for index, level in enumerate(self.levels, start=1):
            for number, width in enumerate(level.widths, start=1):
                if level.squeezes:
                    x = nn.relu(_squeezed(x, level, index, number, self.dtype))
                name = f"level{index}_conv{number}"
                x = layers.Conv(width, (3, 3), dtype=self.dtype, name=name)(x)
                x = nn.relu(x)
            endpoints[f"level{index}"] = x
            if level.pooled:
                if min(x.shape[1:3]) < 2:
                    raise errors.ArgumentError(
                        f"images of {images.shape[1]}x{images.shape[2]} pixels are too "
                        f"small for the pooling of level {index}; give larger images "
                        "or fewer levels that pool"
                    )
                x, places = ops.max_pool_with_switches(x, 2)
                switches.append(places)
            shapes.append(x.shape[1:3])
        if self.bottleneck is not None:
            x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
            x = nn.Dense(self.bottleneck, dtype=self.dtype, name="bottleneck")(x)
        endpoints["code"] = x
        return Code(x, tuple(shapes), tuple(switches)), endpoints


class Decoder(nn.Module):
    """The mirror of an encoder: its levels, backwards, each un-pooled and convolved.

    Attributes:
        levels: those of the encoder, the first one first.
        channels: of the images.
        unpooling: `nearest`, `bed_of_nails` and `max_unpool` (with the encoder's
            switches) are followed by the mirrored convolutions, as is `resize`
            (bilinear, Odena et al. 2016); `transposed` has a transposed convolution,
            and `subpixel` a convolution to blocks (Shi et al. 2016), in place of
            un-pooling and the first of them.
        bottleneck: whether the code is a vector.
        dtype: type of the computation (the parameters stay float32).
        negative_slope: of the ReLUs; 0 for plain ones. A deep decoder's plain ones can
            all die in the first steps, after which it gives one grey for every code.
    """

    levels: Sequence[Level]
    channels: int
    unpooling: Unpooling = "nearest"
    bottleneck: bool = False
    dtype: Any = None
    negative_slope: float = 0.0

    @nn.compact
    def __call__(self, code: Code) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps a code to images f32[B, H, W, channels] and endpoints.

        The endpoints are named after the level that they mirror, the last level first;
        each is the map after the level's un-pooling. The last convolution has no ReLU.
        """
        if self.unpooling not in UNPOOLINGS:
            raise errors.ArgumentError(
                f"unpooling is {self.unpooling!r}, but must be one of "
                f"{', '.join(UNPOOLINGS)}"
            )
        pooling = sum(level.pooled for level in self.levels)
        if self.unpooling == "max_unpool" and len(code.switches) != pooling:
            raise errors.ArgumentError(
                f"the code has switches of {len(code.switches)} poolings, but "
                f"'max_unpool' needs those of {pooling}; take them from the encoder, "
                "or choose another unpooling"
            )
        x, endpoints = code.values, {}
        switches = list(code.switches)
        if self.bottleneck:
            height, width = code.shapes[-1]
            size = (height, width, self.levels[-1].widths[-1])
            units = height * width * size[-1]
            x = nn.Dense(units, dtype=self.dtype, name="bottleneck")(x)
            x = self._activated(x)
            x = x.reshape(x.shape[0], *size)
        for index in range(len(self.levels), 0, -1):
            level = self.levels[index - 1]
            before = self.levels[index - 2].widths[-1] if index > 1 else self.channels
            # From the last convolution's kernels back to what the first one was given.
            widths = [*level.widths[-2::-1], before]
            numbers = list(range(len(widths), 0, -1))
            shape = code.shapes[index - 1]
            pooled = None
            if level.pooled:
                places = switches.pop() if switches else None
                if self.unpooling in _CONVOLVING:
                    x = self._squeezed(x, level, index, numbers[0])
                name = f"level{index}_conv{numbers[0]}"
                if self._at_once(x, shape, level):
                    pooled = x
                x = self._up(x, shape, places, widths[0], name)
                if self.unpooling in _CONVOLVING:
                    if (index, len(widths)) != (1, 1):
                        x = self._activated(x)
                    widths, numbers = widths[1:], numbers[1:]
            endpoints[f"level{index}"] = x
            for width, number in zip(widths, numbers, strict=True):
                x = self._squeezed(x, level, index, number)
                name = f"level{index}_conv{number}"
                if pooled is None:
                    x = layers.Conv(width, (3, 3), dtype=self.dtype, name=name)(x)
                else:
                    # What the convolution gives of the un-pooled map, which then is
                    # an endpoint only.
                    fill = cast(Any, self.unpooling)
                    x = layers.UnpooledConv(
                        width, (3, 3), 2, fill, dtype=self.dtype, name=name
                    )(pooled)
                    pooled = None
                if (index, number) != (1, 1):
                    x = self._activated(x)
        return x, endpoints

    def _activated(self, x: jax.Array) -> jax.Array:
        return (
            nn.leaky_relu(x, self.negative_slope) if self.negative_slope else nn.relu(x)
        )

    def _squeezed(
        self, x: jax.Array, level: Level, index: int, number: int
    ) -> jax.Array:
        if not level.squeezes:
            return x
        return self._activated(_squeezed(x, level, index, number, self.dtype))

    def _at_once(self, x: jax.Array, shape: tuple[int, ...], level: Level) -> bool:
        """Whether un-pooling and the convolution after it are one operation."""
        exact = shape == tuple(2 * size for size in x.shape[1:3])
        kinds = ("nearest", "bed_of_nails")
        return self.unpooling in kinds and exact and not level.squeezes

    def _up(
        self,
        x: jax.Array,
        shape: tuple[int, ...],
        switches: jax.Array | None,
        width: int,
        name: str,
    ) -> jax.Array:
        """Un-pools to a shape, and convolves where the kind of un-pooling does."""
        if self.unpooling == "max_unpool" and switches is not None:
            return ops.max_unpool(x, switches, shape, 2)
        if self.unpooling == "resize":
            size = (x.shape[0], *shape, x.shape[-1])
            return jax.image.resize(x, size, "bilinear")
        if self.unpooling == "bed_of_nails":
            x = ops.bed_of_nails(x, 2)
        elif self.unpooling == "nearest":
            x = ops.nearest(x, 2)
        elif self.unpooling == "transposed":
            up = layers.ConvTranspose(width, (3, 3), 2, dtype=self.dtype, name=name)
            x = up(x)
        else:
            blocks = layers.Conv(4 * width, (3, 3), dtype=self.dtype, name=name)
            x = ops.depth_to_space(blocks(x), 2)
        # A pooling drops the last row of an odd height, and a convolution without
        # padding rows on both sides: they come back as copies, or as zeros.
        edges = [(0, 0)] * x.ndim
        for axis, full in enumerate(shape, start=1):
            missing = full - x.shape[axis]
            edges[axis] = (missing // 2, missing - missing // 2)
        nails = self.unpooling == "bed_of_nails"
        return jnp.pad(x, edges, mode="constant" if nails else "edge")


def _squeezed(
    x: jax.Array, level: Level, index: int, number: int, dtype: Any
) -> jax.Array:
    """The 1x1 convolution before one of a level's convolutions."""
    width, name = level.squeezes[number - 1], f"level{index}_squeeze{number}"
    return layers.Conv(width, (1, 1), dtype=dtype, name=name)(x)


class Autoencoder(nn.Module):
    """An encoder and its mirror, built from one description.

    The parameters are those of the two, under `encoder` and `decoder`.

    Attributes:
        levels: of the encoder; widths alone stand for one convolution and a pooling.
        channels: of the images.
        unpooling: see `Decoder`.
        bottleneck: numbers in the code; None for a map.
        dtype: type of the computation (the parameters stay float32).
    """

    levels: Sequence[Level | int] = (16, 32)
    channels: int = 1
    unpooling: Unpooling = "nearest"
    bottleneck: int | None = None
    dtype: Any = None

    def setup(self) -> None:
        levels = described(self.levels)
        self.encoder = Encoder(levels, self.bottleneck, self.dtype)
        self.decoder = Decoder(
            levels,
            self.channels,
            self.unpooling,
            self.bottleneck is not None,
            self.dtype,
        )

    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, channels] to images and endpoints.

        The endpoints: the encoder's and the decoder's, after `encoder/` and `decoder/`,
        and `output`.
        """
        del train
        code, down = self.encoder(images)
        output, up = self.decoder(code)
        endpoints = {f"encoder/{name}": value for name, value in down.items()}
        endpoints |= {f"decoder/{name}": value for name, value in up.items()}
        return output, {**endpoints, "output": output}

    def encode(self, images: jax.Array) -> Code:
        """Only the first half: `model.apply(variables, images, method="encode")`."""
        return self.encoder(images)[0]

    def decode(self, code: Code) -> jax.Array:
        """Only the second half."""
        return self.decoder(code)[0]


def described(levels: Sequence[Level | int]) -> tuple[Level, ...]:
    """Levels, where a number stands for one convolution of that width and a pooling.

    Raises:
        ArgumentError: there are none.
    """
    if not levels:
        raise errors.ArgumentError("levels are empty; an autoencoder has at least one")
    return tuple(
        Level((level,)) if isinstance(level, int) else Level(*level) for level in levels
    )
