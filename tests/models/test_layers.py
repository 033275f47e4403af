from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets.models import layers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"use_bias": False, "strides": 2}, {"use_bias": False, "strides": 2}),
        (
            {"groups": 2, "dilation": 2},
            {"feature_group_count": 2, "kernel_dilation": 2},
        ),
        ({"padding": 1}, {"padding": 1}),
        (
            {"kernel_init": nn.initializers.glorot_uniform()},
            {"kernel_init": nn.initializers.glorot_uniform()},
        ),
    ],
)
def test_conv_is_linens_for_the_same_key(ours, theirs) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 4))
    mine, reference = layers.Conv(6, (3, 3), **ours), nn.Conv(6, (3, 3), **theirs)
    variables = mine.init(jax.random.key(1), x)
    expected = reference.init(jax.random.key(1), x)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    y: Any = mine.apply(variables, x)
    y_expected: Any = reference.apply(expected, x)
    np.testing.assert_allclose(y, y_expected, rtol=1e-4, atol=1e-5)


def test_computes_in_the_given_type_with_float32_parameters() -> None:
    layer = layers.Conv(2, (3, 3), dtype=jnp.bfloat16)
    y: Any
    variables: Any
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


def test_running_variance_may_be_the_unbiased_estimate() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 1, 2, 3))
    for unbiased, freedom in ((False, 0), (True, 1)):
        layer = layers.BatchNorm(momentum=0.75, unbiased=unbiased)
        variables = layer.init(jax.random.key(1), x, True)
        _, moved = layer.apply(variables, x, True, mutable=["batch_stats"])
        estimate = np.var(np.asarray(x), axis=(0, 1, 2), ddof=freedom)
        found: Any = moved["batch_stats"]
        np.testing.assert_allclose(found["var"], 0.75 + 0.25 * estimate, rtol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_is_linens(train: bool) -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 3))
    mine = layers.BatchNorm(epsilon=1e-3, momentum=0.8)
    reference = nn.BatchNorm(
        use_running_average=not train,
        epsilon=1e-3,
        momentum=0.8,
        use_fast_variance=False,
    )
    variables: Any = mine.init(jax.random.key(1), x, train)
    expected: Any = reference.init(jax.random.key(1), x)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    draws = iter(jax.random.split(jax.random.key(2), 4))
    variables = jax.tree.map(
        lambda leaf: jax.random.uniform(next(draws), leaf.shape, minval=0.5), variables
    )
    found, moved = mine.apply(variables, x, train, mutable=["batch_stats"])
    wanted, moved_expected = reference.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for one, two in zip(
        jax.tree.leaves(moved), jax.tree.leaves(moved_expected), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5)
