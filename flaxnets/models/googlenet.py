"""GoogLeNet with batch normalisation, as torchvision has it.

Szegedy et al. 2014 (arXiv 1409.4842, table 1) and Ioffe and Szegedy 2015. torchvision's
weights were made with a 3x3 window where the paper has 5x5 (pytorch/vision#906).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

# Kernels of each inception module: 1x1; 3x3 reduced, 3x3; "5x5" reduced, "5x5"; after
# the pooling.
_INCEPTIONS = {
    "inception3a": (64, (96, 128), (16, 32), 32),
    "inception3b": (128, (128, 192), (32, 96), 64),
    "inception4a": (192, (96, 208), (16, 48), 64),
    "inception4b": (160, (112, 224), (24, 64), 64),
    "inception4c": (128, (128, 256), (24, 64), 64),
    "inception4d": (112, (144, 288), (32, 64), 64),
    "inception4e": (256, (160, 320), (32, 128), 128),
    "inception5a": (256, (160, 320), (32, 128), 128),
    "inception5b": (384, (192, 384), (48, 128), 128),
}
# What halves the map after a module: the window of the pooling.
_POOLS = {"inception3b": 3, "inception4e": 2}
_AUXILIARY = {"inception4a": "auxiliary1", "inception4d": "auxiliary2"}

# From ImageNet's mean and deviation to a mean and deviation of 0.5.
_SCALE = np.array([0.229, 0.224, 0.225], np.float32) / 0.5
_SHIFT = (np.array([0.485, 0.456, 0.406], np.float32) - 0.5) / 0.5


class GoogLeNet(nn.Module):
    """Inception modules with batch normalisation.

    Attributes:
        num_classes: number of logits; 0 or None leaves all heads away.
        auxiliary: whether there are the two auxiliary classifiers.
        transform_input: renormalise images from ImageNet's mean and deviation to 0.5
            and 0.5, with which torchvision's weights were made.
        dropout: share of the values dropped before the head in training.
        dtype: type of the computation (the parameters stay float32).
    """

    num_classes: int | None = 1000
    auxiliary: bool = True
    transform_input: bool = False
    dropout: float = 0.2
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints: `conv1` to `conv3`, `inception3a` to `inception5b`, `auxiliary1`
        and `auxiliary2` (logits, f32[B, num_classes]), `features` f32[B, h, w, 1024],
        `logits`. Without a head the output is `features`.
        """
        endpoints: dict[str, jax.Array] = {}

        x = images
        if self.transform_input:
            x = x * jnp.asarray(_SCALE, x.dtype).reshape(1, 1, 1, 3)
            x = x + jnp.asarray(_SHIFT, x.dtype).reshape(1, 1, 1, 3)
        x = endpoints["conv1"] = conv_norm(
            x, train, 64, 7, "conv1", self.dtype, stride=2
        )
        x = ops.max_pool(x, 3, strides=2, ceil_mode=True)
        x = endpoints["conv2"] = conv_norm(x, train, 64, 1, "conv2", self.dtype)
        x = endpoints["conv3"] = conv_norm(x, train, 192, 3, "conv3", self.dtype)
        x = ops.max_pool(x, 3, strides=2, ceil_mode=True)
        for name, widths in _INCEPTIONS.items():
            x = endpoints[name] = Inception(*widths, self.dtype, name=name)(x, train)
            if self.auxiliary and self.num_classes and name in _AUXILIARY:
                head = _AUXILIARY[name]
                endpoints[head] = Auxiliary(self.num_classes, self.dtype, name=head)(
                    x, train
                )
            if name in _POOLS:
                x = ops.max_pool(x, _POOLS[name], strides=2, ceil_mode=True)
        endpoints["features"] = x
        if not self.num_classes:
            return x, endpoints
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="logits")(x)
        endpoints["logits"] = x
        return x, endpoints


def conv_norm(
    x: jax.Array, train: bool, width: int, size: int, name: str, dtype: Any, stride=1
) -> jax.Array:
    """A convolution without bias, batch normalisation, ReLU."""
    layer = layers.ConvNorm(width, size, stride, epsilon=1e-3, dtype=dtype, name=name)
    return nn.relu(layer(x, train))


class Inception(nn.Module):
    """Four ways side by side: 1x1, 3x3, 3x3 again (the paper's 5x5), and a pooling."""

    way1: int
    way2: tuple[int, int]
    way3: tuple[int, int]
    way4: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps f32[B, H, W, C] to f32[B, H, W, sum of the ways' widths]."""

        def unit(x: jax.Array, width: int, size: int, name: str) -> jax.Array:
            return conv_norm(x, train, width, size, name, self.dtype)

        first = unit(x, self.way1, 1, "way1")
        second = unit(unit(x, self.way2[0], 1, "way2_reduce"), self.way2[1], 3, "way2")
        third = unit(unit(x, self.way3[0], 1, "way3_reduce"), self.way3[1], 3, "way3")
        pooled = ops.max_pool(x, 3, strides=1, padding=1)
        fourth = unit(pooled, self.way4, 1, "way4")
        return jnp.concatenate([first, second, third, fourth], axis=-1)


class Auxiliary(nn.Module):
    """A classifier on a map in the middle, for training only."""

    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps f32[B, H, W, C] to logits f32[B, num_classes]."""
        x = ops.adaptive_avg_pool(x, 4)
        x = conv_norm(x, train, 128, 1, "conv", self.dtype)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(1024, dtype=self.dtype, name="dense")(x))
        x = nn.Dropout(0.7, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="logits")(x)
