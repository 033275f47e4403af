"""One encoder, and a decoder for each kind of picture that it is to become."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets import errors
from flaxnets.models.autoencoder import (
    Code,
    Decoder,
    Encoder,
    Level,
    Unpooling,
    described,
)
from flaxnets.models.layers import Output


class SharedAutoencoder(nn.Module):
    """An encoder whose code several decoders take, each its mirror.

    Trained so that each decoder gives back its own kind of picture, it turns a picture
    of one kind into one of another: the encoder is the one's, the decoder the other's.
    The parameters are under `encoder` and `decoder_NAME`; see `Autoencoder` for what
    the descriptions mean.

    Attributes:
        levels: of the encoder; widths alone stand for one convolution and a pooling.
        channels: of the images.
        names: of the decoders.
        unpooling: see `Decoder`.
        bottleneck: numbers in the code; None for a map.
        dtype: type of the computation (the parameters stay float32).
    """

    levels: Sequence[Level | int] = (16, 32)
    channels: int = 1
    names: Sequence[str] = ("a", "b")
    unpooling: Unpooling = "nearest"
    bottleneck: int | None = None
    dtype: Any = None

    def setup(self) -> None:
        levels = described(self.levels)
        self.encoder = Encoder(levels, self.bottleneck, self.dtype)
        for name in self.names:
            decoder = Decoder(
                levels,
                self.channels,
                self.unpooling,
                self.bottleneck is not None,
                self.dtype,
            )
            setattr(self, f"decoder_{name}", decoder)

    def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
        """Maps images f32[B, H, W, channels] to what each decoder makes of each.

        Returns:
            Images f32[D, B, H, W, channels] in the order of `names`, and endpoints: the
            encoder's and the decoders', after `encoder/` and `decoder_NAME/`, and
            `output`.
        """
        del train
        code, down = self.encoder(images)
        endpoints = {f"encoder/{name}": value for name, value in down.items()}
        outputs = []
        for name in self.names:
            output, up = self._decoder(name)(code)
            outputs.append(output)
            endpoints |= {
                f"decoder_{name}/{level}": value for level, value in up.items()
            }
        output = jnp.stack(outputs)
        return output, {**endpoints, "output": output}

    def encode(self, images: jax.Array) -> Code:
        """Only the first half: `model.apply(variables, images, method="encode")`."""
        return self.encoder(images)[0]

    def decode(self, code: Code, name: str) -> jax.Array:
        """Only one of the second halves.

        Raises:
            ArgumentError: there is no decoder of that name.
        """
        return self._decoder(name)(code)[0]

    def translate(self, images: jax.Array, name: str) -> jax.Array:
        """What the decoder of that name makes of images f32[B, H, W, channels].

        Raises:
            ArgumentError: there is no decoder of that name.
        """
        return self.decode(self.encode(images), name)

    def own(self, images: jax.Array, names: Sequence[str]) -> jax.Array:
        """Several kinds of pictures in one pass, each through its own decoder.

        Args:
            images: f32[K, B, H, W, channels], one kind after the other.
            names: of the K decoders.

        Returns:
            f32[K, B, H, W, channels].

        Raises:
            ArgumentError: other than one name for each kind, or one of no decoder.
        """
        kinds, batch = images.shape[:2]
        if len(names) != kinds:
            raise errors.ArgumentError(
                f"there are {kinds} kinds of images, but {len(names)} decoders named: "
                f"{', '.join(names)}"
            )
        code = self.encode(images.reshape(kinds * batch, *images.shape[2:]))
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(kinds, batch, *leaf.shape[1:]),
            (code.values, code.switches),
        )
        found = []
        for kind, name in enumerate(names):
            values, switches = jax.tree.map(lambda leaf, kind=kind: leaf[kind], parts)
            found.append(self.decode(Code(values, code.shapes, switches), name))
        return jnp.stack(found)

    def _decoder(self, name: str) -> Decoder:
        if name not in self.names:
            raise errors.ArgumentError(
                f"there is no decoder {name!r}; there are {', '.join(self.names)}"
            )
        return getattr(self, f"decoder_{name}")
