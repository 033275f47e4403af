"""SqueezeNet (Iandola et al. 2016, arXiv 1602.07360)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets import ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

# Kernels of each fire module: squeeze, and each of the two expansions.
FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}
# After which modules the map is halved, besides the first convolution.
POOLS = {
    "caffe": ("fire4", "fire8"),
    "1.0": ("fire4", "fire8"),
    "1.1": ("fire3", "fire5"),
}


class SqueezeNet(nn.Module):
    """Fire modules (squeeze, then expand in two ways), and a convolution as the head.

    Attributes:
        version: `1.0` and `1.1` are torchvision's; `caffe` is the original 1.0, whose
            last convolution pads by 1 before its 1x1 window.
        num_classes: number of logits; 0 or None leaves the head away.
        dropout: share of the values dropped before the head in training.
        dtype: type of the computation (the parameters stay float32).
    """

    version: Literal["1.0", "1.1", "caffe"] = "1.1"
    num_classes: int | None = 1000
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints: `conv1`, `fire2` to `fire9`, `features` f32[B, h, w, 512],
        `logits`. Without a head the output is `features`.
        """
        endpoints: dict[str, jax.Array] = {}
        small = self.version == "1.1"
        x = layers.Conv(
            64 if small else 96,
            (3, 3) if small else (7, 7),
            strides=2,
            padding="VALID",
            dtype=self.dtype,
            name="conv1",
        )(images)
        x = endpoints["conv1"] = nn.relu(x)
        x = ops.max_pool(x, 3, strides=2, ceil_mode=True)
        for name, (squeeze, expand) in FIRES.items():
            x = endpoints[name] = Fire(squeeze, expand, self.dtype, name=name)(x)
            if name in POOLS[self.version]:
                x = ops.max_pool(x, 3, strides=2, ceil_mode=True)
        endpoints["features"] = x
        if not self.num_classes:
            return x, endpoints
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = layers.Conv(
            self.num_classes,
            (1, 1),
            padding=1 if self.version == "caffe" else 0,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="logits",
        )(x)
        x = endpoints["logits"] = jnp.mean(nn.relu(x), axis=(1, 2))
        return x, endpoints


class Fire(nn.Module):
    """1x1 convolution, then 1x1 and 3x3 convolutions side by side.

    Attributes:
        squeeze: kernels of the first.
        expand: kernels of each of the other two.
        dtype: type of the computation.
    """

    squeeze: int
    expand: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[B, H, W, C] to f32[B, H, W, 2 * expand]."""

        def conv(features: int, size: int, name: str) -> layers.Conv:
            return layers.Conv(
                features,
                (size, size),
                kernel_init=nn.initializers.he_uniform(),
                dtype=self.dtype,
                name=name,
            )

        x = nn.relu(conv(self.squeeze, 1, "squeeze")(x))
        sides = [conv(self.expand, 1, "expand1x1"), conv(self.expand, 3, "expand3x3")]
        return jnp.concatenate([nn.relu(side(x)) for side in sides], axis=-1)
