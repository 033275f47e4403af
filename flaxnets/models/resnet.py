"""ResNet (He et al. 2015, arXiv 1512.03385, table 1), in its two common forms."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets import errors, ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

# Units in each of the four blocks, and whether a unit has three convolutions.
_DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """Residual units with batch normalisation.

    Attributes:
        depth: 18, 34, 50, 101 or 152 layers with kernels.
        version: `1.5` is torchvision's: a halving unit strides in its 3x3 convolution.
            `1` is the paper's and Keras's: it strides in its first, 1x1; as in Keras,
            convolutions have biases, and normalisation Keras's epsilon and momentum.
            With 18 and 34 layers, where Keras has none, only those differ.
        num_classes: number of logits; 0 or None leaves the head away.
        dtype: type of the computation (the parameters stay float32).
    """

    depth: int = 50
    version: Literal["1", "1.5"] = "1.5"
    num_classes: int | None = 1000
    dtype: Any = None

    @property
    def units(self) -> tuple[int, ...]:
        """How many units each block has."""
        return _DEPTHS[self.depth][0]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints: `stem` (before its pooling), `block1` to `block4`, `features`
        (the last of them, f32[B, h, w, 512] or 2048), `logits`. Without a head the
        output is `features`.
        """
        if self.depth not in _DEPTHS:
            raise errors.ArgumentError(
                f"depth is {self.depth}, but ResNet has one of {list(_DEPTHS)}"
            )
        endpoints: dict[str, jax.Array] = {}
        unit = conv_norm(64, 7, 2, self.version, self.dtype, name="stem")
        x = endpoints["stem"] = nn.relu(unit(images, train))
        x = ops.max_pool(x, 3, strides=2, padding=1)
        depths, bottleneck = _DEPTHS[self.depth]
        for index, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True)):
            name = f"block{index + 1}"
            stride = 1 if index == 0 else 2
            block = Block(
                depth, width, stride, bottleneck, self.version, self.dtype, name=name
            )
            x = endpoints[name] = block(x, train)
        endpoints["features"] = x
        if not self.num_classes:
            return x, endpoints
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="logits")(x)
        endpoints["logits"] = x
        return x, endpoints


def conv_norm(
    width: int, size: int, stride: int, version: str, dtype: Any, *, name: str
) -> layers.ConvNorm:
    """A convolution and its batch normalisation, torchvision's or Keras's."""
    keras = version == "1"
    return layers.ConvNorm(
        width,
        size,
        stride,
        use_bias=keras,
        epsilon=1.001e-5 if keras else 1e-5,
        momentum=0.99 if keras else 0.9,
        unbiased=not keras,
        dtype=dtype,
        name=name,
    )


class Block(nn.Module):
    """Units of one width, of which the first may halve the map."""

    depth: int
    width: int
    stride: int
    bottleneck: bool
    version: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps f32[B, H, W, C] to f32[B, H / stride, W / stride, width (times 4)]."""
        for index in range(self.depth):
            x = Unit(
                self.width,
                self.stride if index == 0 else 1,
                self.bottleneck,
                self.version,
                self.dtype,
                name=f"unit{index + 1}",
            )(x, train)
        return x


class Unit(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, around which the input passes."""

    width: int
    stride: int
    bottleneck: bool
    version: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps f32[B, H, W, C] to f32[B, H / stride, W / stride, width (times 4)]."""

        def unit(width: int, size: int, stride: int, name: str) -> layers.ConvNorm:
            return conv_norm(width, size, stride, self.version, self.dtype, name=name)

        width, stride = self.width, self.stride
        if self.bottleneck:
            first, middle = (stride, 1) if self.version == "1" else (1, stride)
            units = [
                unit(width, 1, first, "conv1"),
                unit(width, 3, middle, "conv2"),
                unit(4 * width, 1, 1, "conv3"),
            ]
        else:
            units = [unit(width, 3, stride, "conv1"), unit(width, 3, 1, "conv2")]
        y = x
        for layer in units[:-1]:
            y = nn.relu(layer(y, train))
        y = units[-1](y, train)
        if stride != 1 or x.shape[-1] != y.shape[-1]:
            x = unit(y.shape[-1], 1, stride, "shortcut")(x, train)
        return nn.relu(x + y)
