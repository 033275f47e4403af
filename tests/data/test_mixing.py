"""Mixtures of examples: what a mixture is, and how its parts are drawn."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flaxnets import errors
from flaxnets.data import mixing

KEY = jax.random.key(0)
BATCH, HEIGHT, WIDTH, CLASSES = 6, 12, 9, 7
# Example i has class i, and pixels that no other example has.
TARGETS = jnp.eye(BATCH, CLASSES)
IMAGES = jax.random.uniform(jax.random.key(1), (BATCH, HEIGHT, WIDTH, 3))
FEATURES = jax.random.normal(jax.random.key(2), (BATCH, 5))
BOTH = mixing.one_of(mixing.mixup(0.4), mixing.cutmix(1.0), probability=0.6)
ALL = {"mixup": mixing.mixup(0.4), "cutmix": mixing.cutmix(1.0), "one_of": BOTH}


def many(mix: mixing.Mix, images: jax.Array, targets: jax.Array, count: int) -> Any:
    """What `count` keys make of a batch, as NumPy arrays."""

    def scan(_: None, key: jax.Array) -> Any:
        return None, mix(key, images, targets)

    _, found = jax.lax.scan(scan, None, jax.random.split(KEY, count))
    return [np.asarray(values) for values in found]


@functools.cache
def drawn(name: str) -> Any:
    """Two hundred mixtures of the same images, and their targets."""
    return many(ALL[name], IMAGES, TARGETS, 200)


def shares_and_partners(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each example: its own share, and whom it is mixed with."""
    own = np.arange(BATCH)
    shares = targets[..., own, own]
    others = np.array(targets)
    others[..., own, own] = 0
    return shares, others.argmax(axis=-1)


@pytest.mark.parametrize("name", ALL)
def test_same_key_same_mixture_and_another_key_another(name: str) -> None:
    mix = jax.jit(ALL[name])
    keys = jax.random.split(KEY, 200)
    images, targets = drawn(name)
    for place in (0, 1, 2, 3, 199):
        alone = mix(keys[place], IMAGES, TARGETS)
        # Compiled together or alone, float32 rounds differently.
        np.testing.assert_allclose(alone[0], images[place], atol=1e-6)
        np.testing.assert_allclose(alone[1], targets[place], atol=1e-6)
    for values in (images, targets):
        assert len({batch.tobytes() for batch in values}) > 20


@pytest.mark.parametrize("name", ALL)
def test_targets_are_probabilities_and_the_partner_is_the_one_before(name: str) -> None:
    _, targets = drawn(name)
    assert targets.dtype == np.float32 and targets.min() >= 0
    np.testing.assert_allclose(targets.sum(axis=-1), 1, atol=1e-6)
    assert (targets > 0).sum(axis=-1).max() == 2
    shares, partners = shares_and_partners(targets)
    mixed = np.all(shares < 1, axis=1)
    assert mixed.sum() > 80
    assert np.all(partners[mixed] == [BATCH - 1, *range(BATCH - 1)])


@pytest.mark.parametrize("examples", [IMAGES, IMAGES[..., :1], FEATURES])
def test_mixup_blends_examples_as_their_targets(examples: jax.Array) -> None:
    mixed, targets = many(mixing.mixup(1.0), examples, TARGETS, 20)
    shares, partners = shares_and_partners(targets)
    assert np.all(shares == shares[:, :1]), "one share for each batch"
    values = np.asarray(examples, np.float64)
    for batch, own, others in zip(mixed, shares[:, 0], partners, strict=True):
        expected = own * values + (1 - own) * values[others]
        np.testing.assert_allclose(batch, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_cutmix_puts_in_one_box_and_its_share_is_that_of_the_pixels(
    channels: int,
) -> None:
    before = np.asarray(IMAGES[..., :channels])
    mixed, targets = many(mixing.cutmix(1.0), jnp.asarray(before), TARGETS, 200)
    shares, partners = shares_and_partners(targets)
    sizes = set()
    for batch, own, others in zip(mixed, shares, partners, strict=True):
        kept = np.all(batch == before, axis=(0, 3))
        foreign = np.all(batch == before[others], axis=(0, 3))
        np.testing.assert_array_equal(foreign, ~kept)
        rows, columns = np.nonzero(foreign)
        height, width = (np.ptp(x) + 1 if len(x) else 0 for x in (rows, columns))
        assert foreign.sum() == height * width, "a box"
        # One of the 108 pixels more or less is 0.009.
        np.testing.assert_allclose(own, kept.mean(), atol=1e-6)
        sizes.add((height, width))
    assert len(sizes) > 20


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixups_share_is_betas(alpha: float) -> None:
    _, targets = many(mixing.mixup(alpha), FEATURES[:2], TARGETS[:2, :2], 3000)
    found: Any = stats.kstest(targets[:, 0, 0], stats.beta(alpha, alpha).cdf)
    assert found.pvalue > 1e-3


@pytest.mark.parametrize(("alpha", "height", "width"), [(0.3, 40, 25), (1.0, 30, 30)])
def test_cutmixs_boxes_are_the_papers(alpha: float, height: int, width: int) -> None:
    """Centre, sides and what is cut off, as a loop draws them."""
    count = 3000
    images = jnp.zeros((2, height, width, 1)).at[1].set(1)
    mixed, _ = many(mixing.cutmix(alpha), images, jnp.eye(2), count)
    boxes = mixed[:, 0, :, :, 0] == 1
    rng = np.random.default_rng(0)
    expected = np.zeros((count, height, width), bool)
    for box in expected:
        side = math.sqrt(1 - rng.beta(alpha, alpha))
        places = []
        for length in (height, width):
            size, centre = int(length * side), rng.integers(length)
            low = centre - size // 2
            places.append(slice(max(low, 0), min(low + size, length)))
        box[tuple(places)] = True

    def described(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        rows, columns = boxes.any(axis=2), boxes.any(axis=1)
        tops, lefts = rows.argmax(axis=1), columns.argmax(axis=1)
        return rows.sum(axis=1), columns.sum(axis=1), tops, lefts, tops - lefts

    for found, other in zip(described(boxes), described(expected), strict=True):
        result: Any = stats.ks_2samp(found, other)
        assert result.pvalue > 1e-3


def marked(mark: float) -> mixing.Mix:
    """Adds a mark, and a draw of its own, to what are zeros."""
    return lambda key, images, targets: (
        images + mark + jax.random.uniform(key),
        targets,
    )


def test_one_of_takes_each_as_often_and_none_with_the_rest() -> None:
    mix = mixing.one_of(marked(1.0), marked(2.0), probability=0.6)
    images, _ = many(mix, jnp.zeros((2, 1)), jnp.eye(2), 3000)
    marks = images[:, 0, 0]
    counts = np.bincount(marks.astype(int), minlength=3)
    # Two degrees of freedom pass 13.8 once in 1,000.
    expected = np.array([1200, 900, 900])
    assert np.sum((counts - expected) ** 2 / expected) < 13.8
    assert np.all(marks[marks < 1] == 0), "not mixed at all"
    # What is drawn within a way of mixing does not depend on the choice.
    for mark in (1, 2):
        draws = marks[marks.astype(int) == mark] % 1
        found: Any = stats.kstest(draws, stats.uniform.cdf)
        assert found.pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_one_of_with_certainty(probability: float) -> None:
    mix = mixing.one_of(marked(1.0), probability=probability)
    images, _ = many(mix, jnp.zeros((2, 1)), jnp.eye(2), 100)
    assert np.all((images >= 1) == (probability == 1))


@pytest.mark.parametrize("name", ALL)
def test_an_example_alone_is_mixed_with_itself(name: str) -> None:
    images, targets = many(ALL[name], IMAGES[:1], TARGETS[:1], 10)
    np.testing.assert_allclose(images, [IMAGES[:1]] * 10, atol=1e-6)
    np.testing.assert_allclose(targets, [TARGETS[:1]] * 10, atol=1e-6)


def test_soft_targets_are_mixed_too() -> None:
    soft = jax.nn.softmax(jax.random.normal(KEY, (BATCH, CLASSES)))
    _, targets = mixing.mixup(1.0)(KEY, FEATURES, soft)
    _, hard = mixing.mixup(1.0)(KEY, FEATURES, jnp.eye(BATCH))
    # What is done to one-hot rows says how rows are summed.
    np.testing.assert_allclose(targets, np.asarray(hard) @ soft, atol=1e-6)


def test_numbers_of_half_precision_stay_so() -> None:
    half = FEATURES.astype(jnp.bfloat16)
    for mix in (mixing.mixup(1.0), mixing.one_of(mixing.mixup(1.0), probability=0.5)):
        features, targets = mix(KEY, half, TARGETS)
        assert features.dtype == jnp.bfloat16 and targets.dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixing.mixup(0.0), "mixup's alpha is 0.0, but must be above 0"),
        (lambda: mixing.mixup(math.inf), "mixup's alpha is inf"),
        (lambda: mixing.cutmix(-1.0), "cutmix's alpha is -1.0, but must be above 0"),
        (lambda: mixing.cutmix(math.nan), "cutmix's alpha is nan"),
        (lambda: mixing.one_of(), "one_of was given nothing"),
        (
            lambda: mixing.one_of(mixing.mixup(1.0), probability=1.5),
            "probability is 1.5, but must be between 0 and 1",
        ),
        (
            lambda: mixing.cutmix(1.0)(KEY, FEATURES, TARGETS),
            r"cutmix needs images \[B, H, W, C\].*float32\[6, 5\].*mixup",
        ),
        (
            lambda: mixing.mixup(1.0)(KEY, jnp.zeros((6, 4, 4, 1), jnp.uint8), TARGETS),
            r"images are uint8\[6, 4, 4, 1\], but must be floats",
        ),
        (
            lambda: mixing.mixup(1.0)(KEY, FEATURES, jnp.arange(6)),
            r"targets are int32\[6\].*float32\[6, classes\].*one_hot",
        ),
        (
            lambda: mixing.cutmix(1.0)(KEY, IMAGES, TARGETS[:5]),
            r"targets are float32\[5, 7\].*float32\[6, classes\]",
        ),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make()
