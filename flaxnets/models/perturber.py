"""An encoder-decoder that makes the noise by which a classifier is misled."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.models.autoencoder import Decoder, Encoder, Level, Unpooling, described
from flaxnets.models.layers import Output

# Half the distance of float32 numbers just below 1: how far `images + noise` may be
# rounded away from the images, where it stays in [0, 1].
_ROUNDING = 2.0**-25


class Perturber(nn.Module):
    """Noise for pictures, made in one pass by an encoder and its mirror.

    The generator of AdvGAN (Xiao et al. 2018, arXiv 1801.02610) and of Wang and Yu 2019
    (arXiv 1905.09591), whose noise is bounded by its last activation. What it is told
    besides the pictures is added to the encoder's code, as a trained vector for each
    class and as a linear map of the random numbers.

    Attributes:
        levels: of the encoder; widths alone stand for one convolution and a pooling.
        channels: of the images.
        epsilon: the largest change of a value, in units of pictures in [0, 1]; None for
            noise without a bound, whose norm the loss then has to limit. `perturbed`
            never moves a picture in [0, 1] farther than this, as real numbers.
        classes: how many classes it can be told to aim at; None tells it nothing.
        latent: how many random numbers it is given, so that a picture can be changed
            in several ways; None for one way.
        unpooling: see `Decoder`.
        bottleneck: numbers in the code; None for a map.
        dtype: type of the computation (the parameters and the noise stay float32).
    """

    levels: Sequence[Level | int] = (16, 32)
    channels: int = 1
    epsilon: float | None = 0.3
    classes: int | None = None
    latent: int | None = None
    unpooling: Unpooling = "nearest"
    bottleneck: int | None = None
    dtype: Any = None

    def setup(self) -> None:
        levels = described(self.levels)
        self.encoder = Encoder(levels, self.bottleneck, self.dtype)
        self.decoder = Decoder(
            levels,
            self.channels,
            self.unpooling,
            self.bottleneck is not None,
            self.dtype,
        )
        width = self.bottleneck or levels[-1].widths[-1]
        if self.classes is not None:
            self.target_embedding = nn.Embed(self.classes, width, dtype=self.dtype)
        if self.latent is not None:
            self.latent_projection = nn.Dense(width, dtype=self.dtype)

    def __call__(
        self,
        images: jax.Array,
        targets: jax.Array | None = None,
        latents: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> Output:
        """Maps images f32[B, H, W, channels] in [0, 1] to noise of their shape.

        Args:
            images: not normalised.
            targets: int[B] classes to aim at, where it was made with `classes`.
            latents: f32[B, latent], where it was made with `latent`; by default drawn
                from a normal distribution with the `latent` key.
            train: changes nothing.

        Returns:
            The noise, to be given to `perturbed`, and endpoints: the encoder's and the
            decoder's, after `encoder/` and `decoder/`, and `noise`.

        Raises:
            ArgumentError: an epsilon that is no bound, or targets and latents that do
                not fit how it was made.
        """
        del train
        code, down = self.encoder(images)
        values = self._told(code.values, targets, latents)
        output, up = self.decoder(code.replace(values=values))
        noise = output.astype(jnp.float32)
        if self.epsilon is not None:
            noise = bounded(noise, self.epsilon)
        endpoints = {f"encoder/{name}": value for name, value in down.items()}
        endpoints |= {f"decoder/{name}": value for name, value in up.items()}
        return noise, {**endpoints, "noise": noise}

    def _told(
        self, values: jax.Array, targets: jax.Array | None, latents: jax.Array | None
    ) -> jax.Array:
        """The code, with what the decoder is told added to it."""
        count = values.shape[0]
        # Parameters are drawn from pictures alone.
        if self.is_initializing():
            if targets is None and self.classes is not None:
                targets = jnp.zeros(count, jnp.int32)
            if latents is None and self.latent is not None:
                latents = jnp.zeros((count, self.latent))
        if (targets is None) != (self.classes is None):
            given = "no targets" if targets is None else "targets"
            raise errors.ArgumentError(
                f"the perturber was given {given}, but was made with "
                f"classes={self.classes}; give targets exactly where it has classes"
            )
        if self.latent is None and latents is not None:
            raise errors.ArgumentError(
                "the perturber was given latents, but was made with latent=None; "
                "leave them out, or make it with their number"
            )
        if self.latent is not None and latents is None:
            if not self.has_rng("latent"):
                raise errors.ArgumentError(
                    f"the perturber was made with latent={self.latent}, but was given "
                    "neither latents nor rngs={'latent': key}"
                )
            latents = jax.random.normal(
                self.make_rng("latent"), (count, self.latent), jnp.float32
            )
        added = [1] * (values.ndim - 2)
        if targets is not None:
            told = self.target_embedding(targets)
            values = values + told.reshape(count, *added, -1)
        if latents is not None:
            told = self.latent_projection(latents)
            values = values + told.reshape(count, *added, -1)
        return values


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def cut(values: jax.Array, low: float, high: float) -> jax.Array:
    """Values cut to [low, high], with a gradient that leads back inside.

    In reverse mode a value that was cut has a gradient where a step against it does not
    lead farther out. With none there, as of `clip`, or next to none, as of tanh, a
    generator that once makes black pixels blacker, or all noise as large as it may be,
    learns nothing from them any more.
    """
    return jnp.clip(values, low, high)


def _cut_forward(
    values: jax.Array, low: float, high: float
) -> tuple[jax.Array, jax.Array]:
    return cut(values, low, high), values


def _cut_backward(
    low: float, high: float, values: jax.Array, slope: jax.Array
) -> tuple[jax.Array]:
    outward = (values < low) & (slope > 0) | (values > high) & (slope < 0)
    return (jnp.where(outward, 0, slope),)


cut.defvjp(_cut_forward, _cut_backward)


def perturbed(images: jax.Array, noise: jax.Array) -> jax.Array:
    """What is shown to the classifier: images + noise, cut to [0, 1] (see `cut`)."""
    return cut(images + noise, 0.0, 1.0)


def bounded(values: jax.Array, epsilon: float) -> jax.Array:
    """epsilon times values that are cut to [-1, 1] (see `cut`), a rounding error less.

    So that `perturbed` moves no value in [0, 1] by more than epsilon, as real numbers.

    Raises:
        ArgumentError: an epsilon that is no bound.
    """
    if not (math.isfinite(epsilon) and _ROUNDING < epsilon <= 1):
        raise errors.ArgumentError(
            f"epsilon is {epsilon}, but must be above {_ROUNDING:.0e} and at most 1, "
            "in units of pictures in [0, 1]; give None for noise without a bound"
        )
    allowed = epsilon - _ROUNDING
    largest = np.float32(allowed)
    if float(largest) > allowed:
        largest = np.nextafter(largest, np.float32(0))
    return jnp.multiply(largest, cut(values, -1.0, 1.0))
