"""Certificates of linear networks, whose radii are known, and tests by brute force."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flaxnets import attack, errors
from flaxnets.attack import smoothing

KEY = jax.random.key(0)
SIGMA = 0.1
ALPHA = 0.001
SAMPLES = 2000
DIRECTION = np.array([3, -1, 2, 1], np.float32) / np.sqrt(15, dtype=np.float32)
# Of the pictures from the border between two classes, in standard deviations; the third
# is so near that its class cannot be told.
DISTANCES = np.array([-1.2, -0.5, 0.02, 0.3, 0.9, 5.0])
CLASSES = np.array([1, 1, attack.ABSTAIN, 0, 0, 0])


def linear(variables, images):
    """Class 0 on one side of a plane through the middle of [0, 1], 1 on the other."""
    # Not a matrix product: its sums depend on the size of the batch.
    flat = images.reshape(len(images), -1)
    value = ((flat - 0.5) * variables["direction"][None]).sum(axis=1)
    return 7 * jnp.stack([value, -value], axis=1), {}


VARIABLES = {"direction": DIRECTION}


def pictures(distances: np.ndarray) -> np.ndarray:
    flat = 0.5 + SIGMA * distances[:, None] * DIRECTION
    return flat.reshape(-1, 2, 2, 1).astype(np.float32)


def certified(**options) -> attack.Certified:
    options = {"samples": SAMPLES, "alpha": ALPHA, **options}
    images = pictures(DISTANCES)
    return attack.certify(linear, VARIABLES, images, sigma=SIGMA, key=KEY, **options)


@pytest.fixture(scope="module")
def found() -> attack.Certified:
    return certified()


def test_the_radius_of_a_linear_network(found: attack.Certified) -> None:
    """The share of noise that keeps the class is Phi(distance / sigma), so that the
    radius with infinitely many samples is the distance itself."""
    shares = stats.norm.cdf(np.abs(DISTANCES))
    limits = []
    for tail in (1e-4, 1 - 1e-4):
        counts = stats.binom.ppf(tail, SAMPLES, shares)
        bounds = stats.beta.ppf(ALPHA, counts, SAMPLES - counts + 1)
        limits.append(SIGMA * np.maximum(stats.norm.ppf(bounds), 0))
    low, high = limits
    # Both sides round.
    assert (low * (1 - 1e-9) <= found.radii).all()
    assert (found.radii <= high * (1 + 1e-9)).all()
    assert (found.radii <= SIGMA * np.abs(DISTANCES)).all()
    np.testing.assert_array_equal(found.classes, CLASSES)
    assert found.radii[2] == 0
    # All samples agree here, which limits what can be known.
    greatest = SIGMA * stats.norm.ppf(ALPHA ** (1 / SAMPLES))
    assert found.radii[-1] == pytest.approx(greatest, rel=1e-9)


def test_the_batch_size_changes_nothing(found: attack.Certified) -> None:
    """The last batch is short."""
    other = certified(batch_size=300)
    np.testing.assert_array_equal(other.classes, found.classes)
    np.testing.assert_array_equal(other.radii, found.radii)


def test_the_accuracy_that_is_certified(found: attack.Certified) -> None:
    labels = np.array([1, 0, 0, 0, 0, 0])
    right = np.array([True, False, False, True, True, True])
    assert found.accuracy(labels) == pytest.approx(4 / 6)
    for radius in (0.001, 0.05, 0.1, 0.2, 1.0):
        expected = (right & (found.radii >= radius)).mean()
        assert found.accuracy(labels, radius) == pytest.approx(expected)


def test_prediction_of_a_linear_network() -> None:
    images = pictures(DISTANCES)
    classes = attack.predict_smoothed(linear, VARIABLES, images, sigma=SIGMA, key=KEY)
    assert classes.dtype == np.int32
    np.testing.assert_array_equal(classes, CLASSES)


def test_nothing_is_said_of_a_coin_flip() -> None:
    images = pictures(np.zeros(12))
    options = {"sigma": SIGMA, "key": KEY}
    both = attack.certify(linear, VARIABLES, images, samples=1000, **options)
    assert (both.classes == attack.ABSTAIN).all() and (both.radii == 0).all()
    classes = attack.predict_smoothed(linear, VARIABLES, images, **options)
    assert (classes == attack.ABSTAIN).all()


def test_no_more_than_alpha_are_wrong() -> None:
    """The class is chosen by other samples than those that bound its share: if they
    were the same, twice as many coin flips would be certified."""
    options = {"sigma": SIGMA, "key": KEY, "selection": 1000, "samples": 1000}
    images = pictures(np.zeros(100))
    found = attack.certify(linear, VARIABLES, images, alpha=0.4, **options)
    # Two standard deviations above the 38 to be expected.
    assert 0.2 < (found.classes != attack.ABSTAIN).mean() < 0.48
    # Each picture has noise of its own.
    assert len(np.unique(found.radii)) > 10


def test_a_class_can_lead_without_a_majority() -> None:
    """Shares of 26, 48 and 26 %: the class is known, and no radius."""

    def middle(variables, images):
        value = images[:, 0, 0, 0]
        return -jnp.stack([jnp.abs(value - at) for at in (-1.286, 0, 1.286)], 1), {}

    images = np.zeros((1, 1, 1, 1), np.float32)
    options = {"sigma": 1.0, "key": KEY}
    classes = attack.predict_smoothed(middle, {}, images, **options)
    assert classes.tolist() == [1]
    both = attack.certify(middle, {}, images, samples=1000, **options)
    assert both.classes.tolist() == [attack.ABSTAIN] and both.radii.tolist() == [0]


def at_least(successes: int, trials: int, share: float) -> float:
    return math.fsum(
        math.comb(trials, count) * share**count * (1 - share) ** (trials - count)
        for count in range(successes, trials + 1)
    )


def test_the_lower_bound_is_where_so_many_successes_become_rare() -> None:
    for successes, trials, alpha in (
        (1, 1, 0.05),
        (1, 20, 0.001),
        (13, 20, 0.01),
        (39, 40, 0.001),
        (40, 40, 0.001),
    ):
        low, high = 0.0, 1.0
        for _ in range(60):
            share = (low + high) / 2
            if at_least(successes, trials, share) < alpha:
                low = share
            else:
                high = share
        bound = smoothing.lower_bound(successes, trials, alpha)
        assert bound == pytest.approx(low, rel=1e-9)
    assert smoothing.lower_bound(0, 10, 0.001) == 0


def test_the_binomial_test_adds_what_is_as_unlikely() -> None:
    for trials in (1, 2, 7, 30):
        ways = [math.comb(trials, count) for count in range(trials + 1)]
        for successes in range(trials + 1):
            unlikely = sum(way for way in ways if way <= ways[successes])
            value = smoothing.binomial_test(successes, trials)
            assert value == pytest.approx(unlikely / 2**trials, rel=1e-9)


def test_bad_options_are_refused() -> None:
    for options, message in (
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        # 0.001^(1/9) is 0.46, and 2 / 2^9 more than 0.001.
        ({"samples": 9}, "samples is 9, but with alpha=0.001 fewer than"),
    ):
        for function in (attack.certify, attack.predict_smoothed):
            given = {"sigma": SIGMA, "key": KEY, **options}
            with pytest.raises(errors.ArgumentError, match=message):
                function(linear, VARIABLES, pictures(DISTANCES), **given)
    with pytest.raises(errors.ArgumentError, match="selection is 0"):
        certified(selection=0)
    with pytest.raises(errors.DataError, match="go from 0 to 2"):
        attack.predict_smoothed(
            linear, VARIABLES, np.eye(2).reshape(1, 2, 2, 1) * 2, sigma=SIGMA, key=KEY
        )


def test_a_network_that_is_not_finite_is_not_certified() -> None:
    broken = {"direction": np.full(4, np.nan, np.float32)}
    with pytest.raises(errors.ArgumentError, match="finite for 100 of 100 samples"):
        attack.certify(
            linear, broken, pictures(DISTANCES), sigma=SIGMA, key=KEY, samples=SAMPLES
        )
