"""What made pictures are worth: by the features and classes that a classifier sees."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import attack, data, models, train
from flaxnets.train import evaluation
from flaxnets.train.frechet import Gaussian, frechet_distance, statistics

# Pictures that go through a network at once.
TOGETHER = 500
# Whose features are compared: the classifier's last ones before its logits.
LAYER = "dense2"
# Made pictures among which classes are looked for.
LOOKED_AT = 1000
# The probability from which on the classifier counts as sure of a class: even noise is
# of some class to it.
SURE = 0.9


class Maker:
    """A generator's pictures, as pictures are stored: in 256 levels.

    They are those of the moving average of its parameters, which normalises by the
    batch.

    Args:
        generator: with latents f32[B, D] to images f32[B, H, W, C] in [0, 1].
        drawn: f32[M, D], independent draws, with which a batch is filled: all of it
            has a part in what normalises it, and few draws, or draws that depend on
            one another, would be normalised by themselves.
    """

    def __init__(self, generator: models.DCGANGenerator, drawn: np.ndarray) -> None:
        apply: Any = generator.apply

        def made(variables: Any, latents: jax.Array) -> jax.Array:
            found = attack.averaged(variables)
            (images, _), _ = apply(found, latents, train=True, mutable=["batch_stats"])
            return jnp.rint(255 * images).astype(jnp.uint8)

        self._made, self._drawn = jax.jit(made), drawn

    def __call__(self, variables: Any, latents: np.ndarray) -> np.ndarray:
        """Pictures uint8[N, H, W, C] of latents f32[N, D]."""
        count = -(-len(latents) // TOGETHER)
        missing = count * TOGETHER - len(latents)
        others = np.resize(self._drawn, (missing, latents.shape[1]))
        filled = np.concatenate([latents, others])
        parts = [
            np.asarray(self._made(variables, batch))
            for batch in np.split(filled, count)
        ]
        return np.concatenate(parts)[: len(latents)]


class Seen(NamedTuple):
    """What a classifier makes of pictures.

    Attributes:
        features: f32[N, D], those of `LAYER`.
        probabilities: f64[N, K].
    """

    features: np.ndarray
    probabilities: np.ndarray


class Judge:
    """The lecture's network, trained to tell the classes apart.

    Args:
        classes: how many.
        variables: its own.
    """

    def __init__(self, classes: int, variables: Any) -> None:
        apply: Any = models.CNN(num_classes=classes).apply

        def seen(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, endpoints = apply(variables, evaluation.as_float(images))
            return endpoints[LAYER], logits

        self._seen, self._variables = jax.jit(seen), jax.device_put(variables)

    def look(self, images: np.ndarray) -> Seen:
        """Features and probabilities of images uint8[N, H, W, C]."""
        parts = [
            jax.device_get(self._seen(self._variables, batch))
            for _, batch in evaluation.batches(images, TOGETHER)
        ]
        features, logits = (
            np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)
        )
        return Seen(features, train.probabilities(logits))


class Beside(NamedTuple):
    """Some real pictures, and how far as many others are from them.

    Attributes:
        pictures: how many.
        real: their features.
        floor: the distance of the others.
    """

    pictures: int
    real: Gaussian
    floor: float

    def distance(self, features: np.ndarray) -> float:
        """That of the first so many of the features [N, D]."""
        return frechet_distance(statistics(features[: self.pictures]), self.real)

    def report(self, features: np.ndarray) -> dict[str, Any]:
        """The numbers that a run stores."""
        made = self.distance(features)
        return {
            "pictures": self.pictures,
            "made": made,
            "floor": self.floor,
            "times_floor": made / self.floor if self.floor else math.inf,
        }


class Ruler:
    """Frechet distances to the test pictures, and of real pictures from one another.

    A distance depends on the number of pictures, so each has its own floor, of as many
    real ones. That of training pictures also shows how much better the classifier
    knows them; that of two halves of the test pictures is of strangers only. Pictures
    are drawn by the seed: the first half of MNIST's test pictures is cleaner than the
    second.

    Args:
        judge: whose features are compared.
        dataset: the real pictures.
        seed: of the draw.

    Attributes:
        all: as many test pictures as there are of both splits, beside training ones.
        halves: one half of those, beside the other.
        few: `LOOKED_AT` of them, beside training ones.
    """

    def __init__(self, judge: Judge, dataset: data.Dataset, seed: int) -> None:
        generator = np.random.Generator(np.random.Philox(key=seed))
        splits = dataset.train, dataset.test
        count = min(len(split.labels) for split in splits)
        trained, tested = (
            judge.look(
                split.images[generator.permutation(len(split.labels))[:count]]
            ).features
            for split in splits
        )

        def beside(tested: np.ndarray, others: np.ndarray) -> Beside:
            real = statistics(tested)
            return Beside(len(tested), real, frechet_distance(statistics(others), real))

        half = count // 2
        self.all = beside(tested, trained)
        self.halves = beside(tested[:half], tested[half : 2 * half])
        self.few = beside(tested[:LOOKED_AT], trained[:LOOKED_AT])

    def report(self, features: np.ndarray) -> dict[str, Any]:
        """The distances of made pictures, by their features [N, D]."""
        return {
            **self.all.report(features),
            "halves": self.halves.report(features),
            "few": self.few.report(features),
        }


def coverage(probabilities: np.ndarray) -> dict[str, Any]:
    """Which classes are among pictures, by the probabilities f64[N, K] of a classifier.

    Returns:
        The number of `pictures`; `counts` of each class; `covered`, the share of
        classes with any; and the same of those pictures of which the classifier is
        sure, `sure_counts` and `covered_surely`.
    """
    classes = probabilities.shape[1]
    found = probabilities.argmax(axis=1)
    sure = found[probabilities.max(axis=1) >= SURE]
    counts, sure_counts = (
        np.bincount(part, minlength=classes) for part in (found, sure)
    )
    return {
        "pictures": len(found),
        "counts": counts.tolist(),
        "covered": float(np.mean(counts > 0)),
        "sure_counts": sure_counts.tolist(),
        "covered_surely": float(np.mean(sure_counts > 0)),
    }


class Examiner:
    """What `train.fit` asks after each epoch: the pair's losses, and its pictures.

    They are made of the same random numbers each time.

    Args:
        losses: measures both networks.
        make: a generator's pictures.
        latents: f32[N, D], at least as many as the ruler and `LOOKED_AT` want.
        judge: looks at the pictures.
        ruler: measures them.

    Attributes:
        made: the last pictures, uint8[N, H, W, C].
    """

    # The distance's negative: the greatest is the best.
    metric = "closeness"
    batch_size = TOGETHER

    def __init__(
        self,
        losses: attack.PairEvaluator,
        make: Maker,
        latents: np.ndarray,
        judge: Judge,
        ruler: Ruler,
    ) -> None:
        self._losses, self._make, self._latents = losses, make, latents
        self._judge, self._ruler = judge, ruler
        self.made = np.empty(0, np.uint8)

    def prepare(self, variables: Any, images: np.ndarray) -> None:
        """Compiles for these shapes ahead of the first call."""
        self._losses.prepare(variables, images)

    def evaluate(
        self, variables: Any, images: np.ndarray, labels: np.ndarray
    ) -> dict[str, float]:
        """The means of the losses, the distance, and the share of classes covered."""
        self.made = self._make(variables["generator"], self._latents)
        seen = self._judge.look(self.made)
        distance = self._ruler.all.distance(seen.features)
        return {
            **self._losses.evaluate(variables, images, labels),
            "frechet": distance,
            "covered": coverage(seen.probabilities[:LOOKED_AT])["covered"],
            self.metric: -distance,
        }
