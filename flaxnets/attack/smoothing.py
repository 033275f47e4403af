"""Randomised smoothing: a classifier that is known to withstand every perturbation.

Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918). The smoothed classifier gives a
picture the class that the network gives most often to the picture with normal noise. It
is constant in a ball around the picture whose L2 radius the share of that class tells
(theorem 1). Nothing is assumed of the network, which does well if it was trained on
such noise: `losses.classification(apply, augment=data.corruption.gaussian(sigma))`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, running
from flaxnets.train.evaluation import Apply

ABSTAIN = -1
"""The class of pictures for which there were too few samples to tell one."""


@dataclasses.dataclass(frozen=True)
class Certified:
    """What is known of the smoothed classifier.

    Attributes:
        classes: int32[N], its class for each picture; `ABSTAIN` where not known.
        radii: f64[N], the L2 norm, over all values of a picture in [0, 1], below which
            no perturbation changes it; 0 where not known.
    """

    classes: np.ndarray
    radii: np.ndarray

    def accuracy(self, labels: np.ndarray, radius: float = 0.0) -> float:
        """The share that is certified to be right up to a radius.

        Args:
            labels: int[N], the true classes.
            radius: L2 norm. At 0, where the class is right, whatever its radius.
        """
        return float(np.mean((self.classes == labels) & (self.radii >= radius)))


def certify(
    apply: Apply,
    variables: Any,
    images: np.ndarray,
    *,
    sigma: float,
    key: jax.Array,
    selection: int = 100,
    samples: int = 100_000,
    alpha: float = 0.001,
    batch_size: int = 1000,
) -> Certified:
    """The smoothed classifier's classes, and how far around each picture they hold.

    Cohen et al. 2019, section 3.2.2, CERTIFY: `selection` samples choose a class, and
    `samples` others give a lower bound of its share p, from which the radius is
    sigma Phi^-1(p). It abstains where the bound is not above one half. For each picture
    the class or the radius is wrong with a probability of at most alpha. As in the
    paper noise is not cut to [0, 1], and float32 counts as exact.

    Args:
        apply, variables: the network, see `run`; it need not be differentiable.
        images: uint8, or floats in [0, 1], [N, H, W, C].
        sigma: standard deviation of the noise; white is 1.
        key: of the noise. Each sample of each picture has a key of its own, made of
            this and its place, so that the batch size changes nothing.
        selection: samples that choose the class, n0 in the paper.
        samples: samples that bound its share, n in the paper. They limit the radius:
            at most sigma Phi^-1(alpha^(1 / samples)) can be certified.
        alpha: see above.
        batch_size: samples in a compiled call, all of one picture.

    Raises:
        DataError: pictures that cannot be used.
        ArgumentError: an option out of its range, so few samples that nothing can be
            certified, or a network whose logits are not finite or none.
    """
    base.check_at_least_one("selection", selection)
    # alpha^(1 / samples), the bound if all agree, is then above one half.
    _check_options(sigma, alpha, samples, least=lambda bits: math.floor(bits) + 1)
    size = min(batch_size, max(selection, samples))
    sampled = _Sampled(apply, variables, images, sigma, key, size)
    classes = np.full(len(sampled.images), ABSTAIN, np.int32)
    radii = np.zeros(len(sampled.images))
    for place in range(len(sampled.images)):
        chosen = sampled.counts(place, 0, selection).argmax()
        count = sampled.counts(place, selection, selection + samples)[chosen]
        bound = lower_bound(count, samples, alpha)
        if bound > 0.5:
            classes[place], radii[place] = chosen, sigma * _quantile(bound)
    return Certified(classes, radii)


def predict_smoothed(
    apply: Apply,
    variables: Any,
    images: np.ndarray,
    *,
    sigma: float,
    key: jax.Array,
    samples: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 1000,
) -> np.ndarray:
    """The smoothed classifier's classes alone, int32[N]; `ABSTAIN` where not known.

    Cohen et al. 2019, section 3.2.1, PREDICT: it abstains where the counts of the two
    most frequent classes could come from equal shares (two-sided binomial test). For
    each picture another class than the smoothed classifier's is returned with a
    probability of at most alpha.

    Args:
        samples: of the noise, for each picture.
        apply, variables, images, sigma, key, alpha, batch_size: see `certify`.

    Raises:
        DataError, ArgumentError: see `certify`.
    """
    # 2 / 2^samples, the test's value if all agree, is then at most alpha.
    _check_options(sigma, alpha, samples, least=lambda bits: math.ceil(bits) + 1)
    size = min(batch_size, samples)
    sampled = _Sampled(apply, variables, images, sigma, key, size)
    classes = np.full(len(sampled.images), ABSTAIN, np.int32)
    for place in range(len(sampled.images)):
        counts = sampled.counts(place, 0, samples)
        second, first = map(int, np.sort(counts)[-2:])
        if binomial_test(first, first + second) <= alpha:
            classes[place] = counts.argmax()
    return classes


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """Of a probability, a bound that is too high with probability alpha at most.

    The one-sided one of Clopper and Pearson 1934: the probability with which so many
    successes or more come about in a share alpha of cases.
    """
    # Here since few who attack need it, and it takes long to import.
    from scipy import special

    if successes == 0:
        return 0.0
    return float(special.betaincinv(successes, trials - successes + 1, alpha))


def binomial_test(successes: int, trials: int) -> float:
    """How likely counts at least as unequal are if both outcomes are equally likely."""
    from scipy import special

    larger = max(successes, trials - successes)
    # Both tails are the same; in the middle they overlap.
    return min(1.0, 2 * float(special.betainc(larger, trials - larger + 1, 0.5)))


class _Sampled:
    """How often a network gives each class to pictures with noise."""

    def __init__(
        self,
        apply: Apply,
        variables: Any,
        images: np.ndarray,
        sigma: float,
        key: jax.Array,
        batch_size: int,
    ) -> None:
        base.check_at_least_one("batch_size", batch_size)
        self.images = running.checked_images(images)
        self._classes = running.count_classes(apply, variables, self.images)
        self._count = functools.partial(
            _counted, apply, self._classes, batch_size, variables
        )
        self._sigma, self._key, self._batch_size = np.float32(sigma), key, batch_size

    def counts(self, place: int, start: int, stop: int) -> np.ndarray:
        """Of the samples `start` to `stop`, without it, of one picture, int[K]."""
        key = jax.random.fold_in(self._key, place)
        found = np.zeros(self._classes + 1, np.int32)
        for first in range(start, stop, self._batch_size):
            limits = np.array([first, stop], np.int32)
            found = self._count(found, self.images[place], self._sigma, key, limits)
        *counts, broken = np.asarray(found)
        if broken:
            raise errors.ArgumentError(
                f"the network's logits are not finite for {broken} of {stop - start} "
                f"samples of noise around image {place}; check its weights and its "
                "preprocessing, which must take values outside [0, 1]"
            )
        return np.array(counts)


# The network is an argument, so that all calls share what is compiled.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _counted(
    apply: Apply,
    classes: int,
    batch_size: int,
    variables: Any,
    counts: jax.Array,
    image: jax.Array,
    sigma: jax.Array,
    key: jax.Array,
    limits: jax.Array,
) -> jax.Array:
    """The counts int32[K + 1] with a batch's added; the last is of what is not finite.

    Args:
        limits: int32[2], the batch's first sample, and the first that is not wanted.
    """
    first, stop = limits
    numbers = first + jnp.arange(batch_size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    noise = jax.vmap(lambda key: jax.random.normal(key, image.shape))(keys)
    logits = apply(variables, image[None] + sigma * noise)[0]
    chosen = jnp.where(
        jnp.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), classes
    )
    # Samples that are not wanted are of no class.
    chosen = jnp.where(numbers < stop, chosen, classes + 1)
    return counts + jax.nn.one_hot(chosen, classes + 1, dtype=jnp.int32).sum(axis=0)


def _quantile(probability: float) -> float:
    """Phi^-1, of the standard normal distribution."""
    from scipy import special

    return float(special.ndtri(probability))


def _check_options(
    sigma: float, alpha: float, samples: int, least: Callable[[float], int]
) -> None:
    if not math.isfinite(sigma) or sigma <= 0:
        raise errors.ArgumentError(
            f"sigma is {sigma}, but must be positive and finite; it is in units of "
            "pictures in [0, 1]"
        )
    if not 0 < alpha < 1:
        raise errors.ArgumentError(
            f"alpha is {alpha}, but must be between 0 and 1; it is the probability of "
            "an error"
        )
    needed = least(-math.log2(alpha))
    if samples < needed:
        raise errors.ArgumentError(
            f"samples is {samples}, but with alpha={alpha} fewer than {needed} could "
            "never tell a class; give more"
        )
