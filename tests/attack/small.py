"""Small networks whose weakest points are known, and what every attack must keep."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import attack

SHAPE = (8, 5, 6, 2)
PIXELS = int(np.prod(SHAPE[1:]))
KERNEL = np.random.default_rng(1).normal(size=(PIXELS, 5)).astype(np.float32)


def pictures(low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Some values are the bounds themselves."""
    values = np.random.default_rng(0).uniform(-0.2, 1.2, SHAPE)
    return np.clip(values, low, high).astype(np.float32)


def affine(images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) @ KERNEL


def two_classes(images: jax.Array) -> jax.Array:
    return affine(images)[:, :2] + jnp.array([[20.0, 0.0]])


def curved(images: jax.Array) -> jax.Array:
    return 3 * jnp.sin(affine(images))


def least_margins(images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """Of `affine` in the linf ball and [0, 1]: each value goes to its bound."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    low, high = np.maximum(flat - epsilon, 0), np.minimum(flat + epsilon, 1)
    margins = np.full((len(images), KERNEL.shape[1]), np.inf)
    for picture, label in enumerate(labels):
        for other in set(range(KERNEL.shape[1])) - {label}:
            slope = (KERNEL[:, label] - KERNEL[:, other]).astype(np.float64)
            at = np.where(slope > 0, low[picture], high[picture])
            margins[picture, other] = slope @ at
    return margins.min(axis=1)


def assert_bounded(
    found: jax.Array, images: np.ndarray, epsilon: float, norm: attack.Norm
) -> None:
    points = np.asarray(found)
    assert points.dtype == np.float32 and points.shape == images.shape
    assert ((points >= 0) & (points <= 1)).all()
    difference = (points.astype(np.float64) - images).reshape(len(images), -1)
    order = np.inf if norm == "linf" else 2
    assert (np.linalg.norm(difference, order, axis=1) <= epsilon).all()


def compiled(made: attack.Attack, logits: attack.Logits) -> Callable:
    return jax.jit(lambda images, labels, key: made(logits, images, labels, key))


def assert_breaks_what_can_be_broken(made: Callable[[float], attack.Attack]) -> None:
    """Of an affine network, and nothing else; by its epsilon, for linf."""
    epsilon = 0.03
    images = pictures()
    labels = (images.reshape(len(images), -1) @ KERNEL).argmax(axis=1)
    least = least_margins(images, labels, epsilon)
    # Some stand and some fall, and none is so close that search could miss it.
    assert 2 <= (least < 0).sum() <= 6 and (np.abs(least) > 0.1).all()
    found = compiled(made(epsilon), affine)(images, labels, jax.random.key(0))
    outputs = np.asarray(found).reshape(len(images), -1) @ KERNEL
    np.testing.assert_array_equal(outputs.argmax(axis=1) != labels, least < 0)


def assert_bounded_independent_and_better(
    made: attack.Attack,
    epsilon: float,
    norm: attack.Norm,
    badness: Callable[[jax.Array, np.ndarray], jax.Array],
    calls: int,
) -> None:
    """The bounds, the same result for the same key and company, and the calls made.

    Args:
        made: the attack; some of the pictures must stand.
        epsilon, norm: its bound.
        badness: of logits and labels, what the attack raises.
        calls: of the network.
    """
    asked = []

    def counted(images: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: asked.append(1))
        return curved(images)

    images = pictures()
    logits = jax.jit(curved)
    before = np.asarray(logits(images))
    labels = before.argmax(axis=1)
    # The last one is misclassified as it is.
    labels[-1] = before[-1].argmin()
    run = compiled(made, counted)
    keys = jax.random.split(jax.random.key(3), len(images))
    found = run(images, labels, keys)
    jax.effects_barrier()
    assert len(asked) == calls
    assert_bounded(found, images, epsilon, norm)
    np.testing.assert_array_equal(found[-1], images[-1])
    after = np.asarray(logits(found))
    fooled = after.argmax(axis=1) != labels
    assert 1 < fooled.sum() < len(images)
    gained = np.asarray(badness(after, labels) > badness(before, labels))
    assert (fooled | gained).all()
    np.testing.assert_array_equal(run(images, labels, keys), found)
    turned = run(images[::-1], labels[::-1], keys[::-1])
    # A matrix product of other rows may round otherwise.
    np.testing.assert_allclose(turned[::-1], found, atol=1e-4)


def assert_gives_the_pictures_back(made: attack.Attack) -> None:
    """Where the logits are all the same, or NaN."""
    images, labels = pictures(), np.zeros(len(pictures()), int)

    @jax.jit
    def run(value: float) -> jax.Array:
        def flat(images: jax.Array) -> jax.Array:
            return images.reshape(len(images), -1)[:, :4] * 0 + value

        return made(flat, images, labels, jax.random.key(0))

    for value in (0.0, np.nan):
        np.testing.assert_array_equal(run(value), images)
