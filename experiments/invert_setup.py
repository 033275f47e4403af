"""What is inverted: an encoder that stays as it is, and a decoder of one endpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments import cats_dogs_setup as setup
from experiments import commands
from flaxnets import data, models, params
from flaxnets.data import preprocessing
from flaxnets.models.autoencoder import Code, Unpooling
from flaxnets.models.mirrors import Mirror
from flaxnets.train import reconstruction
from flaxnets.train.evaluation import as_float, batches

# Activations of more bytes are computed anew in each step, instead of once.
MOST_BYTES = 4 << 30
# A channel's smallest deviation, as a share of all channels'.
FLOOR = 0.01
# The name of the CNN, which has sizes of its own and so is in no registry.
CNN = "cnn"


class Encoder(NamedTuple):
    """A network that is not trained.

    Attributes:
        module: the network.
        variables: its own.
        prepare: from images in [0, 1] to what it takes.
    """

    module: Any
    variables: Any
    prepare: Callable[[jax.Array], jax.Array]

    def fingerprint(self) -> str:
        """The SHA-256 of its variables."""
        return params.fingerprint(jax.device_get(self.variables))


def module_of(backbone: str, classes: int = 10) -> Any:
    """The network of that name: photographs' without its head, the CNN with it."""
    if backbone == CNN:
        return models.CNN(num_classes=classes)
    return models.build(backbone, num_classes=None)


def encoder_of(
    backbone: str,
    weights: str,
    dataset: data.Dataset,
    prepare: preprocessing.Preprocessing,
    seed: int,
) -> Encoder:
    """The network with its weights.

    Args:
        backbone: its name.
        weights: see `invert.Config.weights`.
        dataset: the pictures that it tells apart, all of them.
        prepare: what the weights ask for.
        seed: of random weights.

    Raises:
        ArgumentError: there are no such weights, or they are for other pictures.
    """
    shape = dataset.train.images.shape[1:]
    module = module_of(backbone, len(dataset.class_names))
    if weights == "none":
        variables = params.initialize(module, jax.random.key(seed), (1, *shape))
    elif backbone == CNN:
        variables = commands.network_of_run(
            "--weights", Path(weights), dataset, otherwise=", or none for random ones"
        )
    else:
        variables = setup.body(backbone, weights)
    return Encoder(module, variables, _unchanged if backbone == CNN else prepare.scaled)


def _unchanged(images: jax.Array) -> jax.Array:
    return images


class Inversion:
    """A decoder of an encoder's endpoint, and what it is trained on.

    Args:
        encoder: stays as it is.
        endpoint: what the decoder is given.
        images: uint8[N, H, W, C], by the first of which each channel of the activations
            is brought to mean zero and deviation one. They differ by orders of
            magnitude from network to network and from channel to channel, and a
            decoder that has to learn that first needs many times the steps.
        unpooling: the decoder's.

    Attributes:
        code_shape: of the endpoint, for one picture.
    """

    def __init__(
        self,
        encoder: Encoder,
        endpoint: str,
        images: np.ndarray,
        unpooling: Unpooling,
    ) -> None:
        self.mirror: Mirror = models.decoder_for(
            encoder.module, endpoint, channels=images.shape[-1], unpooling=unpooling
        )
        self._encoder = encoder
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._unravel: Callable[[jax.Array], Any]
        self._mean, self._deviation = np.float32(0), np.float32(1)
        first = jax.jit(self._held)(encoder.variables, images[:100])
        values = np.asarray(first[0])
        axes = tuple(range(values.ndim - 1))
        self._mean = values.mean(axis=axes, keepdims=True)
        deviation = values.std(axis=axes, keepdims=True)
        # A channel that is dead in these pictures may not be in others.
        self._deviation = np.maximum(deviation, FLOOR * values.std() + 1e-12)

        def flattened(tree: Any) -> jax.Array:
            flat, self._unravel = ravel_pytree(tree)
            return flat

        # Of one picture; nothing is computed.
        one = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), first
        )
        self._numbers = jax.eval_shape(flattened, one).size
        self._grey = float(images[:100].mean() / 255)
        self._stored = False
        self.code_shape = first[0].shape[1:]

    @property
    def map_size(self) -> tuple[int, ...] | None:
        """Height and width of the endpoint, None of a vector."""
        return None if self.mirror.decoder.bottleneck else self._shapes[-1]

    def _held(self, variables: Any, images: jax.Array) -> tuple[Any, ...]:
        """Activations, the places of maxima where they are needed, and the images."""
        floats = as_float(images)
        _, endpoints = self._encoder.module.apply(
            variables, self._encoder.prepare(floats)
        )
        code = self.mirror.code(floats, endpoints)
        # Plain numbers, known while this is traced.
        self._shapes = code.shapes
        wanted = self.mirror.decoder.unpooling == "max_unpool"
        values = (code.values - self._mean) / self._deviation
        return values, code.switches if wanted else (), images

    def seen(self, *splits: data.Split) -> list[data.Split]:
        """Splits as the decoder is trained on them.

        A row for each picture, of all that `_held` gives; the images themselves where
        all rows together are too large to be kept.
        """
        count = sum(len(split.labels) for split in splits)
        self._stored = 4 * self._numbers * count <= MOST_BYTES
        if not self._stored:
            return list(splits)
        rows = jax.jit(
            lambda variables, images: jax.vmap(lambda tree: ravel_pytree(tree)[0])(
                self._held(variables, images)
            )
        )

        def packed(images: np.ndarray) -> np.ndarray:
            found = np.empty((len(images), self._numbers), np.float32)
            for start, batch in batches(images, 100):
                part = np.asarray(rows(self._encoder.variables, batch))
                found[start : start + 100] = part[: len(images) - start]
            return found

        return [split._replace(images=packed(split.images)) for split in splits]

    def drawn(self, key: jax.Array) -> dict[str, Any]:
        """Variables that training begins with: the decoder's, newly drawn.

        It begins with one grey for every picture, the mean of the first of them: Adam
        takes hundreds of steps to find that, and to forget the noise that a last layer
        of random numbers draws.

        With those of the encoder in a collection of their own, which is not trained,
        where its activations are computed in each step.
        """

        def begun(key: jax.Array) -> Any:
            held = self._unravel(jnp.zeros(self._numbers))
            values, switches, _ = jax.tree.map(lambda leaf: leaf[None], held)
            made: Any = self.mirror.decoder.init(
                key, Code(values, self._shapes, switches)
            )
            for layer in made["params"].values():
                # He et al. 2015 (arXiv 1502.01852): without it each ReLU halves the
                # variance, and nothing of it arrives through ten layers.
                layer["kernel"] = layer["kernel"] * math.sqrt(2)
            last = made["params"]["level1_conv1"]
            last["kernel"] = jnp.zeros_like(last["kernel"])
            last["bias"] = jnp.full_like(last["bias"], self._grey)
            return made

        made = jax.jit(begun)(key)
        if self._stored:
            return made
        # Copies, since training gives its buffers away.
        return {**made, "encoder": jax.tree.map(jnp.copy, self._encoder.variables)}

    def apply(
        self,
        variables: Any,
        given: jax.Array,
        *,
        train: bool = False,
        rngs: Any = None,
        mutable: Any = False,
    ) -> Any:
        """Images from what `seen` gave, and beside them the `original` ones.

        As a Linen module's `apply`; nothing here differs in training or is random.
        """
        del train, rngs
        if self._stored:
            held = jax.vmap(self._unravel)(given)
        else:
            held = self._held(variables["encoder"], given)
        values, switches, images = held
        code = Code(values, self._shapes, switches)
        restored, _ = self.mirror.decoder.apply({"params": variables["params"]}, code)
        output = restored, {"original": images}
        if mutable is False:
            return output
        return output, {name: variables[name] for name in mutable}


def resized(images: np.ndarray, size: tuple[int, ...] | None) -> dict[str, float]:
    """PSNR and SSIM of pictures made smaller and larger again, by cubic filters.

    Args:
        images: uint8[N, H, W, C].
        size: to which they are made smaller; where there is none, or it is their own,
            nothing is to be said.
    """
    if size is None or size == images.shape[1:3]:
        return {}

    def measured(images: jax.Array) -> dict[str, jax.Array]:
        floats = as_float(images)
        shape = (len(images), *size, images.shape[-1])
        small = jax.image.resize(floats, shape, "cubic")
        large = jax.image.resize(small, floats.shape, "cubic")
        return reconstruction.likeness(large, floats)

    return _means(measured, images)


def mean_picture(dataset: data.Dataset) -> dict[str, float]:
    """PSNR and SSIM of the training pictures' mean, taken for each test picture."""
    mean = np.mean(dataset.train.images, axis=0, dtype=np.float64) / 255

    def measured(images: jax.Array) -> dict[str, jax.Array]:
        floats = as_float(images)
        same = jnp.broadcast_to(jnp.asarray(mean, jnp.float32)[None], floats.shape)
        return reconstruction.likeness(same, floats)

    return _means(measured, dataset.test.images)


def _means(
    measured: Callable[[jax.Array], dict[str, jax.Array]], images: np.ndarray
) -> dict[str, float]:
    compiled = jax.jit(measured)
    parts = [
        {
            name: value[: len(images) - start]
            for name, value in jax.device_get(compiled(batch)).items()
        }
        for start, batch in batches(images, 100)
    ]
    return {
        name: float(np.mean(np.concatenate([part[name] for part in parts])))
        for name in parts[0]
    }
