"""Losses of robust training against formulas in numpy, and gradients by differences."""

import jax
import numpy as np
import optax
import pytest

from flaxnets import attack, errors, models, params, train
from tests.attack import players, small

KEY = jax.random.key(0)
KERNEL = players.drawn(1, players.PIXELS, players.CLASSES)
# Far from that of any batch, so that it matters which of the two is used.
STORED = np.array([1.0, -0.5, 0.2, -1.0], np.float32)
BATCH = players.batch(0, 12)
LABELS = BATCH["label"]
EPSILON = 0.3


def apply(variables, images, *, train=False, rngs=None, mutable=()):
    """Logits (images - mean) V; in training the mean is the batch's, and moves the
    stored one half way."""
    flat = images.reshape(len(images), -1)
    stored = variables["moments"]["mean"]
    mean = flat.mean(axis=0) if train else stored
    logits = (flat - mean[None]) @ variables["params"]["kernel"]
    if not isinstance(mutable, list):
        return logits, {}
    return (logits, {}), {"moments": {"mean": (stored + mean) / 2}}


def flipped(key, images):
    return images[:, ::-1]


def flat(images) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def trained(kernel, images) -> np.ndarray:
    return (images - images.mean(axis=0)) @ kernel


def moved(stored, images) -> np.ndarray:
    return (stored + images.mean(axis=0)) / 2


def log_shares(logits) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def entropy(logits, smoothing=0.0) -> np.ndarray:
    targets = (1 - smoothing) * np.eye(players.CLASSES)[LABELS]
    targets += smoothing / players.CLASSES
    return -(targets * log_shares(logits)).sum(axis=1)


def divergence(logits, others) -> np.ndarray:
    shares = log_shares(logits)
    return (np.exp(shares) * (shares - log_shares(others))).sum(axis=1)


def fgsm_by_hand(images) -> np.ndarray:
    """Of the network as it is used: with the stored mean."""
    shares = np.exp(log_shares((images - STORED) @ KERNEL.astype(np.float64)))
    slopes = (shares - np.eye(players.CLASSES)[LABELS]) @ KERNEL.T
    # No sign depends on rounding.
    assert np.abs(slopes).min() > 1e-5
    return np.clip(images + EPSILON * np.sign(slopes), 0, 1)


def accuracy(logits) -> float:
    return float((logits.argmax(axis=1) == LABELS).mean())


def differences(formula) -> np.ndarray:
    """The gradient at KERNEL, by central differences in float64."""
    found = np.zeros(KERNEL.shape)
    for place in np.ndindex(KERNEL.shape):
        step = np.zeros(KERNEL.shape)
        step[place] = 1e-5
        found[place] = (formula(KERNEL + step) - formula(KERNEL - step)) / 2e-5
    return found


def measured(loss):
    run = players.quick(jax.value_and_grad(loss, has_aux=True))
    statistics = {"moments": {"mean": STORED}}
    (value, (statistics, metrics)), slopes = run(
        {"kernel": KERNEL}, statistics, BATCH, KEY
    )
    assert metrics["loss"] == value
    return value, statistics["moments"]["mean"], metrics, slopes["kernel"]


@pytest.mark.parametrize(
    ("share", "smoothing", "augment"), [(1.0, 0.0, None), (0.4, 0.1, flipped)]
)
def test_adversarial_is_the_cross_entropy_at_the_attacks_pictures(
    share, smoothing, augment
) -> None:
    loss = attack.adversarial(
        apply,
        attack.fgsm(EPSILON),
        share=share,
        label_smoothing=smoothing,
        augment=augment,
    )
    value, mean, metrics, slopes = measured(loss)
    images = BATCH["image"] if augment is None else augment(KEY, BATCH["image"])
    images = flat(images)
    shown = fgsm_by_hand(images)

    def formula(kernel) -> float:
        clean = entropy(trained(kernel, images), smoothing).mean()
        attacked = entropy(trained(kernel, shown), smoothing).mean()
        return (1 - share) * clean + share * attacked

    np.testing.assert_allclose(value, formula(KERNEL), rtol=1e-5)
    np.testing.assert_allclose(slopes, differences(formula), rtol=1e-4, atol=1e-5)
    # The attack itself, and clean pictures that nothing is learned from, leave it.
    before = STORED if share == 1 else moved(STORED, images)
    np.testing.assert_allclose(mean, moved(before, shown), rtol=1e-5)
    as_used = (images - STORED) @ KERNEL
    clean = as_used if share == 1 else trained(KERNEL, images)
    assert metrics["accuracy"] == pytest.approx(accuracy(clean))
    robust = accuracy(trained(KERNEL, shown))
    assert metrics["robust_accuracy"] == pytest.approx(robust)


def test_trades_is_the_cross_entropy_and_the_divergence() -> None:
    value, mean, metrics, slopes = measured(
        attack.trades(apply, attack.fgsm(EPSILON), beta=2.5, label_smoothing=0.1)
    )
    images = flat(BATCH["image"])
    shown = fgsm_by_hand(images)

    def formula(kernel) -> float:
        clean, attacked = trained(kernel, images), trained(kernel, shown)
        return (entropy(clean, 0.1) + 2.5 * divergence(clean, attacked)).mean()

    np.testing.assert_allclose(value, formula(KERNEL), rtol=1e-5)
    np.testing.assert_allclose(slopes, differences(formula), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, moved(moved(STORED, images), shown), rtol=1e-5)
    clean, attacked = trained(KERNEL, images), trained(KERNEL, shown)
    assert metrics["accuracy"] == pytest.approx(accuracy(clean))
    assert metrics["robust_accuracy"] == pytest.approx(accuracy(attacked))


def test_many_steps_are_constants_to_the_gradient() -> None:
    """An attack with a loop, as if its pictures had been given. For l2, since the
    derivative of signs is zero anyway."""
    made = attack.pgd(EPSILON, "l2", steps=3)

    def attacker(logits, images, labels, key):
        return made(logits, images, labels, KEY)

    variables = {"params": {"kernel": KERNEL}, "moments": {"mean": STORED}}
    run = players.quick(
        lambda images: attacker(
            lambda images: apply(variables, images)[0], images, LABELS, KEY
        )
    )
    found = run(BATCH["image"])
    assert np.abs(found - BATCH["image"]).max() > 0.1
    value, _, _, slopes = measured(attack.adversarial(apply, attacker))
    expected, _, _, its = measured(attack.adversarial(apply, lambda *given: found))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, its, rtol=1e-4, atol=1e-6)


def test_the_divergence_is_raised_as_far_as_it_goes() -> None:
    """Of two classes and a linear network it is greatest at one of two corners."""
    kernel = KERNEL[:, :2]
    images = (0.4 + 0.2 * BATCH["image"]).astype(np.float32)

    def logits(images):
        return images.reshape(len(images), -1) @ kernel

    run = small.compiled(attack.kl_pgd(0.1, steps=5), logits)
    keys = jax.random.split(KEY, len(images))
    found = np.asarray(run(images, LABELS, keys))
    small.assert_bounded(found, images, 0.1, "linf")
    direction = np.sign(kernel[:, 0] - kernel[:, 1]).reshape(images.shape[1:])
    sides = (found - images) / (0.1 * direction[None])
    np.testing.assert_allclose(np.abs(sides.sum(axis=(1, 2, 3))), 4, rtol=1e-5)
    # Each picture has its own noise to start from, whatever the labels are.
    assert {-4, 4} == set(np.round(sides.sum(axis=(1, 2, 3))).tolist())
    np.testing.assert_array_equal(run(images, LABELS[::-1], keys), found)
    turned = run(images[::-1], LABELS, keys[::-1])
    np.testing.assert_allclose(turned[::-1], found, rtol=0, atol=1e-6)


def test_the_divergence_is_never_below_that_at_the_start() -> None:
    images, labels = small.pictures(), np.zeros(len(small.pictures()), int)
    before = np.asarray(jax.jit(small.curved)(images), np.float64)

    def reached(**options) -> tuple[np.ndarray, np.ndarray]:
        made = attack.kl_pgd(0.2, "l2", **options)
        found = small.compiled(made, small.curved)(images, labels, KEY)
        small.assert_bounded(found, images, 0.2, "l2")
        after = np.asarray(small.curved(np.asarray(found)), np.float64)
        return np.asarray(found), divergence(before, after)

    start, from_start = reached(steps=1, step_size=0.0)
    assert 0.0005 < (start - images)[(images > 0) & (images < 1)].std() < 0.0015
    _, at_the_end = reached(steps=4)
    assert (at_the_end > 2 * from_start).all() and at_the_end.min() > 1e-3


def test_a_scaled_attack_has_a_smaller_bound_and_smaller_steps() -> None:
    def logits(images):
        return images.reshape(len(images), -1) @ KERNEL

    def ran(made, images):
        return made(logits, images, LABELS, KEY)

    options = {"steps": 3, "random_start": False}

    @players.quick
    def smaller(scale, images):
        return ran(attack.scaled(attack.pgd(0.2, **options), scale), images)

    # The greater bound does not reach 0 or 1.
    grey = (0.4 + 0.2 * BATCH["image"]).astype(np.float32)
    expected = players.quick(lambda images: ran(attack.pgd(0.05, **options), images))
    np.testing.assert_allclose(
        smaller(np.float32(0.25), grey), expected(grey), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(smaller(np.float32(0), grey), grey)
    edges = np.round(BATCH["image"])
    found = np.asarray(smaller(np.float32(0.25), edges))
    assert found.min() == 0 and found.max() == 1
    assert 0.0499 < np.abs(found - edges).max() < 0.05 + 1e-6


def test_a_network_of_the_library_learns_with_a_warm_up() -> None:
    model = models.CNN(3, (2,), 1, (4,), dropout=0.5)
    optimizer = optax.sgd(0.1)

    @players.quick
    def step(state, batch):
        smaller = attack.scaled(attack.kl_pgd(0.2, steps=2), state.step / 2)
        loss = attack.trades(model.apply, smaller)
        made = train.make_step(loss, optimizer, frozen="conv1/bias")
        return made(state, batch)

    variables = params.initialize(model, KEY, (1, 2, 2, 1))
    state = train.create(variables, optimizer, key=KEY, frozen="conv1/bias")
    before = params.flatten(jax.device_get(state.params))
    for _ in range(2):
        state, metrics = step(state, BATCH)
        assert all(np.isfinite(value) for value in metrics.values())
    after = params.flatten(state.params)
    still = {name for name in after if np.array_equal(before[name], after[name])}
    assert still == {"conv1/bias"}


def test_bad_options_are_refused() -> None:
    made = attack.fgsm(0.1)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(errors.ArgumentError, match=f"share is {share}"):
            attack.adversarial(apply, made, share=share)
    for beta in (-1.0, float("nan")):
        with pytest.raises(errors.ArgumentError, match=f"beta is {beta}"):
            attack.trades(apply, made, beta=beta)
    for options, message in (
        ({"epsilon": 2.0}, "epsilon is 2.0"),
        ({"epsilon": 0.1, "steps": 0}, "steps is 0"),
        ({"epsilon": 0.1, "step_size": -1.0}, "step_size is -1.0"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            attack.kl_pgd(**options)
