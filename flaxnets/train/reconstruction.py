"""Training networks that give images back: the loss, and what the images are worth."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.train import compiling, losses, similarity
from flaxnets.train.evaluation import Apply, as_float, batches
from flaxnets.train.state import Batch, Loss, Metrics, Tree

# What PSNR is taken to be where there is no error, or hardly any.
MOST_DECIBELS = 100.0

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""`(images, targets f32[B, H, W, C]) -> f32[B]`, zero where they are equal."""
Change = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, images f32[B, H, W, C]) -> images`, such as `flaxnets.data.corruption`'s."""


def reconstruction(
    apply: Apply,
    *,
    distance: Distance = losses.mean_squared_error,
    corrupt: Change | None = None,
    augment: Change | None = None,
    target: str | None = None,
) -> Loss:
    """The loss of a network that gives its input back, or restores what it was.

    Args:
        apply: a Linen module's `apply`, returning `(images, endpoints)`.
        distance: from what comes out to what should have.
        corrupt: changes what goes in, and not what should come out.
        augment: changes both.
        target: the endpoint that holds what should come out, for networks that are
            given something else than images; by default it is what went in.

    Returns:
        As `losses.classification`; labels are not used, and the metric is `loss`.
    """

    def loss(
        params: Tree, statistics: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        augment_key, corrupt_key, dropout_key = jax.random.split(key, 3)
        images = as_float(batch["image"])
        if augment is not None:
            images = augment(augment_key, images)
        given = images if corrupt is None else corrupt(corrupt_key, images)
        (restored, endpoints), changed = apply(
            {"params": params, **statistics},
            given,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=list(statistics),
        )
        wanted = images if target is None else as_float(endpoints[target])
        value = distance(restored.astype(jnp.float32), wanted).mean()
        return value, (losses.updated(statistics, changed), {"loss": value})

    return loss


def perceptual(
    apply: Apply,
    variables: Any,
    weights: Mapping[str, float],
    *,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> Distance:
    """How far apart a network finds two images.

    The feature reconstruction loss of Johnson, Alahi and Fei-Fei 2016
    (arXiv 1603.08155), equation 2: mean squared differences of endpoints.

    Args:
        apply: `apply(variables, images) -> (output, endpoints)`.
        variables: of a trained network; nothing is differentiated with respect to them.
        weights: of the endpoints, by their names.
        prepare: from images in [0, 1] to what the network takes.

    Raises:
        ArgumentError: the network has no such endpoint, or there are no weights.
    """
    if not weights:
        raise errors.ArgumentError("weights are empty; name at least one endpoint")

    def distance(images: jax.Array, targets: jax.Array) -> jax.Array:
        _, found = apply(variables, prepare(images))
        _, wanted = apply(variables, prepare(targets))
        if unknown := [name for name in weights if name not in found]:
            raise errors.ArgumentError(
                f"the network has no endpoint {', '.join(unknown)}; it has: "
                f"{', '.join(found)}"
            )
        total = jnp.zeros(images.shape[0])
        for name, weight in weights.items():
            difference = losses.mean_squared_error(found[name], wanted[name])
            total = total + weight * difference
        return total

    return distance


def dissimilarity(images: jax.Array, targets: jax.Array) -> jax.Array:
    """1 - SSIM, f32[B]: a distance; see `similarity.ssim`."""
    return 1 - similarity.ssim(images, targets)


class Restorer:
    """What a network gives back, and how like the images it is.

    Args:
        apply: `apply(variables, images f32[B, H, W, C]) -> (images, endpoints)`.
        distance: the `loss` of `evaluate`.
        corrupt: changes what goes in. Each image has a key of its own, so what is done
            to it depends on its place and on nothing else.
        key: of what `corrupt` draws.
        batch_size: images per compiled call; the last call is padded.
        target: as for `reconstruction`; what goes in need not be images then.
    """

    metric = "psnr"

    def __init__(
        self,
        apply: Apply,
        *,
        distance: Distance = losses.mean_squared_error,
        corrupt: Change | None = None,
        key: jax.Array | None = None,
        batch_size: int = 500,
        target: str | None = None,
    ) -> None:
        if corrupt is not None and key is None:
            raise errors.ArgumentError("corrupt needs a key to draw with")
        self.batch_size = batch_size
        self._key = jax.random.key(0) if key is None else key

        def restored(
            variables: Any, images: jax.Array, start: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            given = wanted = as_float(images)
            if corrupt is not None:
                given = corrupted(corrupt, self._key, given, start)
            found, endpoints = apply(variables, given)
            if target is not None:
                wanted = as_float(endpoints[target])
            return given, found.astype(jnp.float32), wanted

        def measured(
            variables: Any, images: jax.Array, start: jax.Array
        ) -> dict[str, jax.Array]:
            _, found, targets = restored(variables, images, start)
            return {"loss": distance(found, targets), **likeness(found, targets)}

        self._restored = compiling.Compiled(
            lambda *arguments: restored(*arguments)[:2], name="the restoration"
        )
        self._measured = compiling.Compiled(measured, name="the evaluation")

    def prepare(self, variables: Any, images: np.ndarray) -> None:
        """Compiles for these shapes ahead of the first call."""
        batch = images[:1].repeat(self.batch_size, axis=0)
        self._measured.compile(variables, batch, np.int32(0))

    def evaluate(
        self, variables: Any, images: np.ndarray, labels: np.ndarray | None = None
    ) -> dict[str, float]:
        """Means over the images: `loss`, `psnr` in decibels, `ssim`."""
        del labels
        parts = self._in_batches(self._measured, variables, images)
        return {
            name: float(np.mean(np.concatenate([part[name] for part in parts])))
            for name in parts[0]
        }

    def predict(
        self, variables: Any, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What went in, and what came out, f32[N, H, W, C] each, not cut to [0, 1]."""
        parts = self._in_batches(self._restored, variables, images)
        given, found = zip(*parts, strict=True)
        return np.concatenate(given), np.concatenate(found)

    def _in_batches(self, run: Any, variables: Any, images: np.ndarray) -> list[Any]:
        """What a function gives for each batch, without what filled the last one up."""
        parts = []
        for start, batch in batches(images, self.batch_size):
            found = jax.device_get(run(variables, batch, np.int32(start)))
            count = len(images) - start
            parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], found))
        return parts


def corrupted(
    corrupt: Change, key: jax.Array, images: jax.Array, start: jax.Array | int = 0
) -> jax.Array:
    """Changes each image with a key of its own, by its place.

    Args:
        corrupt: see `Change`.
        key: of all images.
        images: f32[B, H, W, C].
        start: the first one's place.
    """
    places = start + jnp.arange(images.shape[0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(lambda key, image: corrupt(key, image[None])[0])(keys, images)


def likeness(images: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """PSNR and SSIM of images as they are shown, cut to [0, 1]; f32[B] each.

    An image without any error counts as 100 dB, far beyond what a network reaches: one
    that is infinite would make the mean of all infinite.
    """
    shown = jnp.clip(images, 0, 1)
    return {
        "psnr": jnp.minimum(similarity.psnr(shown, targets), MOST_DECIBELS),
        "ssim": similarity.ssim(shown, targets),
    }
