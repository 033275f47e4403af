"""Linear networks, whose smallest misleading perturbation is a formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack import base

SHAPE = (4, 3, 2)
CLASSES = 4
WEIGHTS = np.random.default_rng(0).normal(size=(24, CLASSES)).astype(np.float32)
# What is predicted then depends on more than how bright a picture is, and what is
# likely is not what is near.
WEIGHTS -= WEIGHTS.mean(axis=0)
WEIGHTS[:, 3] *= 3
# So grey that no attack here meets 0 or 1.
IMAGES = np.random.default_rng(1).uniform(0.4, 0.6, (16, *SHAPE)).astype(np.float32)


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


LOGITS = np.asarray(linear(IMAGES), np.float64)
LABELS = LOGITS.argmax(axis=1).astype(np.int32)


def ran(made: base.Attack, logits: base.Logits, *arguments) -> np.ndarray:
    # Compiled in a third of the time; nothing here runs long.
    options = {"xla_backend_optimization_level": "0"}
    run = jax.jit(lambda *given: made(logits, *given), compiler_options=options)
    return np.asarray(run(*arguments, jax.random.key(0)))


def lengths(differences: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(differences, dtype=np.float64).sum(axis=(1, 2, 3)))


def boundaries(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each class's boundary: its distance [N, K], and the step past it [N, K, 24].

    The step is 1e-4 longer than the distance.
    """
    height = LOGITS - LOGITS[np.arange(len(labels)), labels][:, None]
    normal = (WEIGHTS.T[None] - WEIGHTS.T[labels][:, None]).astype(np.float64)
    squared = np.square(normal).sum(axis=2)
    squared[np.arange(len(labels)), labels] = np.nan
    distance = np.abs(height) / np.sqrt(squared)
    step = normal * ((distance + 1e-4) / np.sqrt(squared))[:, :, None]
    return np.nan_to_num(distance, nan=np.inf), step


def test_deepfool_crosses_the_nearest_boundary_at_once() -> None:
    away, steps = boundaries(LABELS)
    nearest = away.argmin(axis=1)
    step = steps[np.arange(16), nearest].reshape(IMAGES.shape)
    found = ran(attack.deepfool(overshoot=0.1), linear, IMAGES, LABELS)
    np.testing.assert_allclose(found, IMAGES + 1.1 * step, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(linear(found).argmax(axis=1), nearest)
    # The likeliest other class alone is not always the nearest.
    second = np.argsort(LOGITS, axis=1)[:, -2]
    assert (second != nearest).any()
    found = ran(attack.deepfool(overshoot=0.1, candidates=1), linear, IMAGES, LABELS)
    step = steps[np.arange(16), second].reshape(IMAGES.shape)
    np.testing.assert_allclose(found, IMAGES + 1.1 * step, rtol=0, atol=1e-6)


def test_deepfool_on_a_curved_boundary_against_a_loop() -> None:
    """Two classes; one is the inside of a ball around black."""

    def ball(images):
        inside = 5.0 - jnp.square(images).sum(axis=(1, 2, 3))
        return jnp.stack([inside, jnp.zeros_like(inside)], axis=1)

    labels = (np.square(IMAGES).sum(axis=(1, 2, 3)) > 5).astype(np.int32)
    labels[:3] = 1 - labels[:3]
    expected = IMAGES.astype(np.float64)
    for index, picture in enumerate(expected):
        for _ in range(3):
            value = 5 - np.square(picture).sum()
            if (value < 0) != labels[index]:
                break
            slope = -2 * picture
            length = np.sqrt(np.square(slope).sum())
            ahead = slope / length * (1 if labels[index] else -1)
            picture += 1.02 * (abs(value) / length + 1e-4) * ahead
    found = ran(attack.deepfool(steps=3), ball, IMAGES, labels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[:3], IMAGES[:3])


def test_deepfool_stays_in_range_and_survives_flat_networks() -> None:
    images = np.random.default_rng(2).random((16, *SHAPE), np.float32)
    labels = np.asarray(linear(images)).argmax(axis=1).astype(np.int32)
    found = ran(attack.deepfool(overshoot=20), linear, images, labels)
    assert ((found >= 0) & (found <= 1)).all() and (found == 1).any()
    flat = ran(
        attack.deepfool(steps=2),
        lambda images: jnp.zeros((len(images), 3)) + images.sum() * 0,
        images,
        np.zeros(16, np.int32),
    )
    np.testing.assert_array_equal(flat, images)


@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_carlini_wagner_finds_the_smallest_perturbation(confidence: float) -> None:
    # Of two classes, since of more it goes for the likeliest and not the nearest.
    def binary(images):
        return linear(images)[:, :2]

    labels = np.asarray(binary(IMAGES)).argmax(axis=1).astype(np.int32)
    height = np.abs(LOGITS[:, 0] - LOGITS[:, 1]) + confidence
    exact = height / np.linalg.norm(WEIGHTS[:, 0] - WEIGHTS[:, 1])
    made = attack.carlini_wagner(
        confidence=confidence, steps=400, learning_rate=2e-3, early_abort=False
    )
    found = ran(made, binary, IMAGES, labels)
    distance = lengths(found - IMAGES)
    assert (distance > exact * (1 - 1e-4)).all()
    assert (distance < exact * 1.05).all(), distance / exact
    margins = np.asarray(base.margin(binary(found), labels))
    assert (margins <= -confidence + 1e-5).all()


def test_carlini_wagner_reaches_its_targets_and_each_alone() -> None:
    targets = ((LABELS + 1) % CLASSES).astype(np.int32)
    made = attack.carlini_wagner(targeted=True, steps=100, constant=1.0, search_steps=3)
    found = ran(made, linear, IMAGES, targets)
    np.testing.assert_array_equal(linear(found).argmax(axis=1), targets)
    alone = ran(made, linear, IMAGES[5:6], targets[5:6])
    np.testing.assert_allclose(alone, found[5:6], rtol=0, atol=1e-5)


def test_carlini_wagner_stays_in_range_where_pictures_touch_it() -> None:
    """Black and white have no tangent: all begins just inside, and falls late."""
    images = np.random.default_rng(2).random((16, *SHAPE), np.float32).round()
    labels = np.asarray(linear(images)).argmax(axis=1).astype(np.int32)
    # From there it is far in the variables that are learned: long steps.
    made = attack.carlini_wagner(
        steps=100, constant=10.0, search_steps=1, learning_rate=0.1
    )
    found = ran(made, linear, images, labels)
    assert ((found >= 0) & (found <= 1)).all()
    assert (linear(found).argmax(axis=1) != labels).all()


def test_constants_are_raised_until_they_mislead_and_then_halved() -> None:
    """The distance of the constants that are tried, by their number."""

    def distance(constant: float, search_steps: int, rate: float) -> np.ndarray:
        made = attack.carlini_wagner(
            constant=constant, search_steps=search_steps, steps=60, learning_rate=rate
        )
        return lengths(ran(made, linear, IMAGES, LABELS) - IMAGES)

    # The third is 1e-3, which misleads nobody; the fifth is 0.1, which does.
    assert not distance(1e-5, 3, rate=0.002).any()
    assert distance(1e-5, 5, rate=0.002).all()
    # Long steps go the farther the greater the constant is.
    far, near = (distance(100.0, count, rate=0.02).mean() for count in (1, 10))
    assert near < 0.9 * far


def test_carlini_wagner_gives_back_what_it_need_not_or_cannot_change() -> None:
    """The first half is misclassified as it is; a tiny constant moves nothing far."""
    labels = LABELS.copy()
    labels[:8] = (labels[:8] + 1) % CLASSES
    made = attack.carlini_wagner(constant=1e-9, search_steps=1, steps=20)
    found = ran(made, linear, IMAGES, labels)
    np.testing.assert_array_equal(found, IMAGES)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: attack.deepfool(steps=0), "steps is 0"),
        (lambda: attack.deepfool(candidates=0), "candidates is 0"),
        (lambda: attack.deepfool(overshoot=-1), "overshoot is -1"),
        (lambda: attack.carlini_wagner(steps=0), "steps is 0"),
        (lambda: attack.carlini_wagner(search_steps=0), "search_steps is 0"),
        (lambda: attack.carlini_wagner(constant=0), "constant is 0"),
        (lambda: attack.carlini_wagner(learning_rate=float("nan")), "learning_rate"),
        (lambda: attack.carlini_wagner(confidence=-1), "confidence is -1"),
    ],
)
def test_wrong_options_are_refused(make, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        make()
