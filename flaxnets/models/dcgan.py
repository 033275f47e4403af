"""The networks of a generative pair for small pictures."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets import errors, ops
from flaxnets.models import layers
from flaxnets.models.layers import Output
from flaxnets.models.spectral import SpectralConv

# Radford et al. 2016, section 4: all weights from this distribution.
_INIT = nn.initializers.normal(0.02)
# Divisible by the stride, so that every pixel is made by as many taps.
_WINDOW = (4, 4)

Upsampling = Literal["transposed", "nearest"]
Normalisation = Literal["batch", "spectral", "none"]


class DCGANGenerator(nn.Module):
    """Pictures from random numbers, by layers that double the resolution.

    Radford et al. 2016 (arXiv 1511.06434): batch normalisation and ReLU after each
    layer but the last, whose tanh is moved here from [-1, 1] to [0, 1]. The windows
    are 4x4, as in PyTorch's example of it.

    Attributes:
        size: height and width of the pictures, each divisible by 2 for each width.
        channels: of the pictures.
        widths: channels of the maps that are doubled in size, the smallest map first.
        upsampling: "transposed" convolutions of stride 2, or copies of the "nearest"
            pixel and a 3x3 convolution (Odena et al. 2016), which leaves no
            checkerboard.
        hidden: units of fully connected layers before the first map, as in Chen et al.
            2016 (arXiv 1606.03657, appendix C.1). Convolutions see a part of a picture
            each; these decide what it is a picture of.
    """

    size: tuple[int, int] = (28, 28)
    channels: int = 1
    widths: Sequence[int] = (128, 64)
    upsampling: Upsampling = "transposed"
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, latents: jax.Array, *, train: bool = False) -> Output:
        """Maps f32[B, D] to images f32[B, H, W, channels] in [0, 1], and endpoints.

        The endpoints are `hidden1`, ... where there are any, `map` (before the first
        doubling), `up1`, ..., `output`. In training the batch normalises itself, and
        its statistics are stored.
        """
        if self.upsampling not in get_args(Upsampling):
            raise errors.ArgumentError(
                f"upsampling is {self.upsampling!r}, but must be one of "
                f"{', '.join(get_args(Upsampling))}"
            )
        height, width = _smallest(self.size, len(self.widths))
        first = self.widths[0]
        endpoints: dict[str, jax.Array] = {}
        x = latents
        for index, units in enumerate(self.hidden, start=1):
            x = self._dense(units, f"hidden{index}")(x)
            x = nn.relu(layers.BatchNorm(name=f"hidden{index}_norm")(x, train))
            endpoints[f"hidden{index}"] = x
        x = self._dense(height * width * first, "project")(x)
        x = x.reshape(-1, height, width, first)
        x = nn.relu(layers.BatchNorm(name="project_norm")(x, train))
        endpoints["map"] = x
        outputs = (*self.widths[1:], self.channels)
        for index, features in enumerate(outputs, start=1):
            last = index == len(outputs)
            options: dict[str, Any] = {
                "use_bias": last,
                "kernel_init": _INIT,
                "name": f"up{index}",
            }
            if self.upsampling == "transposed":
                x = layers.ConvTranspose(features, _WINDOW, 2, **options)(x)
            else:
                x = layers.Conv(features, (3, 3), **options)(ops.nearest(x, 2))
            if not last:
                x = nn.relu(layers.BatchNorm(name=f"up{index}_norm")(x, train))
                endpoints[f"up{index}"] = x
        x = endpoints["output"] = (jnp.tanh(x) + 1) / 2
        return x, endpoints

    def _dense(self, units: int, name: str) -> nn.Dense:
        return nn.Dense(units, use_bias=False, kernel_init=_INIT, name=name)


class DCGANDiscriminator(nn.Module):
    """One logit a picture, positive for real, by convolutions of stride 2.

    Radford et al. 2016 (arXiv 1511.06434): leaky ReLU of slope 0.2, batch normalisation
    after all layers but the first and the last, which covers the whole map.

    Attributes:
        widths: kernels of each convolution that halves the resolution.
        normalisation: "batch", "spectral" (Miyato et al. 2018, arXiv 1802.05957: of all
            kernels, and no batch normalisation), or "none".
        hidden: units of fully connected layers after the last map, as the generator
            has them.
    """

    widths: Sequence[int] = (64, 128)
    normalisation: Normalisation = "batch"
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] in [0, 1] to logits f32[B], and endpoints.

        Height and width are divisible by 2 for each width. The endpoints are `conv1`,
        ..., `hidden1`, ... where there are any, `features` f32[B, F] (what the logits
        are made of, flattened) and `logits`.
        """
        if self.normalisation not in get_args(Normalisation):
            raise errors.ArgumentError(
                f"normalisation is {self.normalisation!r}, but must be one of "
                f"{', '.join(get_args(Normalisation))}"
            )
        _smallest(images.shape[1:3], len(self.widths))  # Refuses what does not fit.
        endpoints: dict[str, jax.Array] = {}
        # What a generator's tanh gives.
        x = 2 * images - 1
        for index, width in enumerate(self.widths, start=1):
            normed = self.normalisation == "batch" and index > 1
            x = self._conv(x, width, _WINDOW, 2, not normed, train, f"conv{index}")
            if normed:
                x = layers.BatchNorm(name=f"conv{index}_norm")(x, train)
            x = endpoints[f"conv{index}"] = nn.leaky_relu(x, 0.2)
        for index, units in enumerate(self.hidden, start=1):
            normed = self.normalisation == "batch"
            name = f"hidden{index}"
            x = self._conv(x, units, x.shape[1:3], 1, not normed, train, name, "VALID")
            if normed:
                x = layers.BatchNorm(name=f"{name}_norm")(x, train)
            x = nn.leaky_relu(x, 0.2)
            endpoints[name] = x.reshape(x.shape[0], -1)
        endpoints["features"] = x.reshape(x.shape[0], -1)
        x = self._conv(x, 1, x.shape[1:3], 1, True, train, "logits", "VALID")
        logits = endpoints["logits"] = x.reshape(-1)
        return logits, endpoints

    def _conv(
        self,
        x: jax.Array,
        features: int,
        window: Sequence[int],
        stride: int,
        use_bias: bool,
        train: bool,
        name: str,
        padding: str = "SAME",
    ) -> jax.Array:
        options: dict[str, Any] = {
            "strides": stride,
            "padding": padding,
            "kernel_init": _INIT,
            "name": name,
        }
        if self.normalisation == "spectral":
            return SpectralConv(features, window, **options)(x, train)
        return layers.Conv(features, window, use_bias=use_bias, **options)(x)


def _smallest(size: Sequence[int], doublings: int) -> tuple[int, int]:
    """Height and width of the map that becomes `size` by so many doublings."""
    factor = 2**doublings
    if not doublings or any(side < factor or side % factor for side in size):
        raise errors.ArgumentError(
            f"pictures of {size[0]}x{size[1]} pixels and {doublings} widths: both "
            f"sides must be divisible by {factor}, 2 for each width, of which there is "
            "at least one"
        )
    return size[0] // factor, size[1] // factor
