"""AlexNet in the form of "One weird trick" (Krizhevsky 2014, arXiv 1404.5997)."""

from typing import Any

import flax.linen as nn
import jax

from flaxnets import ops
from flaxnets.models import layers
from flaxnets.models.layers import Output

# Kernels, window, stride, padding of each convolution, as torchvision has them.
_CONVOLUTIONS = (
    (64, 11, 4, 2),
    (192, 5, 1, 2),
    (384, 3, 1, 1),
    (256, 3, 1, 1),
    (256, 3, 1, 1),
)
_POOLED = (1, 2, 5)


class AlexNet(nn.Module):
    """Five convolutions, three max poolings, dense layers of 4096 and 4096.

    Attributes:
        num_classes: number of logits; 0 or None leaves the dense layers away.
        dropout: share of the values dropped before each hidden dense layer in training.
        dtype: type of the computation (the parameters stay float32).
    """

    num_classes: int | None = 1000
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, C] to logits f32[B, num_classes] and endpoints.

        The endpoints: `conv1` to `conv5`, `features` f32[B, h, w, 256] (6x6 for images
        of 224x224; other sizes are averaged to that for the dense layers), `dense1`,
        `dense2`, `logits`. Without a head the output is `features`.
        """
        endpoints: dict[str, jax.Array] = {}
        x = images
        for index, (width, size, stride, padding) in enumerate(_CONVOLUTIONS, start=1):
            x = layers.Conv(
                width,
                (size, size),
                strides=stride,
                padding=padding,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x)
            x = endpoints[f"conv{index}"] = nn.relu(x)
            if index in _POOLED:
                x = ops.max_pool(x, 3, strides=2)
        endpoints["features"] = x
        if not self.num_classes:
            return x, endpoints
        x = ops.adaptive_avg_pool(x, 6).reshape(x.shape[0], -1)
        for name in ("dense1", "dense2"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(4096, dtype=self.dtype, name=name)(x))
            endpoints[name] = x
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="logits")(x)
        endpoints["logits"] = x
        return x, endpoints
