"""A convolution whose kernel's largest singular value is held at one."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from flaxnets import ops
from flaxnets.ops.convolution import Padding


class SpectralConv(nn.Module):
    """A convolution with spectral normalisation.

    Miyato et al. 2018 (arXiv 1802.05957), algorithm 1: the kernel, as a matrix of
    [window * inputs, features], is divided by an estimate of its largest singular
    value, which one step of power iteration makes in each training step. The estimate
    is differentiated as a function of the kernel, for the vectors it was made with.

    `flax.linen.SpectralNorm` does the same, but names what it stores with slashes,
    which are what separates the parts of a name here.

    Attributes:
        features: number of kernels.
        kernel_size: the window, one number a spatial dimension.
        strides, padding: as for `ops.conv`.
        kernel_init: draws the kernel.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, *spatial, C] to [B, *output spatial, features].

        In training the stored left-over of the power iteration moves on by a step.
        """
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        singular = self.variable(
            "batch_stats",
            "singular",
            lambda: _unit(jax.random.normal(self.make_rng("params"), (self.features,))),
        )
        matrix = kernel.reshape(-1, self.features)
        right = singular.value
        fixed = jax.lax.stop_gradient(matrix)
        left = _unit(fixed @ right)
        if train:
            right = _unit(left @ fixed)
            if not self.is_initializing():
                singular.value = right
        largest = left @ matrix @ right
        y = ops.conv(x, kernel / largest, strides=self.strides, padding=self.padding)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _unit(vector: jax.Array) -> jax.Array:
    # As in PyTorch, so that a kernel of zeros gives zeros and not NaN.
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
