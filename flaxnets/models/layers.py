"""`ops` as Linen modules, with flax.linen's parameter names and shapes."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from flaxnets import ops
from flaxnets.ops.convolution import Padding


class Conv(nn.Module):
    """A convolution with the parameters of `flax.linen.Conv`.

    Attributes:
        features: number of kernels.
        kernel_size: the window, one number a spatial dimension.
        strides, padding, dilation, groups: as for `ops.conv`.
        use_bias: whether a bias is added.
        kernel_init: draws the kernel.
        dtype: type of the computation (the parameters stay float32).
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, *spatial, C] to [B, *output spatial, features]."""
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        dtype = self.dtype or jnp.result_type(x, kernel)
        y = ops.conv(
            x.astype(dtype),
            kernel.astype(dtype),
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if bias is None:
            return y
        return y + jnp.reshape(bias.astype(dtype), (1,) * (y.ndim - 1) + (-1,))
