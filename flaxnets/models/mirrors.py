"""Decoders for the library's own encoders, so that a network can be inverted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from flaxnets import errors, ops
from flaxnets.models import vgg
from flaxnets.models.autoencoder import Code, Decoder, Level, Unpooling
from flaxnets.models.cnn import CNN


class Mirror(NamedTuple):
    """A decoder, and where in the encoder its code comes from.

    Attributes:
        decoder: maps a `Code` to images.
        endpoint: the encoder's endpoint that the code holds.
        maps: the endpoints before each pooling below it, the first level first.
    """

    decoder: Decoder
    endpoint: str
    maps: tuple[str, ...]

    def code(self, images: jax.Array, endpoints: Mapping[str, jax.Array]) -> Code:
        """What the decoder takes, from what the encoder gave for these images.

        Args:
            images: f32[B, H, W, C], of which only the shape counts.
            endpoints: the encoder's.
        """
        shapes = [images.shape[1:3]]
        switches = []
        for name, level in zip(self.maps, self.decoder.levels, strict=True):
            shape = endpoints[name].shape[1:3]
            if level.pooled:
                # None of it is computed where the decoder does not use it.
                pooled, places = ops.max_pool_with_switches(endpoints[name], 2)
                switches.append(places)
                shape = pooled.shape[1:3]
            shapes.append(shape)
        values = endpoints[self.endpoint]
        if values.ndim == 2 and not self.decoder.bottleneck:
            values = values.reshape(values.shape[0], *shapes[-1], -1)
        return Code(values, tuple(shapes), tuple(switches))


def decoder_for(
    backbone: Any,
    endpoint: str,
    *,
    channels: int = 3,
    unpooling: Unpooling = "nearest",
    dtype: Any = None,
) -> Mirror:
    """The mirror of an encoder from one of its endpoints down to its images.

    Each of its convolutions has the encoder's width on the other side, each pooling an
    un-pooling; a dense endpoint is led back to the last map by one dense layer.

    Args:
        backbone: a `CNN` or a `VGG`.
        endpoint: a name of its endpoints, such as `block3`, before the pooling of that
            block, or `features`, after the last one.
        channels: of the images.
        unpooling: see `Decoder`.
        dtype: type of the computation (the parameters stay float32).

    Raises:
        ArgumentError: another kind of backbone, or no such endpoint.
    """
    levels, maps, places = _described(backbone)
    if endpoint not in places:
        raise errors.ArgumentError(
            f"{type(backbone).__name__} has no endpoint {endpoint!r} to decode; it "
            f"has: {', '.join(places)}"
        )
    count, pooled = places[endpoint]
    levels = levels[:count]
    if not pooled:
        levels = (*levels[:-1], levels[-1]._replace(pooled=False))
    dense = endpoint.startswith(("dense", "logits"))
    decoder = Decoder(levels, channels, unpooling, dense, dtype)
    return Mirror(decoder, endpoint, maps[:count])


def _described(
    backbone: Any,
) -> tuple[tuple[Level, ...], tuple[str, ...], dict[str, tuple[int, bool]]]:
    """An encoder's levels, the endpoints before their pooling, and all endpoints.

    Of each endpoint: how many levels lie below it, and whether the last one's pooling
    does.
    """
    if isinstance(backbone, vgg.VGG):
        levels = tuple(
            Level((width,) * depth)
            for width, depth in zip(vgg.WIDTHS, backbone.convolutions, strict=True)
        )
        maps = tuple(f"block{index}" for index in range(1, 6))
        places = {name: (index, False) for index, name in enumerate(maps, start=1)}
        dense = ("dense1", "dense2", "logits") if backbone.num_classes else ()
        return (
            levels,
            maps,
            {**places, **dict.fromkeys(("features", *dense), (5, True))},
        )
    if isinstance(backbone, CNN):
        count = len(backbone.widths)
        levels = tuple(
            Level((width,), index < backbone.pools)
            for index, width in enumerate(backbone.widths)
        )
        maps = tuple(f"conv{index}" for index in range(1, count + 1))
        places = {}
        for index, level in enumerate(levels, start=1):
            places[f"conv{index}"] = (index, False)
            if level.pooled:
                places[f"pool{index}"] = (index, True)
        last = (count, levels[-1].pooled)
        dense = [f"dense{index}" for index in range(1, len(backbone.dense) + 1)]
        dense += ["logits"] if backbone.num_classes else []
        return levels, maps, {**places, **dict.fromkeys(("features", *dense), last)}
    raise errors.ArgumentError(
        f"there is a decoder for CNN and VGG, but not for {type(backbone).__name__}; "
        "describe it with models.Level and give the levels to models.Decoder"
    )
