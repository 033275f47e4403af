"""Tasks that need no labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors
from flaxnets.data import pretext


def test_quarter_turns_are_numpys_and_their_own_targets() -> None:
    images = jax.random.uniform(jax.random.key(0), (64, 5, 5, 3))
    turned, targets = jax.jit(pretext.quarter_turns)(
        jax.random.key(1), images, jnp.zeros((64, 4))
    )
    turns = np.asarray(targets).argmax(axis=1)
    for image, result, turn in zip(images, turned, turns, strict=True):
        np.testing.assert_array_equal(result, np.rot90(np.asarray(image), turn))
    assert np.asarray(targets).sum(axis=1).tolist() == [1.0] * 64
    # Each of four is drawn 16 times on average: 3.5 standard deviations to 4.
    assert np.bincount(turns, minlength=4).min() >= 4


@pytest.mark.parametrize(("shape", "classes"), [((2, 4, 5, 3), 4), ((2, 4, 4, 3), 2)])
def test_what_cannot_be_turned(shape, classes: int) -> None:
    with pytest.raises(errors.ArgumentError, match="quarter turns need squares"):
        pretext.quarter_turns(
            jax.random.key(0), jnp.zeros(shape), jnp.zeros((2, classes))
        )
