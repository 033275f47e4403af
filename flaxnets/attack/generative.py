"""A generative pair: one network makes pictures, the other tells them from real ones.

Goodfellow et al. 2014 (arXiv 1406.2661) with the non-saturating loss of its section 3.
`models.DCGANGenerator` and `models.DCGANDiscriminator` are networks for it, and
spectral normalisation is an option of the latter.
"""

import jax
import jax.numpy as jnp
import optax

from flaxnets.attack import base, measuring
from flaxnets.attack.pair import PairLoss
from flaxnets.data.augmentation import Augmentation
from flaxnets.train import losses
from flaxnets.train.evaluation import Apply, as_float
from flaxnets.train.state import Batch, Metrics, Tree

# The generator's statistics that hold the moving average of its parameters.
_AVERAGE = "average"


def with_average(variables: Tree) -> dict[str, Tree]:
    """A generator's variables, with room for the moving average of its parameters."""
    return {**variables, _AVERAGE: jax.tree.map(jnp.array, variables["params"])}


def averaged(variables: Tree) -> dict[str, Tree]:
    """A generator's variables with the average in place of its last parameters.

    What its batch normalisation has stored is that of the last ones; let it normalise
    by the batch.

    Args:
        variables: of a generator that began as `with_average` returned it.
    """
    rest = {name: tree for name, tree in variables.items() if name != _AVERAGE}
    return {**rest, "params": variables[_AVERAGE]}


def generating(
    generator: Apply,
    discriminator: Apply,
    *,
    latent: int,
    average: float | None = None,
    augment: Augmentation | None = None,
) -> PairLoss:
    """The loss of a generator: the cross-entropy of its pictures being called real.

    Args:
        generator: `apply` of a network `f32[B, latent] -> (images, endpoints)`, the
            images in [0, 1].
        discriminator: `apply` of a network `images -> (logits f32[B], endpoints)`,
            positive for real. It runs as in training, so that batch normalisation uses
            the batch, and what it stores is left as it is.
        latent: random numbers a picture, from a normal distribution.
        average: the decay of a moving average of the parameters, which is kept beside
            them (Yazici et al. 2019, arXiv 1806.04498); for variables that were made
            with `with_average`. It lags by one step.
        augment: what is done at random to pictures before they are judged; the same as
            for `discriminating`.

    Returns:
        A loss on batches `{"image": ...}`, of which only the size is used. Its metric
        is `loss`.

    Raises:
        ArgumentError: a decay that is none.
    """
    if average is not None:
        base.check_share("average", average)

    def loss(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        latent_key, made_key, judged_key, shown_key = jax.random.split(key, 4)
        latents = jax.random.normal(latent_key, (len(batch["image"]), latent))
        variables = {"params": params, **statistics}
        made, changed = _run(generator, variables, latents, made_key)
        if augment is not None:
            made = augment(shown_key, made)
        logits, _ = _run(discriminator, others, made, judged_key)
        value = losses.binary_cross_entropy(logits, jnp.ones_like(logits)).mean()
        statistics = losses.updated(statistics, changed)
        if average is not None:
            statistics[_AVERAGE] = optax.incremental_update(
                jax.lax.stop_gradient(params), statistics[_AVERAGE], 1 - average
            )
        return value, (statistics, {"loss": value})

    return loss


def discriminating(
    generator: Apply,
    discriminator: Apply,
    *,
    latent: int,
    r1: float = 0.0,
    augment: Augmentation | None = None,
) -> PairLoss:
    """The loss of a discriminator: the cross-entropies of real and of made pictures.

    Args:
        generator, discriminator, latent: as for `generating`. Real and made pictures
            are batches of their own, one after the other.
        r1: gamma of the gradient penalty of Mescheder et al. 2018 (arXiv 1801.04406,
            equation 9): half of it times the squared norm of the logit's gradient at
            real pictures. It is defined for a logit that depends on one picture, so not
            with batch normalisation.
        augment: what is done at random to real and to made pictures before they are
            judged, so that real ones are not learned by heart; the generator learns to
            make unchanged ones, as long as it is given the same (Zhao et al. 2020,
            arXiv 2006.10738).

    Returns:
        A loss on batches `{"image": uint8 or f32[B, H, W, C], ...}`. Its metrics are
        `loss` and the mean probabilities of being real, `real_score` of the real
        pictures and `made_score` of the made ones.

    Raises:
        ArgumentError: r1 is negative or not finite.
    """
    base.check_not_negative("r1", r1)

    def loss(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        latent_key, made_key, shown_key, *judged_keys = jax.random.split(key, 5)
        images = as_float(batch["image"])
        latents = jax.random.normal(latent_key, (len(images), latent))
        made, _ = _run(generator, others, latents, made_key)
        if augment is not None:
            real_key, false_key = jax.random.split(shown_key)
            images, made = augment(real_key, images), augment(false_key, made)

        def judge(statistics: Tree, images: jax.Array, key: jax.Array) -> tuple:
            variables = {"params": params, **statistics}
            logits, changed = _run(discriminator, variables, images, key)
            return logits.sum(), (logits, losses.updated(statistics, changed))

        penalty = 0.0
        if r1:
            slopes, (real, statistics) = jax.grad(judge, argnums=1, has_aux=True)(
                statistics, images, judged_keys[0]
            )
            penalty = r1 / 2 * jnp.square(slopes).sum() / len(images)
        else:
            _, (real, statistics) = judge(statistics, images, judged_keys[0])
        _, (false, statistics) = judge(statistics, made, judged_keys[1])
        value = _errors(real, false).mean() + penalty
        metrics = {
            "loss": value,
            "real_score": jax.nn.sigmoid(real).mean(),
            "made_score": jax.nn.sigmoid(false).mean(),
        }
        return value, (statistics, metrics)

    return loss


def generative_measure(
    generator: Apply,
    discriminator: Apply,
    *,
    latent: int,
    population: int | None = None,
) -> measuring.Measure:
    """What a `PairEvaluator` measures of a generative pair, f32[B] each.

    The generator runs as it is used, and the discriminator as in training, on real
    pictures and on as many made ones: it has learned from batches of one kind, and what
    its batch normalisation has stored is a mixture of both. Measured are the `loss` of
    the discriminator without a penalty, the `generator_loss`, `real_score` and
    `made_score`, and `accuracy`, the share of both kinds that it tells rightly;
    averaged over the generators.

    Args:
        generator, discriminator, latent: as for `generating`.
        population: as for `make_pair_step`.
    """

    def measure(
        variables: Tree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        del labels

        def judge(images: jax.Array) -> jax.Array:
            return _run(discriminator, variables["opponent"], images, key)[0]

        real = judge(images)

        def one(member: Tree, key: jax.Array) -> dict[str, jax.Array]:
            latents = jax.random.normal(key, (len(images), latent))
            false = judge(generator(member, latents)[0])
            missed = losses.binary_cross_entropy(false, jnp.ones_like(false))
            return {
                "loss": _errors(real, false),
                "generator_loss": missed,
                "real_score": jax.nn.sigmoid(real),
                "made_score": jax.nn.sigmoid(false),
                "accuracy": ((real > 0).astype(jnp.float32) + (false <= 0)) / 2,
            }

        each = measuring.of_members(one, variables["generator"], key, population)
        return {name: value.mean(axis=0) for name, value in each.items()}

    return measure


def _run(
    apply: Apply, variables: Tree, inputs: jax.Array, key: jax.Array
) -> tuple[jax.Array, Tree]:
    """A network's output in training, and the statistics that it changed."""
    (output, _), changed = apply(
        variables,
        inputs,
        train=True,
        rngs={"dropout": key},
        mutable=[name for name in variables if name not in ("params", _AVERAGE)],
    )
    return output.astype(jnp.float32), changed


def _errors(real: jax.Array, false: jax.Array) -> jax.Array:
    """What a discriminator makes small, f32[B]."""
    return losses.binary_cross_entropy(
        real, jnp.ones_like(real)
    ) + losses.binary_cross_entropy(false, jnp.zeros_like(false))
