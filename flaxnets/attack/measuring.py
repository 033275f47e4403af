"""Evaluation of a pair in training: means over all examples of what is measured."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flaxnets import errors
from flaxnets.train import compiling
from flaxnets.train.evaluation import as_float, batches

Measure = Callable[[Any, jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]
"""`(variables, images f32[B, H, W, C], labels int[B], key) -> {name: f32[B]}`.

The variables are a pair's, under `generator` and `opponent`; there is a `loss`.
"""


class PairEvaluator:
    """What `train.fit` asks after each epoch, of a pair.

    Args:
        measure: such as `noise_measure(...)`.
        metric: the one of its values by which epochs are compared; the greatest is the
            best.
        key: of what is drawn; each batch has its own, by its place.
        batch_size: images per compiled call; the last call is padded.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        metric: str,
        key: jax.Array,
        batch_size: int = 500,
    ) -> None:
        self.metric, self.batch_size = metric, batch_size

        def measured(
            variables: Any, images: jax.Array, labels: jax.Array, start: jax.Array
        ) -> dict[str, jax.Array]:
            own = jax.random.fold_in(key, start)
            return measure(variables, as_float(images), labels, own)

        self._measured = compiling.Compiled(measured, name="the evaluation")

    def prepare(self, variables: Any, images: np.ndarray) -> None:
        """Compiles for these shapes ahead of the first call."""
        batch = images[:1].repeat(self.batch_size, axis=0)
        labels = np.zeros(self.batch_size, np.int32)
        self._measured.compile(variables, batch, labels, np.int32(0))

    def evaluate(
        self, variables: Any, images: np.ndarray, labels: np.ndarray
    ) -> dict[str, float]:
        """Means over the images.

        Raises:
            ArgumentError: the metric is not among them.
        """
        parts = []
        filled = [batch for _, batch in batches(labels, self.batch_size)]
        for (start, batch), own in zip(
            batches(images, self.batch_size), filled, strict=True
        ):
            found = jax.device_get(
                self._measured(variables, batch, own.astype(np.int32), np.int32(start))
            )
            count = len(images) - start
            parts.append({name: value[:count] for name, value in found.items()})
        if self.metric not in parts[0]:
            raise errors.ArgumentError(
                f"metric is {self.metric!r}, but what is measured is "
                f"{', '.join(parts[0])}"
            )
        return {
            name: float(np.mean(np.concatenate([part[name] for part in parts])))
            for name in parts[0]
        }


def of_members(
    measure: Callable[[Any, jax.Array], dict[str, jax.Array]],
    variables: Any,
    key: jax.Array,
    population: int | None,
) -> dict[str, jax.Array]:
    """What is measured of each generator, with a new first axis even if there is one.

    Args:
        measure: `(variables, key) -> {name: value}` of one generator.
        variables: of the generator, or stacked.
        key: of which each has its own.
        population: as for `make_pair_step`.
    """
    if population is None:
        variables = jax.tree.map(lambda leaf: leaf[None], variables)
    return jax.vmap(measure)(variables, jax.random.split(key, population or 1))
