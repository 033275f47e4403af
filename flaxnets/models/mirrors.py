"""Decoders for the library's own encoders, so that a network can be inverted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from flaxnets import errors, ops
from flaxnets.models import squeezenet, vgg
from flaxnets.models.autoencoder import Code, Decoder, Level, Unpooling
from flaxnets.models.cnn import CNN

# Kernels between the two convolutions that mirror SqueezeNet's first one, which stand
# at the images' own size, where each costs most.
NARROW = 32
# Of the decoders' ReLUs, as Dosovitskiy and Brox have it (2016, arXiv 1506.02753,
# section 3).
NEGATIVE_SLOPE = 0.2


class Mirror(NamedTuple):
    """A decoder, and where in the encoder its code comes from.

    Attributes:
        decoder: maps a `Code` to images.
        endpoint: the encoder's endpoint that the code holds.
        maps: an endpoint of each level below it, the first level first: before its
            pooling where that has switches, and else what came out of the level.
        switched: whether the poolings are by 2x2 windows, so that they have switches.
    """

    decoder: Decoder
    endpoint: str
    maps: tuple[str, ...]
    switched: bool = True

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
            if level.pooled and self.switched:
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
    SqueezeNet's fire modules become a 1x1 and a 3x3 convolution each, and its first
    convolution, with its wide window and its stride, an un-pooling and two 3x3 ones.
    Its first pooling follows that at once; its un-pooling has a convolution all the
    same, so that it does not end in blocks.

    Args:
        backbone: a `CNN`, a `VGG` or a `SqueezeNet`.
        endpoint: a name of its endpoints, such as `block3`, before the pooling of that
            block, or `features`, after the last one.
        channels: of the images.
        unpooling: see `Decoder`.
        dtype: type of the computation (the parameters stay float32).

    Raises:
        ArgumentError: another kind of backbone, or no such endpoint; or `max_unpool`
            for a SqueezeNet, whose pooling windows overlap.
    """
    described = _described(backbone)
    if endpoint not in described.places:
        raise errors.ArgumentError(
            f"{type(backbone).__name__} has no endpoint {endpoint!r} to decode; it "
            f"has: {', '.join(described.places)}"
        )
    if unpooling == "max_unpool" and not described.switched:
        raise errors.ArgumentError(
            f"unpooling 'max_unpool' needs pooling by 2x2 windows, but those of "
            f"{type(backbone).__name__} are 3x3 and overlap; choose another unpooling"
        )
    levels, maps = described.places[endpoint]
    dense = endpoint.startswith(("dense", "logits"))
    decoder = Decoder(
        levels, channels, unpooling, dense, dtype, negative_slope=NEGATIVE_SLOPE
    )
    return Mirror(decoder, endpoint, maps, described.switched)


def pooling_levels(backbone: Any) -> tuple[str, ...]:
    """Endpoints of an encoder by depth: each map that is pooled next, and the last map.

    Args:
        backbone: as for `decoder_for`.

    Raises:
        ArgumentError: another kind of backbone.
    """
    return _described(backbone).ends


class _Described(NamedTuple):
    """An encoder, as its mirrors need it.

    Attributes:
        places: of each endpoint, the levels below it and their `Mirror.maps`.
        ends: see `pooling_levels`.
        switched: see `Mirror`.
    """

    places: dict[str, tuple[tuple[Level, ...], tuple[str, ...]]]
    ends: tuple[str, ...]
    switched: bool


def _described(backbone: Any) -> _Described:
    if isinstance(backbone, vgg.VGG):
        widths = zip(vgg.WIDTHS, backbone.convolutions, strict=True)
        levels = [Level((width,) * depth) for width, depth in widths]
        maps = tuple(f"block{index}" for index in range(1, 6))
        places = {name: _below(levels, maps, name) for name in maps}
        dense = ("dense1", "dense2", "logits") if backbone.num_classes else ()
        whole = tuple(levels), maps
        places |= dict.fromkeys(("features", *dense), whole)
        return _Described(places, (*maps, "features"), True)
    if isinstance(backbone, CNN):
        levels = [
            Level((width,), index < backbone.pools)
            for index, width in enumerate(backbone.widths)
        ]
        maps = tuple(f"conv{index}" for index in range(1, len(levels) + 1))
        places = {}
        for index, name in enumerate(maps, start=1):
            places[name] = _below(levels, maps, name)
            if levels[index - 1].pooled:
                places[f"pool{index}"] = tuple(levels[:index]), maps[:index]
        dense = [f"dense{index}" for index in range(1, len(backbone.dense) + 1)]
        dense += ["logits"] if backbone.num_classes else []
        places |= dict.fromkeys(("features", *dense), (tuple(levels), maps))
        return _Described(places, (*maps[: backbone.pools], "features"), True)
    if isinstance(backbone, squeezenet.SqueezeNet):
        return _squeezenet(backbone)
    raise errors.ArgumentError(
        "there is a decoder for CNN, VGG and SqueezeNet, but not for "
        f"{type(backbone).__name__}; describe it with models.Level and give the levels "
        "to models.Decoder"
    )


def _below(
    levels: Sequence[Level], maps: tuple[str, ...], name: str
) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Levels and maps up to the map of that name, which is not pooled."""
    count = maps.index(name) + 1
    last = levels[count - 1]._replace(pooled=False)
    return (*levels[: count - 1], last), maps[:count]


def _squeezenet(backbone: squeezenet.SqueezeNet) -> _Described:
    pools = squeezenet.POOLS[backbone.version]
    width = 64 if backbone.version == "1.1" else 96
    first = Level((NARROW, width))
    places: dict[str, tuple[tuple[Level, ...], tuple[str, ...]]] = {
        "conv1": ((first,), ("conv1",))
    }
    levels, maps = (first, Level((width,))), ("conv1",)
    widths, squeezes = (), ()
    for name, (squeeze, expand) in squeezenet.FIRES.items():
        if not widths:
            # Of the size that the pooling before it gave.
            maps = (*maps, name)
        widths, squeezes = (*widths, 2 * expand), (*squeezes, squeeze)
        level = Level(widths, name in pools, squeezes)
        places[name] = (*levels, level._replace(pooled=False)), (*maps, name)
        if level.pooled:
            levels, widths, squeezes = (*levels, level), (), ()
    places["features"] = places["fire9"]
    return _Described(places, ("conv1", *pools, "features"), False)
