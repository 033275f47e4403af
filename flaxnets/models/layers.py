"""`ops` as Linen modules, with flax.linen's parameter names and shapes."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from flaxnets import ops
from flaxnets.ops.convolution import Padding
from flaxnets.ops.transposed import Fill

# What every model returns: its output, and its activations by name.
Output = tuple[jax.Array, dict[str, jax.Array]]

# He et al. 2015 (arXiv 1502.01852), keeping the variance of the backward pass, as
# torchvision draws the kernels of VGG and ResNet.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


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
        x, kernel = _with_kernel(self, x, x.shape[-1] // self.groups)
        y = ops.conv(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return _with_bias(self, y)


class UnpooledConv(nn.Module):
    """Un-pooling and a convolution with the parameters of `flax.linen.Conv`.

    Attributes:
        features: number of kernels.
        kernel_size: the window, one number a spatial dimension.
        factor, fill: as for `ops.unpooled_conv`.
        use_bias: whether a bias is added.
        kernel_init: draws the kernel.
        dtype: type of the computation (the parameters stay float32).
    """

    features: int
    kernel_size: Sequence[int]
    factor: int | Sequence[int]
    fill: Fill
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, *spatial, C] to [B, *spatial * factor, features]."""
        x, kernel = _with_kernel(self, x, x.shape[-1])
        y = ops.unpooled_conv(x, kernel, self.factor, self.fill)
        return _with_bias(self, y)


def _with_kernel(
    layer: "Conv | ConvTranspose | UnpooledConv", x: jax.Array, channels: int
) -> tuple[jax.Array, jax.Array]:
    """The input and the layer's kernel, in the type of the computation."""
    shape = (*layer.kernel_size, channels, layer.features)
    kernel = layer.param("kernel", layer.kernel_init, shape)
    dtype = layer.dtype or jnp.result_type(x, kernel)
    return x.astype(dtype), kernel.astype(dtype)


def _with_bias(layer: "Conv | ConvTranspose | UnpooledConv", y: jax.Array) -> jax.Array:
    """Adds the layer's bias, where it has one; without rank promotion."""
    if not layer.use_bias:
        return y
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return y + jnp.reshape(bias.astype(y.dtype), (1,) * (y.ndim - 1) + (-1,))


class ConvTranspose(nn.Module):
    """A transposed convolution with the parameters of `flax.linen.ConvTranspose`.

    Attributes:
        features: channels of the output.
        kernel_size: the window, one number a spatial dimension.
        strides, padding, output_padding, dilation: as for `ops.conv_transpose`.
        use_bias: whether a bias is added.
        kernel_init: draws the kernel.
        dtype: type of the computation (the parameters stay float32).
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    output_padding: int | Sequence[int] | None = None
    dilation: int | Sequence[int] = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, *spatial, C] to [B, *output spatial, features]."""
        x, kernel = _with_kernel(self, x, x.shape[-1])
        y = ops.conv_transpose(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
        )
        return _with_bias(self, y)


class BatchNorm(nn.Module):
    """Batch normalisation with the parameters of `flax.linen.BatchNorm`.

    Ioffe and Szegedy 2015 (arXiv 1502.03167). In training the running statistics move
    by `1 - momentum` towards the batch's; PyTorch calls that share its momentum.

    Attributes:
        epsilon: added to the variance.
        momentum: share of the running statistics that a step keeps.
        unbiased: whether the running variance is moved towards the batch's unbiased
            estimate, as PyTorch's is, or towards the variance itself, as Keras's is.
        dtype: type of the computation (parameters and statistics stay float32).
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises [..., C], by the batch in training and else by what was stored."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        used = mean.value, var.value
        if train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            used = jnp.mean(wide, axes), jnp.var(wide, axes)
            if not self.is_initializing():
                count = x.size // features
                excess = count / max(1, count - 1) if self.unbiased else 1.0
                batch = used[0], used[1] * excess
                for stored, now in zip((mean, var), batch, strict=True):
                    kept = self.momentum * stored.value
                    stored.value = kept + (1 - self.momentum) * now
        # One factor and one addend a channel: the fewest operations on the map.
        factor = scale * jax.lax.rsqrt(used[1] + self.epsilon)
        addend = bias - used[0] * factor
        dtype = self.dtype or jnp.result_type(x, scale)
        channels = (1,) * (x.ndim - 1) + (features,)
        factor, addend = (v.reshape(channels).astype(dtype) for v in (factor, addend))
        return x.astype(dtype) * factor + addend


class ConvNorm(nn.Module):
    """A square convolution, padded by half its window, and its batch normalisation.

    Attributes:
        features: number of kernels.
        size: height and width of the window.
        stride: of the window.
        use_bias: whether the convolution adds a bias.
        epsilon, momentum, unbiased: as for `BatchNorm`, by default as in PyTorch.
        dtype: type of the computation (parameters and statistics stay float32).
    """

    features: int
    size: int
    stride: int = 1
    use_bias: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        x = Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            use_bias=self.use_bias,
            kernel_init=HE_FAN_OUT,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = BatchNorm(
            self.epsilon, self.momentum, self.unbiased, self.dtype, name="norm"
        )
        return norm(x, train)
