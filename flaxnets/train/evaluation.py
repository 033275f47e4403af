"""Prediction and evaluation on every example, whatever the last batch's size."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.train import compiling

Apply = Callable[..., Any]


def as_float(images: jax.Array) -> jax.Array:
    """Pictures as networks take them: uint8 becomes float32 in [0, 1]."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images


class Evaluation(Protocol):
    """What `fit` asks after each epoch.

    Attributes:
        batch_size: examples per compiled call.
        metric: the one of `evaluate`'s values by which epochs are compared; the
            greatest is the best.
    """

    batch_size: int
    metric: str

    def prepare(self, variables: Any, images: np.ndarray) -> None:
        """Compiles for these shapes ahead of the first call."""
        ...

    def evaluate(
        self, variables: Any, images: np.ndarray, labels: np.ndarray
    ) -> dict[str, float]:
        """The `loss`, the metric, and more, of all these examples."""
        ...


class Evaluator:
    """Logits, loss and metrics of one classifier on images of one size.

    Args:
        apply: `apply(variables, images f32[B, H, W, C]) -> (logits, endpoints)`.
        batch_size: images per compiled call; the last call is padded.
    """

    metric = "accuracy"

    def __init__(self, apply: Apply, *, batch_size: int = 500) -> None:
        self.batch_size = batch_size
        self._apply = apply
        self._logits = compiling.Compiled(
            lambda variables, images: apply(variables, as_float(images))[0],
            name="the evaluation",
        )

    def prepare(self, variables: Any, images: np.ndarray) -> None:
        """Compiles for these shapes ahead of the first call."""
        self._logits.compile(variables, images[:1].repeat(self.batch_size, axis=0))

    def predict(self, variables: Any, images: np.ndarray) -> np.ndarray:
        """Logits f32[N, K] of images [N, H, W, C], uint8 or float32 in [0, 1]."""
        parts = [
            self._logits(variables, batch)
            for _, batch in batches(images, self.batch_size)
        ]
        return np.concatenate([np.asarray(part) for part in parts])[: len(images)]

    def evaluate(
        self, variables: Any, images: np.ndarray, labels: np.ndarray
    ) -> dict[str, float]:
        """The `scores` of the network's logits for these images."""
        return scores(self.predict(variables, images), labels)

    def endpoints(self, variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        """The network's endpoints for a few images, by name, in its own order."""
        names: list[str] = []

        def run(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
            _, endpoints = self._apply(variables, as_float(images))
            # Noted while tracing, since what jit returns is sorted by key.
            names.extend(endpoints)
            return tuple(endpoints.values())

        found = jax.jit(run)(variables, images)
        return dict(zip(names, map(np.asarray, found), strict=True))


def batches(images: np.ndarray, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Where each batch begins, and the batch; the last one is filled up.

    Raises:
        DataError: there are no images.
    """
    if len(images) == 0:
        raise errors.DataError("no images to predict: the first dimension is 0")
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, batch[:1].repeat(missing, axis=0)])
        yield start, batch


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean cross-entropy and accuracy: `{"loss": ..., "accuracy": ...}`."""
    return {
        "loss": float(np.mean(cross_entropy(logits, labels))),
        "accuracy": float(np.mean(logits.argmax(axis=-1) == labels)),
    }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[label] of each example, float64[N]."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, labels[:, None], axis=-1)[:, 0]
    return np.log(np.exp(shifted).sum(axis=-1)) - picked


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax(logits) along the last axis, float64."""
    exponentials = np.exp(
        logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    )
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
