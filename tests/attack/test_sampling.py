"""Random noise, against the same points tried one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack import gradient, streams
from tests.attack import small

SAMPLES = 6


def test_a_picture_becomes_its_first_point_that_is_misclassified() -> None:
    norm, epsilon = "l2", 0.6
    images = small.pictures()
    labels = (images.reshape(len(images), -1) @ small.KERNEL).argmax(axis=1)
    # The last one is misclassified as it is.
    labels[-1] = (labels[-1] + 1) % 5
    keys = jax.random.split(jax.random.key(5), len(images))
    made = attack.random_sampling(epsilon, norm, samples=SAMPLES)
    found = np.asarray(small.compiled(made, small.affine)(images, labels, keys))
    small.assert_bounded(found, images, epsilon, norm)

    @jax.jit
    def drawn(number: jax.Array) -> jax.Array:
        its = streams.advanced(keys, number)
        return gradient.random_point(its, jnp.asarray(images), epsilon, norm)

    points = [images, *(np.asarray(drawn(number)) for number in range(SAMPLES))]
    firsts = []
    for picture, label in enumerate(labels):
        tries = [point[picture] for point in points]
        broken = [(its.reshape(-1) @ small.KERNEL).argmax() != label for its in tries]
        firsts.append(broken.index(True) if any(broken) else 0)
        # Two programs may round differently.
        np.testing.assert_allclose(found[picture], tries[firsts[-1]], atol=1e-6)
    # Some are broken by none, and the others not by the same.
    assert len(set(firsts)) > 2 and firsts[-1] == 0


def test_gives_the_pictures_back_where_nothing_is_misclassified() -> None:
    small.assert_gives_the_pictures_back(attack.random_sampling(0.1, samples=3))


def test_no_samples_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="samples is 0"):
        attack.random_sampling(0.1, samples=0)
