"""Losses of classifiers that learn to withstand attacks.

`adversarial` takes any attack of the package: with `pgd` it is the training of Madry et
al. 2018 (arXiv 1706.06083), with `fgsm` and a random start the fast one of Wong et al.
2020 (arXiv 2001.03994). `trades` is that of Zhang et al. 2019 (arXiv 1901.08573). For
noise that is learned at the same time there is `withstanding`.

In all of them the network is attacked as it is used, with the parameters of this step,
its stored statistics and without dropout. The adversarial pictures are constants to the
gradient (Madry et al., section 2.1, on Danskin's theorem).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors
from flaxnets.attack import base, gradient, streams
from flaxnets.train import losses
from flaxnets.train.evaluation import Apply, as_float
from flaxnets.train.state import Batch, Loss, Metrics, Tree

# Of the normal noise from which the divergence is climbed; that of TRADES's code.
_START_DEVIATION = 0.001


def adversarial(
    apply: Apply,
    attack: base.Attack,
    *,
    share: float = 1.0,
    label_smoothing: float = 0.0,
    augment: losses.Augmentation | None = None,
) -> Loss:
    """The cross-entropy at adversarial pictures, or at them and the clean ones.

    >>> step = train.make_step(
    ...     attack.adversarial(model.apply, attack.pgd(0.3, steps=40, step_size=0.01)),
    ...     optimizer,
    ... )

    Args:
        apply: a Linen module's `apply`, returning `(logits, endpoints)`; it is given a
            `dropout` key.
        attack: an untargeted one. It is given the true labels.
        share: what the adversarial pictures count, from 0 to 1; the clean ones count
            the rest. With less than 1, batch normalisation sees the clean pictures and
            then the adversarial ones.
        label_smoothing: see `losses.cross_entropy`; the attack does without.
        augment: `(key, images f32[B, H, W, C]) -> images` in [0, 1], before the attack.

    Returns:
        As `losses.classification`, for batches `{"image": uint8 or f32[B, H, W, C] in
        [0, 1], "label": int[B]}`. The metrics are `loss`, `accuracy` (of clean
        pictures; with a share of 1 as the network is used, else as it is trained) and
        `robust_accuracy` (of adversarial ones, as it is trained).

    Raises:
        ArgumentError: a share that is none.
    """
    base.check_share("share", share)

    def loss(
        params: Tree, statistics: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        labels = batch["label"]
        clean, attacked, statistics = _both(
            apply, attack, augment, params, statistics, batch, key, share < 1
        )

        def mean(logits: jax.Array) -> jax.Array:
            return losses.cross_entropy(
                logits, labels, label_smoothing=label_smoothing
            ).mean()

        value = share * mean(attacked)
        if share < 1:
            value += (1 - share) * mean(clean)
        return value, (statistics, _metrics(value, clean, attacked, labels))

    return loss


def trades(
    apply: Apply,
    attack: base.Attack,
    *,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    augment: losses.Augmentation | None = None,
) -> Loss:
    """The cross-entropy at clean pictures, and how far from them an attack leads.

    TRADES (Zhang et al. 2019, arXiv 1901.08573, section 4 and the authors' code): the
    mean of the cross-entropy and of `beta` times KL(p(image) || p(adversarial image)),
    p being softmax(logits). Both sides of the divergence are differentiated. In the
    paper the attack is `kl_pgd`.

    >>> loss = attack.trades(model.apply, attack.kl_pgd(0.3, steps=40, step_size=0.01))

    Args:
        apply, label_smoothing, augment: see `adversarial`.
        attack: such as `kl_pgd`.
        beta: what the divergence counts, the paper's 1 / lambda. The authors' scripts
            have 6 for CIFAR-10 and 1 for MNIST.

    Returns:
        As `adversarial`, with the accuracies as the network is trained. Batch
        normalisation sees the clean pictures and then the adversarial ones.

    Raises:
        ArgumentError: beta is negative or not finite.
    """
    base.check_not_negative("beta", beta)

    def loss(
        params: Tree, statistics: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        labels = batch["label"]
        clean, attacked, statistics = _both(
            apply, attack, augment, params, statistics, batch, key, True
        )
        divergence = optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(attacked), jax.nn.log_softmax(clean)
        )
        entropy = losses.cross_entropy(clean, labels, label_smoothing=label_smoothing)
        value = (entropy + beta * divergence).mean()
        return value, (statistics, _metrics(value, clean, attacked, labels))

    return loss


def kl_pgd(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    steps: int = 10,
    step_size: float | None = None,
) -> base.Attack:
    """Projected gradient ascent on the divergence from the network's own prediction.

    The inner maximisation of TRADES (Zhang et al. 2019, arXiv 1901.08573, algorithm 1):
    the steps of `pgd` raise KL(p(image) || p(adversarial image)). The gradient is zero
    at the picture itself, so they start from normal noise of 0.001 around it. Labels
    are not used.

    Args:
        epsilon, norm, step_size: see `pgd`.
        steps: gradient steps; the authors' scripts take 10 for CIFAR-10 and 40 for
            MNIST.

    Raises:
        ArgumentError: an option out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("steps", steps)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    base.check_not_negative("step_size", step_size)
    ascent = gradient.Ascent(
        epsilon, norm, steps, step_size, targeted=False, decay=0, stop_when_fooled=False
    )

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del labels

        def drawn(key: jax.Array) -> jax.Array:
            return _START_DEVIATION * jax.random.normal(key, images.shape[1:])

        noise = jax.vmap(drawn)(streams.per_picture(key, len(images)))
        start = base.within(images, images + noise, epsilon, norm)
        # Its gradient is that of the cross-entropy with these as soft labels: the two
        # differ by the entropy of what is predicted for the picture, a constant.
        predicted = jax.nn.softmax(logits(images).astype(jnp.float32))
        active = jnp.ones(len(images), bool)
        return gradient.climb(ascent, logits, predicted, images, start, active)

    return attack


def scaled(attack: base.Attack, scale: jax.Array | float) -> base.Attack:
    """An attack whose bound and steps are both multiplied, for a warm-up.

    The attack sees each picture's surroundings enlarged by 1 / scale. The scale may be
    traced, so that a step can have one of its own; a loss does not know the step:

    >>> def step(state, batch):
    ...     smaller = attack.scaled(attack.pgd(0.3), jnp.minimum(state.step / 1000, 1))
    ...     loss = attack.adversarial(model.apply, smaller)
    ...     return train.make_step(loss, optimizer)(state, batch)

    A value that is nearer to 0 or 1 than the attack's own epsilon moves towards it by
    at most `scale` of that distance.

    Args:
        attack: one that calls the network with all its pictures at a time, in their
            order, as the gradient attacks do, but not with `stop_when_fooled`.
        scale: f32[], from 0 (the pictures themselves) to 1 (the attack as it is). The
            smaller bound holds up to rounding; [0, 1] holds exactly.

    Raises:
        ArgumentError: when it is used, an attack that calls it with fewer pictures.
    """

    def smaller(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        def nearer(points: jax.Array) -> jax.Array:
            if len(points) != len(images):
                raise errors.ArgumentError(
                    f"scaled was given an attack that asks about {len(points)} of "
                    f"{len(images)} pictures; make it without stop_when_fooled"
                )
            return images + scale * (points - images)

        found = attack(lambda points: logits(nearer(points)), images, labels, key)
        # Not what the network sees: a cut halves the gradient where it is reached.
        return jnp.clip(nearer(found), 0, 1)

    return smaller


def _both(
    apply: Apply,
    attack: base.Attack,
    augment: losses.Augmentation | None,
    params: Tree,
    statistics: Tree,
    batch: Batch,
    key: jax.Array,
    train_clean: bool,
) -> tuple[jax.Array, jax.Array, Tree]:
    """Logits of the clean and of the adversarial pictures, and statistics after them.

    Args:
        train_clean: whether the network learns from the clean pictures; otherwise
            they are seen as the network is used, and change nothing.
    """
    augment_key, attack_key, clean_key, attacked_key = jax.random.split(key, 4)
    images = as_float(batch["image"])
    if augment is not None:
        images = augment(augment_key, images)
    # No gradient goes through the attack: loops cannot even be differentiated so.
    still: Any = {"params": jax.lax.stop_gradient(params), **statistics}

    def as_used(images: jax.Array) -> jax.Array:
        return apply(still, images)[0].astype(jnp.float32)

    def trained(
        images: jax.Array, key: jax.Array, statistics: Tree
    ) -> tuple[jax.Array, Tree]:
        (logits, _), changed = apply(
            {"params": params, **statistics},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=list(statistics),
        )
        return logits.astype(jnp.float32), losses.updated(statistics, changed)

    shown = attack(as_used, images, batch["label"], attack_key)
    if train_clean:
        clean, statistics = trained(images, clean_key, statistics)
    else:
        clean = as_used(images)
    attacked, statistics = trained(shown, attacked_key, statistics)
    return clean, attacked, statistics


def _metrics(
    value: jax.Array, clean: jax.Array, attacked: jax.Array, labels: jax.Array
) -> Metrics:
    return {
        "loss": value,
        "accuracy": (clean.argmax(axis=-1) == labels).mean(),
        "robust_accuracy": (attacked.argmax(axis=-1) == labels).mean(),
    }
