"""Linear networks, whose worst perturbation is a formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack import base, gradient

SHAPE = (4, 3, 2)
CLASSES = 3
EPSILON = 0.1
KEY = jax.random.key(0)
# Compiled in a third of the time; nothing here runs long.
QUICK = {"xla_backend_optimization_level": "0"}


def linear(seed: int = 0) -> tuple[np.ndarray, base.Logits]:
    """A linear classifier's weights [24, K], and its logits."""
    weights = np.random.default_rng(seed).normal(size=(24, CLASSES)).astype(np.float32)
    return weights, lambda images: images.reshape(len(images), -1) @ weights


def pictures(count: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey enough that no attack here meets 0 or 1."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.3, 0.7, (count, *SHAPE)).astype(np.float32)
    return images, generator.integers(0, CLASSES, count).astype(np.int32)


def ran(made: base.Attack, logits: base.Logits, *arguments, key=KEY) -> np.ndarray:
    run = jax.jit(lambda *given: made(logits, *given), compiler_options=QUICK)
    return np.asarray(run(*arguments, key))


def gradients(weights: np.ndarray, images: np.ndarray, labels: np.ndarray):
    """Of the cross-entropy by its formula: weights (softmax - one-hot)."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    share = powers / powers.sum(axis=1, keepdims=True)
    return ((share - np.eye(CLASSES)[labels]) @ weights.T).reshape(images.shape)


def unit(directions: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.square(directions).sum(axis=(1, 2, 3), keepdims=True))
    return directions / length


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_the_gradients_sign(targeted: bool) -> None:
    weights, logits = linear()
    images, labels = pictures()
    found = ran(attack.fgsm(EPSILON, targeted=targeted), logits, images, labels)
    sign = np.sign(gradients(weights, images, labels)) * (-1 if targeted else 1)
    np.testing.assert_allclose(found, images + EPSILON * sign, rtol=0, atol=1e-6)


def test_fgsm_for_l2_is_along_the_gradient() -> None:
    weights, logits = linear()
    images, labels = pictures()
    found = ran(attack.fgsm(EPSILON, "l2"), logits, images, labels)
    expected = images + EPSILON * unit(gradients(weights, images, labels))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_fgsm_from_a_random_start_steps_further() -> None:
    """From u epsilon, u uniform in [-1, 1], to (u + 1.25) epsilon, at most epsilon."""
    weights, logits = linear()
    images, labels = pictures(40)
    found = ran(attack.fgsm(EPSILON, random_start=True), logits, images, labels)
    sign = np.sign(gradients(weights, images, labels))
    ahead = (found - images) * sign / EPSILON
    # Where the sign is another one at the start, the step goes the other way.
    ahead = ahead[(ahead > 0).all(axis=(1, 2, 3))]
    assert len(ahead) > 20
    assert ahead.min() == pytest.approx(0.25, abs=0.02)
    assert (ahead > 1 - 1e-5).mean() == pytest.approx(0.625, abs=0.08)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_finds_the_worst_point_of_a_binary_linear_network(norm, targeted) -> None:
    """The gradient's direction is the same everywhere: it ends in one known point."""
    weights, _ = linear()

    def logits(images):
        return images.reshape(len(images), -1) @ weights[:, :2]

    images, labels = pictures()
    labels = labels % 2
    made = attack.pgd(
        EPSILON,
        norm,
        steps=40,
        step_size=EPSILON / 2,
        # From whatever start, and towards the only other class.
        restarts=2 if targeted else 1,
        targeted=targeted,
    )
    found = ran(made, logits, images, 1 - labels if targeted else labels)
    difference = (weights[:, 1] - weights[:, 0]).reshape(1, *SHAPE)
    difference = difference * np.where(labels == 0, 1, -1)[:, None, None, None]
    ahead = np.sign(difference) if norm == "linf" else unit(difference)
    # For l2 each step leaves 2/3 of what the random start has aside.
    np.testing.assert_allclose(found, images + EPSILON * ahead, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "made",
    [
        attack.pgd(0.3, restarts=2, steps=5),
        attack.pgd(0.7, "l2", steps=5),
        attack.mi_fgsm(0.3, steps=3),
    ],
)
def test_bounds_hold_to_the_last_bit(made: base.Attack) -> None:
    _, logits = linear()
    generator = np.random.default_rng(1)
    images = generator.random((16, *SHAPE), np.float32)
    images[0], images[1] = 0, 1
    labels = generator.integers(0, CLASSES, 16).astype(np.int32)
    found = ran(made, logits, images, labels)
    assert ((found >= 0) & (found <= 1)).all()
    difference = found.astype(np.float64) - images
    length = np.sqrt(np.square(difference).sum(axis=(1, 2, 3)))
    assert (np.abs(difference) <= 0.3).all() or (length <= 0.7).all()


def test_bim_and_mi_fgsm_against_loops() -> None:
    weights, logits = linear()
    images, labels = pictures()
    for decay in (0.0, 0.7):
        made = attack.mi_fgsm(EPSILON, decay=decay, steps=6, step_size=0.03)
        points, velocity = images, np.zeros(images.shape)
        for _ in range(6):
            slope = gradients(weights, points, labels)
            mean = np.abs(slope).mean(axis=(1, 2, 3), keepdims=True)
            velocity = decay * velocity + slope / mean
            points = points + np.float32(0.03) * np.sign(velocity)
            points = np.clip(points, images - EPSILON, images + EPSILON)
        found = ran(made, logits, images, labels)
        np.testing.assert_allclose(found, points, rtol=0, atol=1e-6)
        if not decay:
            same = attack.bim(EPSILON, steps=6, step_size=0.03)
            np.testing.assert_array_equal(ran(same, logits, images, labels), found)


def bumpy(images: jax.Array) -> jax.Array:
    """Two classes with many local maxima, so that restarts end in several points."""
    flat = images.reshape(len(images), -1)
    value = jnp.sin(40 * flat).sum(axis=1)
    return jnp.stack([value, jnp.full_like(value, -4.0)], axis=1)


def test_restarts_keep_each_pictures_best() -> None:
    images, _ = pictures(32)
    labels = np.zeros(32, np.int32)
    options = {"epsilon": 0.02, "steps": 3}
    keys = jax.random.split(jax.random.key(5), 32)
    made = attack.pgd(**options, restarts=4)
    found = np.asarray(bumpy(ran(made, bumpy, images, labels, key=keys)))
    ascent = gradient.Ascent(0.02, "linf", 3, 2.5 * 0.02 / 3, False, 0, False)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def once(restart):
        its = jax.vmap(jax.random.fold_in, (0, None))(keys, restart)
        start = gradient.random_point(its, images, 0.02, "linf")
        active = jnp.ones(32, bool)
        return bumpy(gradient.climb(ascent, bumpy, labels, images, start, active))

    each = np.stack([once(restart) for restart in range(4)])
    # Two classes: the greatest loss is the least margin, which also fools first.
    margins = each[:, :, 0] - each[:, :, 1]
    best = margins.min(axis=0)
    assert (margins.argmin(axis=0) != 0).any()
    np.testing.assert_allclose(found[:, 0] - found[:, 1], best, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
def test_stopping_keeps_the_first_point_that_is_misclassified(targeted) -> None:
    weights, logits = linear()
    images, labels = pictures(16)
    options = {"steps": 30, "step_size": 0.01, "targeted": targeted}
    made = attack.bim(0.3, **options, stop_when_fooled=True)
    points, seen = images, []
    ahead = np.float32(-0.01 if targeted else 0.01)
    for _ in range(31):
        seen.append((np.asarray(logits(points)).argmax(axis=1) == labels) == targeted)
        points = points + ahead * np.sign(gradients(weights, points, labels))
        points = points.astype(np.float32)
    first = np.argmax(seen, axis=0)
    assert np.any(seen, axis=0).all() and (first > 0).any()
    found = ran(made, logits, images, labels)
    steps = np.abs(found - images).max(axis=(1, 2, 3)) / 0.01
    np.testing.assert_allclose(steps, first, rtol=0, atol=1e-3)
    # Alone, each picture ends where it does among the others.
    alone = ran(made, logits, images[3:4], labels[3:4])
    np.testing.assert_allclose(alone, found[3:4], rtol=0, atol=1e-6)


def test_stopping_ends_the_work_for_good() -> None:
    """A restart after all are fooled would be seen by its gradients' count."""
    counted = []

    def logits(images):
        jax.debug.callback(lambda _: counted.append(1), images[0, 0, 0, 0])
        return images.reshape(len(images), -1) @ linear()[0]

    images, labels = pictures(4)
    wrong = (np.asarray(linear()[1](images)).argmax(axis=1) + 1) % CLASSES
    made = attack.pgd(1e-6, steps=50, restarts=3, stop_when_fooled=True)
    ran(made, logits, images, wrong.astype(np.int32))
    jax.effects_barrier()
    # One gradient in the first restart, and one look at the end of each.
    assert len(counted) == 4


def test_the_last_pictures_are_worked_on_alone() -> None:
    """Each picture is told by a value that no step changes; all are fooled at last."""
    rows = []

    def logits(images):
        jax.debug.callback(lambda _: rows.append(len(images)), images[0, 0, 0, 0])
        # Fooled once the second value has fallen below what the first one says.
        margin = images[:, 1, 0, 0] - jax.lax.stop_gradient(images[:, 0, 0, 0])
        return jnp.stack([margin, jnp.zeros_like(margin)], axis=1)

    images = np.full((16, 2, 1, 1), 0.9, np.float32)
    # Two pictures take 8 steps of 0.1, the others one.
    images[:, 0] = 0.85
    images[[5, 11], 0] = 0.15
    made = attack.bim(0.9, steps=20, step_size=0.1, stop_when_fooled=True)
    found = ran(made, logits, images, np.zeros(16, np.int32))
    jax.effects_barrier()
    assert rows == [16, 16, *[4] * 7]
    expected = np.full(16, 0.8)
    expected[[5, 11]] = 0.1
    np.testing.assert_allclose(found[:, 1, 0, 0], expected, atol=1e-6)
    # As many steps as there are: what is active then is not lost.
    made = attack.bim(0.9, steps=1, step_size=0.1, stop_when_fooled=True)
    found = ran(made, logits, images, np.zeros(16, np.int32))
    np.testing.assert_allclose(found[:, 1, 0, 0], 0.8, atol=1e-6)


def test_a_scaled_attack_is_of_all_pictures_at_a_time() -> None:
    images, labels = pictures(16)
    made = attack.scaled(attack.pgd(0.3, steps=2, stop_when_fooled=True), 0.5)
    with pytest.raises(errors.ArgumentError, match="asks about 4 of 16 pictures"):
        ran(made, linear()[1], images, labels)


def test_random_points_fill_the_ball() -> None:
    images = np.full((4000, 2, 1, 1), 0.5, np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(
        gradient.random_point, static_argnums=(2, 3), compiler_options=QUICK
    )
    offsets = np.asarray(found(keys, images, 0.2, "linf")) - 0.5
    # Uniform in [-0.2, 0.2]: mean 0 and standard deviation 0.2 / sqrt(3), each
    # within four standard errors.
    assert np.abs(offsets.mean()) < 4 * 0.1155 / 8000**0.5
    assert offsets.std() == pytest.approx(0.2 / 3**0.5, rel=0.03)
    offsets = np.asarray(found(keys, images, 0.2, "l2"))[:, :, 0, 0] - 0.5
    distances = np.hypot(*offsets.T)
    assert distances.mean() == pytest.approx(0.1, rel=0.04)
    assert distances.max() <= 0.2
    assert np.abs(offsets.mean(axis=0)).max() < 4 * 0.08 / 4000**0.5


def test_a_picture_without_gradient_stays() -> None:
    images, labels = pictures()
    for norm in ("linf", "l2"):
        made = attack.mi_fgsm(EPSILON, norm, steps=2)
        found = ran(made, lambda images: jnp.zeros((len(images), 3)), images, labels)
        np.testing.assert_allclose(found, images, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: attack.pgd(-0.1), "epsilon"),
        (lambda: attack.fgsm(float("nan")), "epsilon"),
        (lambda: attack.pgd(0.1, steps=0), "steps is 0"),
        (lambda: attack.pgd(0.1, restarts=0), "restarts is 0"),
        (lambda: attack.pgd(0.1, restarts=2, random_start=False), "random_start=True"),
        (lambda: attack.pgd(0.1, step_size=float("inf")), "step_size"),
        (lambda: attack.bim(0.1, steps=0), "steps is 0"),
        (lambda: attack.mi_fgsm(0.1, decay=-1), "decay is -1"),
    ],
)
def test_wrong_options_are_refused(make, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        make()
