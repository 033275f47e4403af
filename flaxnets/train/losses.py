"""Losses of arrays, one value an example, and the loss functions that steps take."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors
from flaxnets.train.evaluation import as_float
from flaxnets.train.state import Batch, Loss, Metrics, Tree

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy of softmax(logits), f32[B].

    Args:
        logits: f32[B, K].
        labels: int[B] classes, or f32[B, K] probabilities (one-hot or soft).
        label_smoothing: share of each target spread evenly over the K classes
            (Szegedy et al. 2016, section 7).

    Raises:
        ArgumentError: labels of two dimensions and another shape than the logits.
    """
    if labels.ndim == logits.ndim:
        _check_shapes("logits", logits, labels)
        targets = labels
    elif label_smoothing:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    else:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of sigmoid(logits), mean over all but the first axis, f32[B].

    Args:
        logits, targets: f32[B, ...], targets in [0, 1].
    """
    _check_shapes("logits", logits, targets)
    return _per_example(optax.sigmoid_binary_cross_entropy(logits, targets))


def mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over all but the first axis of (prediction - target)^2, f32[B]."""
    _check_shapes("predictions", predictions, targets)
    return _per_example(jnp.square(predictions - targets))


def mean_absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over all but the first axis of |prediction - target|, f32[B]."""
    _check_shapes("predictions", predictions, targets)
    return _per_example(jnp.abs(predictions - targets))


def huber(
    predictions: jax.Array, targets: jax.Array, *, delta: float = 1.0
) -> jax.Array:
    """Huber's loss: quadratic up to `delta`, linear beyond; mean as above, f32[B].

    Huber 1964: e^2 / 2 for |e| <= delta, and delta (|e| - delta / 2) beyond.
    """
    _check_shapes("predictions", predictions, targets)
    return _per_example(optax.huber_loss(predictions, targets, delta=delta))


def classification(
    apply: Callable[..., Any],
    *,
    label_smoothing: float = 0.0,
    augment: Augmentation | None = None,
    mix: Mix | None = None,
) -> Loss:
    """The loss of a classifier, with its accuracy as a metric.

    Args:
        apply: a Linen module's `apply`, returning `(logits, endpoints)`.
        label_smoothing: see `cross_entropy`.
        augment: `(key, images f32[B, H, W, C]) -> images`, applied in training.
        mix: `(key, images, targets f32[B, K]) -> (images, targets)`, applied after
            `augment` and before the smoothing, such as `flaxnets.data.mixing.mixup`.

    Returns:
        `(params, statistics, batch, key) -> (f32[], (statistics, metrics))` on batches
        `{"image": uint8 or f32[B, H, W, C], "label": int[B] or f32[B, K]}`, or with
        features f32[B, ...] for images where `apply` takes them. The metrics are
        `loss` and `accuracy`, means over the batch; right is the label with the
        largest share in the target.
    """

    def loss(
        params: Tree, statistics: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        augment_key, dropout_key, mix_key = jax.random.split(key, 3)
        images, labels = as_float(batch["image"]), batch["label"]

        def run(images: jax.Array) -> Any:
            return apply(
                {"params": params, **statistics},
                images,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=list(statistics),
            )

        if augment is not None:
            images = augment(augment_key, images)
        if mix is not None:
            if labels.ndim == 1:
                # Only the network knows how many classes there are.
                (logits, _), _ = jax.eval_shape(run, images)
                labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
            images, labels = mix(mix_key, images, labels)
        (logits, _), changed = run(images)
        # A network that computes in bfloat16 is still judged in float32.
        logits = logits.astype(jnp.float32)
        value = cross_entropy(logits, labels, label_smoothing=label_smoothing).mean()
        truth = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        accuracy = (logits.argmax(axis=-1) == truth).mean()
        statistics = updated(statistics, changed)
        return value, (statistics, {"loss": value, "accuracy": accuracy})

    return loss


def updated(statistics: Tree, changed: Mapping[str, Any]) -> Tree:
    return {name: changed.get(name, tree) for name, tree in statistics.items()}


def _check_shapes(name: str, values: jax.Array, targets: jax.Array) -> None:
    """Refuses what would broadcast: [B, 1] against [B] has a mean, but a wrong one."""
    if values.shape != targets.shape:
        raise errors.ArgumentError(
            f"{name} have shape {values.shape} and the targets {targets.shape}, but "
            "both must have the same"
        )


def _per_example(values: jax.Array) -> jax.Array:
    return values.reshape(values.shape[0], -1).mean(axis=1)
