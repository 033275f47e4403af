"""Learned noise: the losses of its generator and of the classifier, and their measure.

The joint training of Wang and Yu 2019 (arXiv 1905.09591) is a pair of `misleading` and
`withstanding`; AdvGAN's semi-white-box attack (Xiao et al. 2018, arXiv 1801.02610, but
without its third network, which judges how real a picture looks) is `misleading` with
the hinge, against a classifier that stays as it is.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from flaxnets import errors
from flaxnets.attack import base, measuring, robust, streams
from flaxnets.attack.pair import PairLoss
from flaxnets.models import perturber
from flaxnets.train import losses
from flaxnets.train.evaluation import Apply, as_float
from flaxnets.train.state import Batch, Metrics, Tree

Targets = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, labels int[B]) -> int[B]`, the classes that pictures are to be taken for."""
Objective = Literal["cross_entropy", "hinge"]
"""What a generator is after.

"cross_entropy": to make the classifier's loss large (or that of the target small). It
has no end: for noise that is bounded by construction.
"hinge": `f6` of Carlini and Wagner 2017 (arXiv 1608.04644, section V-A), which asks for
another class's logit (or the target's) to be the largest by `confidence`, and no more.
"""


def other_classes(classes: int) -> Targets:
    """Targets drawn evenly from all classes but the true one."""

    def drawn(key: jax.Array, labels: jax.Array) -> jax.Array:
        further = jax.random.randint(key, labels.shape, 1, classes)
        return (labels + further) % classes

    return drawn


def misleading(
    generator: Apply,
    classifier: Apply,
    *,
    objective: Objective = "cross_entropy",
    confidence: float = 0.0,
    targets: Targets | None = None,
    norm_limit: float | None = None,
    norm_weight: float = 1.0,
) -> PairLoss:
    """The loss of a generator of noise against a classifier.

    The classifier is attacked as it is used, with its stored statistics and without
    dropout.

    Args:
        generator: `apply` of a `models.Perturber`, or another network's that gives
            noise; it is given `latent` and `dropout` keys.
        classifier: a Linen module's `apply`, `(variables, images f32[B, H, W, C] in
            [0, 1]) -> (logits f32[B, K], endpoints)`.
        objective: see `Objective`.
        confidence: of the hinge, in logits.
        targets: what the generator is told to aim at; None for any wrong class, and a
            generator that is not told.
        norm_limit: the L2 norm, over all values of a picture, up to which noise costs
            nothing; None for no penalty. It is the noise's own, not that of what is
            left of it in [0, 1].
        norm_weight: what each unit beyond it costs (AdvGAN's equation 3 and its beta).

    Returns:
        A loss on batches `{"image": uint8 or f32[B, H, W, C], "label": int[B]}`, means
        over the batch. Its metrics are `loss`, `success_rate` (the share of pictures
        that are misclassified, or taken for their targets), and, of the difference as
        it is shown, `noise_l2` and `noise_linf`.

    Raises:
        ArgumentError: an unknown objective, or numbers that cannot be used.
    """
    if objective not in get_args(Objective):
        raise errors.ArgumentError(
            f"objective is {objective!r}, but must be one of "
            f"{', '.join(get_args(Objective))}"
        )
    if confidence and objective != "hinge":
        raise errors.ArgumentError(
            f"confidence is {confidence}, but only objective='hinge' has one"
        )
    base.check_not_negative("confidence", confidence)
    base.check_not_negative("norm_weight", norm_weight)
    if norm_limit is not None:
        base.check_not_negative("norm_limit", norm_limit)
    targeted = targets is not None

    def distance(logits: jax.Array, goals: jax.Array) -> jax.Array:
        sign = 1 if targeted else -1
        if objective == "cross_entropy":
            return sign * losses.cross_entropy(logits, goals)
        return jnp.maximum(-sign * base.margin(logits, goals), -confidence)

    def loss(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        images = as_float(batch["image"])
        variables = {"params": params, **statistics}
        (noise, goals), changed = _noise(
            generator, variables, images, batch["label"], targets, key, train=True
        )
        shown = perturber.perturbed(images, noise)
        logits = classifier(others, shown)[0].astype(jnp.float32)
        value = distance(logits, goals).mean()
        if norm_limit is not None:
            value += norm_weight * jnp.maximum(_l2(noise) - norm_limit, 0).mean()
        metrics = {
            "loss": value,
            "success_rate": base.fooled(logits, goals, targeted).mean(),
            **{name: norm.mean() for name, norm in _norms(shown - images).items()},
        }
        return value, (losses.updated(statistics, changed), metrics)

    return loss


def withstanding(
    generator: Apply,
    classifier: Apply,
    *,
    share: float = 0.5,
    targets: Targets | None = None,
) -> PairLoss:
    """The loss of a classifier that learns clean pictures and those with noise.

    `robust.adversarial` with the generator, as it is trained, for the attack.

    Args:
        generator, classifier, targets: as for `misleading`. The classifier is given a
            `dropout` key.
        share: what the pictures with noise count, from 0 to 1; the clean ones count the
            rest.

    Returns:
        A loss on the batches of `misleading`, with the metrics of `robust.adversarial`;
        `robust_accuracy` is that of the pictures with noise.

    Raises:
        ArgumentError: a share that is none.
    """
    base.check_share("share", share)

    def loss(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        def attack(
            logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
        ) -> jax.Array:
            del logits
            (noise, _), _ = _noise(
                generator, others, images, labels, targets, key, train=True
            )
            return perturber.perturbed(images, noise)

        withstands = robust.adversarial(classifier, attack, share=share)
        return withstands(params, statistics, batch, key)

    return loss


def learned_noise(
    generator: Apply, variables: Tree, *, targeted: bool = False
) -> base.Attack:
    """A trained generator of noise as an attack, in one pass and without the network.

    Its bound is the generator's own: of a `models.Perturber` with an epsilon, "linf".

    Args:
        generator: as for `misleading`.
        variables: of one generator.
        targeted: whether it is told the labels, which are then the wanted classes.
    """
    aims: Targets | None = (lambda key, labels: labels) if targeted else None

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del logits

        # One by one, since each picture has its own randomness.
        def one(image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
            (noise, _), _ = _noise(
                generator, variables, image[None], label[None], aims, key, train=False
            )
            return noise[0]

        noise = jax.vmap(one)(images, labels, streams.per_picture(key, len(images)))
        return perturber.perturbed(images, noise)

    return attack


def noise_measure(
    generator: Apply,
    classifier: Apply,
    *,
    targets: Targets | None = None,
    population: int | None = None,
) -> measuring.Measure:
    """What a `PairEvaluator` measures of learned noise, f32[B] each.

    `loss` and `accuracy` of clean pictures; `robust_accuracy`, whether a picture is
    classified rightly whichever generator's noise it has; and, averaged over the
    generators, the metrics of `misleading`.

    Args:
        generator, classifier, targets: as for `misleading`.
        population: as for `make_pair_step`.
    """

    def measure(
        variables: Tree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        clean = classifier(variables["opponent"], images)[0].astype(jnp.float32)

        def one(member: Tree, key: jax.Array) -> dict[str, jax.Array]:
            (noise, goals), _ = _noise(
                generator, member, images, labels, targets, key, train=False
            )
            shown = perturber.perturbed(images, noise)
            logits = classifier(variables["opponent"], shown)[0].astype(jnp.float32)
            return {
                "robust_accuracy": logits.argmax(axis=-1) == labels,
                "success_rate": base.fooled(logits, goals, targets is not None),
                **_norms(shown - images),
            }

        each = measuring.of_members(one, variables["generator"], key, population)
        measured = {
            "loss": losses.cross_entropy(clean, labels),
            "accuracy": clean.argmax(axis=-1) == labels,
            **{name: value.mean(axis=0) for name, value in each.items()},
            "robust_accuracy": each["robust_accuracy"].all(axis=0),
        }
        return {name: value.astype(jnp.float32) for name, value in measured.items()}

    return measure


def _noise(
    generator: Apply,
    variables: Tree,
    images: jax.Array,
    labels: jax.Array,
    targets: Targets | None,
    key: jax.Array,
    *,
    train: bool,
) -> tuple[tuple[jax.Array, jax.Array], Tree]:
    """Noise and what it is after (the labels where it has no target), and statistics.

    What is drawn depends on the key alone, so that both sides' calls of a generator
    that draws nothing are one to the compiler.
    """
    target_key, latent_key, dropout_key = jax.random.split(key, 3)
    goals = labels if targets is None else targets(target_key, labels)
    told = () if targets is None else (goals,)
    (noise, _), changed = generator(
        variables,
        images,
        *told,
        train=train,
        rngs={"latent": latent_key, "dropout": dropout_key},
        mutable=[name for name in variables if name != "params"],
    )
    return (noise, goals), changed


def _l2(values: jax.Array) -> jax.Array:
    """The norm of each picture, f32[B]; with a gradient of zero where it is zero."""
    squares = jnp.square(values).reshape(values.shape[0], -1).sum(axis=1)
    nothing = squares == 0
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, squares)))


def _norms(difference: jax.Array) -> dict[str, jax.Array]:
    return {
        "noise_l2": _l2(difference),
        "noise_linf": jnp.abs(difference).reshape(difference.shape[0], -1).max(axis=1),
    }
