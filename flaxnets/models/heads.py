"""New heads on the bodies of other networks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets.models.layers import Output


class Head(nn.Module):
    """Dense layers over a map: the lecture's flattens it and has one hidden layer.

    The last layer begins at zero, so that training begins from the same guess for
    every picture and not from a random one (Kolesnikov et al. 2020, "Big Transfer",
    whose heads begin so): with ten pictures a class that is worth several points.

    Attributes:
        num_classes: number of logits.
        pooling: `flatten` keeps every pixel, `mean` averages over them.
        hidden: widths of the hidden layers; () for a linear classifier.
        dropout: share of the values dropped before each layer in training.
        normalize: whether each picture's values are brought to a root mean square of
            one first, so that learning rates do not depend on the body.
        dtype: type of the computation (the parameters stay float32).
    """

    num_classes: int
    pooling: Literal["flatten", "mean"] = "flatten"
    hidden: Sequence[int] = (50,)
    dropout: float = 0.0
    normalize: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps f32[B, ..., C] to logits f32[B, num_classes]."""
        if self.pooling == "mean":
            x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
        x = x.reshape(x.shape[0], -1)
        if self.normalize:
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-12)
        for index, width in enumerate(self.hidden, start=1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{index}")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="logits",
        )(x)


class WithHead(nn.Module):
    """A network without a head, and a head for it.

    The parameters are those of the two, under `backbone` and `head`.

    Attributes:
        backbone: a module that maps images to a map or vector, or to that and
            endpoints, and takes `train`, such as `models.build("vgg16",
            num_classes=None)`.
        head: a module that maps what the backbone returns to logits, and takes
            `train`.
        prepare: what is done to images f32[B, H, W, C] in [0, 1] first, such as
            `Preprocessing.scaled` of the backbone's weights.
    """

    backbone: nn.Module
    head: nn.Module
    prepare: Callable[[jax.Array], jax.Array] | None = None

    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images to logits, and the backbone's endpoints and `logits`."""
        if self.prepare is not None:
            images = self.prepare(images)
        found: Any = self.backbone(images, train=train)
        x, endpoints = found if isinstance(found, tuple) else (found, {})
        logits = self.head(x, train=train)
        return logits, {**endpoints, "logits": logits}
