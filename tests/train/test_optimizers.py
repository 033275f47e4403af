"""optax by name: the same updates, and clear refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import errors
from flaxnets.train import optimizers

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def make(name: str = "adam", **options):
    defaults = {"learning_rate": 0.1, "total_steps": 100}
    return optimizers.make(name, **{**defaults, **options})


def updated(optimizer, gradients) -> dict[str, jax.Array]:
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    return updates


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_name_makes_an_optimizer_that_moves(name: str) -> None:
    optimizer, _ = make(name)
    params: Any = PARAMS
    state = optimizer.init(PARAMS)
    for _ in range(3):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert np.isfinite(params["kernel"]).all()
    assert np.any(params["kernel"] != PARAMS["kernel"])


def test_equals_optax() -> None:
    gradients = {"kernel": jnp.full((2, 2), 0.3), "bias": jnp.full(2, -2.0)}
    optimizer, _ = make("adam")
    expected = updated(optax.adam(0.1), gradients)
    jax.tree.map(np.testing.assert_array_equal, updated(optimizer, gradients), expected)


def test_decay_acts_on_kernels_only() -> None:
    optimizer, _ = make("adamw", weight_decay=0.5)
    updates = updated(optimizer, ZERO)
    np.testing.assert_allclose(updates["kernel"], np.full((2, 2), -0.05), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        ("constant", 0.1, 0.1),
        ("cosine", 0.1, 0.0),
        ("linear", 0.1, 0.0),
        ("exponential", 0.1, 0.001),
        ("onecycle", 0.1 / 25, 0.1 / 25 / 1e4),
    ],
)
def test_schedules_begin_and_end_as_documented(schedule, first, last) -> None:
    _, rates = make(schedule=schedule)
    found = [float(np.asarray(rates(step))) for step in (0, 100)]
    # The one-cycle schedule ends at its first rate over 1e4, as optax documents.
    np.testing.assert_allclose(found, [first, last], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamm"}, "'adamm' is unknown; did you mean adam"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf"),
        ({"name": "sgd", "weight_decay": 0.1}, "no weight decay.*adamw.*lion"),
        ({"name": "adamw", "weight_decay": -0.1}, "--weight-decay is -0.1"),
    ],
)
def test_bad_options_are_named(options, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make(**options)
