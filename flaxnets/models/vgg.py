"""VGG (Simonyan and Zisserman 2014, arXiv 1409.1556, table 1)."""

from typing import Any

import flax.linen as nn
import jax

from flaxnets import errors, ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

# Convolutions in each of the five blocks: the table's columns A, B, D and E.
_DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions and a max pooling, dense layers of 4096 and 4096.

    Attributes:
        depth: 11, 13, 16 or 19 layers with kernels.
        batch_norm: whether each convolution is followed by batch normalisation.
        num_classes: number of logits; 0 or None leaves the dense layers away.
        dropout: share of the values dropped after each hidden dense layer in training.
        dtype: type of the computation (the parameters stay float32).
    """

    depth: int = 16
    batch_norm: bool = False
    num_classes: int | None = 1000
    dropout: float = 0.5
    dtype: Any = None

    @property
    def convolutions(self) -> tuple[int, ...]:
        """How many convolutions each block has."""
        return _DEPTHS[self.depth]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints: `block1` to `block5` (before their pooling), `features`
        f32[B, h, w, 512] (7x7 for images of 224x224; other sizes are averaged to that
        for the dense layers), `dense1`, `dense2`, `logits`. Without a head the output
        is `features`.
        """
        if self.depth not in _DEPTHS:
            raise errors.ArgumentError(
                f"depth is {self.depth}, but VGG has one of {list(_DEPTHS)}"
            )
        endpoints: dict[str, jax.Array] = {}
        x = images
        blocks = zip(self.convolutions, WIDTHS, strict=True)
        for index, (depth, width) in enumerate(blocks, start=1):
            name = f"block{index}"
            x = Block(depth, width, self.batch_norm, self.dtype, name=name)(x, train)
            endpoints[name] = x
            x = ops.max_pool(x, 2)
        endpoints["features"] = x
        if not self.num_classes:
            return x, endpoints
        x = ops.adaptive_avg_pool(x, 7).reshape(x.shape[0], -1)
        draw = nn.initializers.normal(0.01)
        for name in ("dense1", "dense2"):
            x = nn.relu(
                nn.Dense(4096, True, self.dtype, kernel_init=draw, name=name)(x)
            )
            endpoints[name] = x
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(
            self.num_classes, True, self.dtype, kernel_init=draw, name="logits"
        )(x)
        endpoints["logits"] = x
        return x, endpoints


class Block(nn.Module):
    """3x3 convolutions of one width, each with its normalisation and ReLU."""

    depth: int
    width: int
    batch_norm: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps f32[B, H, W, C] to f32[B, H, W, width]."""
        for index in range(1, self.depth + 1):
            x = layers.Conv(
                self.width,
                (3, 3),
                kernel_init=layers.HE_FAN_OUT,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x)
            if self.batch_norm:
                norm = layers.BatchNorm(
                    unbiased=True, dtype=self.dtype, name=f"norm{index}"
                )
                x = norm(x, train)
            x = nn.relu(x)
        return x
