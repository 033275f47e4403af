"""Runs an attack on any number of pictures, and measures what it has done."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, gradient
from flaxnets.train import evaluation


class GradientWarning(UserWarning):
    """A network gives attacks no gradient to follow; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What an attack made of pictures, and what the network takes them for.

    Attributes:
        images: f32[N, H, W, C], the adversarial pictures.
        labels: int32[N], the true classes.
        targets: int32[N], the classes aimed at; None where the attack had none.
        before: int32[N], the classes predicted for the pictures as they were given.
        after: int32[N], the classes predicted for the adversarial pictures, by a call
            of the network apart from the attack's.
        fooled: bool[N], where `after` is not the label, or is the target if there is
            one. It includes what was misclassified before.
        linf: f64[N], the largest difference of a value that was achieved.
        l2: f64[N], the root of the sum of squared differences that was achieved.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    fooled: np.ndarray
    linf: np.ndarray
    l2: np.ndarray

    @property
    def accuracy_before(self) -> float:
        """The share of pictures that were classified rightly."""
        return float(np.mean(self.before == self.labels))

    @property
    def accuracy_after(self) -> float:
        """The share of adversarial pictures that are still classified rightly."""
        return float(np.mean(self.after == self.labels))

    @property
    def success_rate(self) -> float:
        """The share that is fooled of the pictures that were classified rightly.

        NaN if none was.
        """
        right = self.before == self.labels
        return float(np.mean(self.fooled[right])) if right.any() else float("nan")


def run(
    attack: base.Attack,
    apply: evaluation.Apply,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 500,
    targets: np.ndarray | None = None,
    check_gradients: bool = True,
) -> Attacked:
    """Attacks pictures in batches, and predicts them before and after.

    Each picture has a key of its own, made of `key` and its place among all, and the
    library's attacks treat each picture alone: the same key gives the same result
    whatever the batch size, as far as the network's own sums do not depend on it.
    The attack is compiled once for a batch size, and not again for other calls with
    the same `attack` and `apply`.

    Args:
        attack: such as `pgd(0.3)`; it is given key[B], one for each picture.
        apply: `apply(variables, images f32[B, H, W, C]) -> (logits f32[B, K], ...)`,
            such as a Linen module's `apply`. Its preprocessing belongs inside.
        variables: what `apply` takes.
        images: uint8, or floats in [0, 1], [N, H, W, C].
        labels: int[N], the true classes.
        key: of all that is drawn.
        batch_size: pictures in a compiled call; the last call is padded.
        targets: int[N], the classes that the pictures are to be taken for, for attacks
            that were made with `targeted=True`; each other than the label.
        check_gradients: warns where pictures of the first batch have no gradient. False
            for a network that cannot be differentiated, attacked without gradients.

    Raises:
        DataError: pictures or labels that cannot be used.
        ArgumentError: a network that returns probabilities or numbers that are not
            finite, targets that are the labels, or an attack that left [0, 1].

    Warns:
        GradientWarning: see `check_gradients`.
    """
    if batch_size < 1:
        raise errors.ArgumentError(f"batch_size is {batch_size}, but must be positive")
    images = checked_images(images)
    batch_size = min(batch_size, len(images))
    classes = count_classes(apply, variables, images)
    labels = checked_labels(labels, len(images), classes)
    aims = labels
    if targets is not None:
        aims = targets = checked_labels(targets, len(images), classes, "targets")
        if (same := targets == labels).any():
            raise errors.ArgumentError(
                f"targets are the labels for {same.sum()} of {same.size} pictures "
                f"(first at {same.argmax()}); aim at other classes, e.g. "
                "(labels + 1) % number of classes"
            )

    clean = predict(apply, variables, images, batch_size)
    check_logits(clean)
    if check_gradients:
        warn_of_no_gradients(apply, variables, images[:batch_size], labels[:batch_size])
    targeted = targets is not None
    parts = []
    for (start, batch), (_, its) in zip(
        evaluation.batches(images, batch_size),
        evaluation.batches(aims, batch_size),
        strict=True,
    ):
        places = np.arange(start, start + len(batch))
        found = attacked(attack, apply, variables, batch, its, key, places)
        parts.append(np.asarray(found))
    adversarial = np.concatenate(parts)[: len(images)]
    check_found(adversarial)
    after = predict(apply, variables, adversarial, batch_size).argmax(axis=-1)
    after = after.astype(np.int32)
    flat = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    return Attacked(
        images=adversarial,
        labels=labels,
        targets=targets,
        before=clean.argmax(axis=-1).astype(np.int32),
        after=after,
        fooled=(after == aims) if targeted else (after != aims),
        linf=np.abs(flat).max(axis=1),
        l2=np.sqrt(np.square(flat).sum(axis=1)),
    )


def predict(
    apply: evaluation.Apply, variables: Any, images: np.ndarray, batch_size: int
) -> np.ndarray:
    """The network's logits of any number of pictures, f32[N, K], in batches.

    Args:
        apply, variables: see `run`.
        images: f32[N, H, W, C].
        batch_size: pictures in a compiled call; the last call is padded.
    """
    parts = [
        np.asarray(logits(apply, variables, batch))
        for _, batch in evaluation.batches(images, min(batch_size, len(images)))
    ]
    return np.concatenate(parts)[: len(images)]


def checked_images(images: np.ndarray) -> np.ndarray:
    """Pictures as attacks take them, f32[N, H, W, C] in [0, 1].

    Args:
        images: uint8, or floats in [0, 1], [N, H, W, C].

    Raises:
        DataError: another shape or type, none at all, not finite, or outside [0, 1].
    """
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise errors.DataError(
            f"images have shape {images.shape}, but must be [N, height, width, "
            "channels], none of them 0"
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise errors.DataError(
            f"images are {images.dtype}, but must be uint8, or floats in [0, 1]"
        )
    if not np.isfinite(images).all():
        bad = ~np.isfinite(images).all(axis=(1, 2, 3))
        raise errors.DataError(
            f"{bad.sum()} of {bad.size} images hold NaN or infinity (first at "
            f"{bad.argmax()}); remove them"
        )
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise errors.DataError(
            f"images go from {low:g} to {high:g}, but attacks are bounded in units of "
            "pictures in [0, 1]; divide levels by 255, or undo the normalisation and "
            "put it into apply"
        )
    return images.astype(np.float32)


def checked_labels(
    labels: np.ndarray, count: int, classes: int, name: str = "labels"
) -> np.ndarray:
    """Classes as attacks take them, int32[N].

    Args:
        labels: int[N].
        count: N.
        classes: K; each label must be in 0 ... K - 1.
        name: what a message calls them.

    Raises:
        DataError: another shape or type, or out of range.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise errors.DataError(
            f"{name} have shape {labels.shape}, but must be [{count}], one class for "
            "each image; of one-hot rows take argmax(axis=-1)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise errors.DataError(f"{name} are {labels.dtype}, but must be integers")
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise errors.DataError(
            f"{name} hold {labels[bad][0]} at {bad.argmax()}, but the network has "
            f"{classes} classes, 0 to {classes - 1}"
        )
    return labels.astype(np.int32)


def check_logits(logits: np.ndarray) -> None:
    """Refuses what are not logits: probabilities, and what is not finite.

    Args:
        logits: f32[N, K].

    Raises:
        ArgumentError: all rows are non-negative and sum to one, or some are not finite.
    """
    finite = np.isfinite(logits).all(axis=-1)
    if not finite.all():
        raise errors.ArgumentError(
            f"the network's logits are not finite for {(~finite).sum()} of "
            f"{finite.size} images (first at {finite.argmin()}); check its weights and "
            "its preprocessing"
        )
    # Softmax in bfloat16 sums to one within 1 %.
    if (logits >= 0).all() and (np.abs(logits.sum(axis=-1) - 1) < 0.01).all():
        raise errors.ArgumentError(
            "apply returns probabilities: all rows are non-negative and sum to one. "
            "Attacks need logits, since softmax flattens their gradients; leave the "
            "softmax out, or return log(probabilities) where it cannot be"
        )


def count_classes(apply: Any, variables: Any, images: np.ndarray) -> int:
    """The number of the network's classes, at least two.

    Raises:
        ArgumentError: it returns no logits [B, K].
    """
    shape = jax.eval_shape(lambda *given: apply(*given)[0], variables, images[:1]).shape
    if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise errors.ArgumentError(
            f"the first of what apply returns has shape {shape} for one image, but "
            "must be logits [1, K] of at least two classes; for one number z of two "
            "classes return (concatenate([0, z]), ...)"
        )
    return shape[1]


def warn_of_no_gradients(
    apply: Any, variables: Any, images: np.ndarray, labels: np.ndarray
) -> None:
    """Warns for whoever called the caller where a gradient is exactly zero.

    Args:
        apply, variables: see `run`.
        images: f32[B, H, W, C].
        labels: int[B].

    Warns:
        GradientWarning: how many of the pictures have none.
    """
    flat = np.asarray(steepness(apply, variables, images, labels)) == 0
    if flat.any():
        warnings.warn(
            f"the gradient of the loss is exactly zero for {flat.sum()} of the first "
            f"{len(flat)} images (first at {flat.argmax()}): attacks that follow it "
            "cannot move them, and what resists them is not robust. Look for "
            "rounding, steps or stop_gradient in apply, and for logits so large that "
            "softmax is 0 or 1 (divide them by a constant); attack without gradients "
            "too",
            GradientWarning,
            stacklevel=3,
        )


def check_found(adversarial: np.ndarray) -> None:
    """Refuses what an attack must not return.

    Args:
        adversarial: f32[N, H, W, C].

    Raises:
        ArgumentError: pictures that are not finite, or outside [0, 1].
    """
    inside = ((adversarial >= 0) & (adversarial <= 1)).all(axis=(1, 2, 3))
    if not inside.all():
        raise errors.ArgumentError(
            f"the attack returned {(~inside).sum()} of {inside.size} pictures that are "
            f"not finite or outside [0, 1] (first at {inside.argmin()}); check that "
            "the network's gradients are finite, or clip what the attack returns"
        )


# The attack and the network are arguments, so that all calls share what is compiled.
@functools.partial(jax.jit, static_argnums=0)
def logits(apply: Any, variables: Any, images: jax.Array) -> jax.Array:
    """The network's logits in float32, f32[B, K], compiled."""
    return apply(variables, images)[0].astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def attacked(
    attack: base.Attack,
    apply: Any,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    places: jax.Array,
) -> jax.Array:
    """A batch's adversarial pictures f32[B, H, W, C], compiled.

    Args:
        attack, apply, variables: see `run`.
        images: f32[B, H, W, C].
        labels: int[B].
        key: of all pictures.
        places: int[B], where each stands among all, from which it has its own key.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return attack(lambda images: logits(apply, variables, images), images, labels, keys)


@functools.partial(jax.jit, static_argnums=0)
def steepness(
    apply: Any, variables: Any, images: jax.Array, labels: jax.Array
) -> jax.Array:
    """The largest slope of the loss, f32[B]; zero where nothing can be followed.

    Args:
        apply, variables: see `run`.
        images: f32[B, H, W, C].
        labels: int[B].
    """
    slopes, _ = gradient.loss_gradient(
        lambda images: logits(apply, variables, images), images, labels
    )
    return jnp.abs(slopes).max(axis=(1, 2, 3))
