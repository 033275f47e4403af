"""A batch in parts gives what the batch gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, ops


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 7])
def test_any_number_of_examples(count: int) -> None:
    weights = jnp.arange(6.0).reshape(2, 3)
    sizes = []

    def function(weights, images):
        sizes.append(len(images))
        return {"sums": images @ weights, "norms": jnp.sum(images**2, axis=1)}

    images = jax.random.normal(jax.random.key(0), (count, 2))
    found = jax.jit(ops.in_parts(function, 3))(weights, images)
    np.testing.assert_allclose(found["sums"], images @ weights, rtol=1e-6)
    np.testing.assert_allclose(found["norms"], jnp.sum(images**2, axis=1), rtol=1e-6)
    if count > 3:
        assert 3 in sizes and (count % 3 == 0 or count % 3 in sizes)


def test_a_part_has_at_least_one_example() -> None:
    with pytest.raises(errors.ArgumentError, match="size is 0"):
        ops.in_parts(lambda weights, images: images, 0)


def test_leaves_without_values_keep_their_shape() -> None:
    apply = ops.in_parts(lambda weights, images: images[:, :0], 2)
    assert apply(None, jnp.ones((5, 3))).shape == (5, 0)
