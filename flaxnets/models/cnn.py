"""The lecture's convolutional network for small pictures."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.nn.initializers import Initializer

from flaxnets import errors, ops
from flaxnets.models import layers


class CNN(nn.Module):
    """3x3 SAME convolutions with ReLU, 2x2 max pooling, dense layers, logits.

    With its defaults on 28x28x1 pictures it is the lecture's network of 1,897,226
    parameters: convolutions with 16, 32 and 64 kernels, pooling after the first two,
    dense layers of 512, 512 and 10.

    Attributes:
        num_classes: number of logits; 0 or None leaves the last layer away.
        widths: kernels of each convolution, first to last.
        pools: how many of the first convolutions are followed by 2x2 max pooling.
        dense: widths of the hidden dense layers.
        dropout: share of the units dropped before each hidden dense layer in training.
        kernel_init: draws the kernels (Keras's default is `glorot_uniform`).
        dtype: type of the computation (the parameters stay float32).
    """

    num_classes: int | None = 10
    widths: Sequence[int] = (16, 32, 64)
    pools: int = 2
    dense: Sequence[int] = (512, 512)
    dropout: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints, in order: `conv1`, `pool1`, ..., `features` f32[B, F] (the last
        map, flattened), `dense1`, ..., `logits`. Without a last layer the output is
        the last `dense`. With `train=True` and dropout, a `dropout` key is needed.
        Pictures smaller than the pooling allows raise ArgumentError.
        """
        if min(images.shape[1:3]) < 2**self.pools:
            raise errors.ArgumentError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are too small "
                f"for {self.pools} poolings by 2: at least {2**self.pools} pixels a "
                "side are needed; give larger images or fewer pools"
            )
        endpoints: dict[str, jax.Array] = {}
        options: dict[str, Any] = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        x = images
        for index, width in enumerate(self.widths, start=1):
            x = layers.Conv(width, (3, 3), **options, name=f"conv{index}")(x)
            x = endpoints[f"conv{index}"] = nn.relu(x)
            if index <= self.pools:
                x = endpoints[f"pool{index}"] = ops.max_pool(x, 2)
        x = endpoints["features"] = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.dense, start=1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.Dense(width, **options, name=f"dense{index}")(x)
            x = endpoints[f"dense{index}"] = nn.relu(x)
        if not self.num_classes:
            return x, endpoints
        x = nn.Dense(self.num_classes, **options, name="logits")(x)
        endpoints["logits"] = x
        return x, endpoints
