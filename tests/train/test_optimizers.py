"""optax by name: the same updates, and clear refusals."""

import functools
import inspect
import types
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


def arguments_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(optax, name)).parameters)


def test_no_optimizer_of_optax_is_forgotten() -> None:
    """Whatever is complete given a learning rate is known, or left out for a reason."""
    left_out = {
        "lbfgs": "needs the loss itself",
        "noisy_sgd": "needs a key",
        "rprop": "takes no schedule",
        "scale_by_learning_rate": "is a part",
        "scale_by_rprop": "is a part",
        "sm3": "takes no schedule",
        "optimistic_adam": "takes no schedule",
    }
    complete = set()
    for name, maker in vars(optax).items():
        if name.startswith("_") or not isinstance(
            maker, types.FunctionType | functools.partial
        ):
            continue
        arguments = arguments_of(name)
        needed = {key for key, a in arguments.items() if a.default is a.empty}
        if "learning_rate" in arguments and needed <= {"learning_rate"}:
            complete.add(name)
    assert complete == set(optimizers.NAMES) | set(left_out)


@pytest.mark.parametrize(
    "name", [name for name in optimizers.NAMES if "weight_decay" in arguments_of(name)]
)
def test_no_optimizer_decays_biases_but_novograd(name: str) -> None:
    # Unequal slopes: where kernel and slope are parallel, lamb and lars scale the
    # decay away.
    gradients = {"kernel": jnp.array([[0.3, 0.1], [0.2, 1]]), "bias": jnp.full(2, -2.0)}
    plain, decayed = (
        updated(make(name, weight_decay=decay)[0], gradients) for decay in (0.0, 0.5)
    )
    assert np.any(decayed["kernel"] != plain["kernel"])
    same = np.array_equal(decayed["bias"], plain["bias"])
    assert same == (name != "novograd")


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("sgd", {"momentum": 0.7}, {"momentum": 0.7}),
        ("rmsprop", {"momentum": 0.7}, {"momentum": 0.7}),
        ("lars", {"momentum": 0.7}, {"momentum": 0.7}),
        ("adam", {"epsilon": 0.7}, {"eps": 0.7}),
        ("yogi", {"epsilon": 0.7}, {"eps": 0.7}),
    ],
)
def test_options_are_optax_s(name: str, ours, theirs) -> None:
    ours, _ = make(name, **ours)
    theirs = getattr(optax, name)(0.1, **theirs)
    for optimizer in (ours, theirs):
        state = optimizer.init(PARAMS)
        for _ in range(2):
            updates, state = optimizer.update(PARAMS, state, PARAMS)
        if optimizer is ours:
            found = updates
    jax.tree.map(np.testing.assert_array_equal, found, updates)


def test_warmup_rises_to_the_rate_and_the_schedule_follows() -> None:
    _, rates = make(schedule="linear", total_steps=12, warmup_steps=4)
    found = [float(np.asarray(rates(step))) for step in range(13)]
    expected = [0, 0.025, 0.05, 0.075, *np.linspace(0.1, 0, 9)]
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("schedule", optimizers.SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 9])
def test_a_short_training_has_positive_rates_up_to_the_peak(
    schedule: str, total_steps: int
) -> None:
    _, rates = make(schedule=schedule, total_steps=total_steps)
    found = np.array([rates(step) for step in range(total_steps)])
    assert np.all((found > 0) & (found <= np.float32(0.1) * (1 + 1e-6))), found
    assert schedule != "onecycle" or found[0] < 0.01, "begins low, however short"


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
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"name": "adam", "momentum": 0.9}, "adam has no momentum.*sgd"),
        ({"name": "sgd", "momentum": 1.0}, "--momentum is 1.0"),
        ({"name": "sgd", "epsilon": 1e-7}, "--optimizer sgd has no epsilon.*adamw"),
        ({"epsilon": 0.0}, "--epsilon is 0.0"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"warmup_steps": 100}, "warmup_steps is 100.*100 steps"),
        ({"warmup_steps": 5, "schedule": "onecycle"}, "warm-up of its own"),
    ],
)
def test_bad_options_are_named(options, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make(**options)


def test_lookahead_takes_optaxs_steps() -> None:
    params = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.ones(2)}

    def gradient(params: Any, step: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.sin(leaf + step), params)

    ours = optimizers.lookahead(optax.adam(0.1), period=3, step_size=0.5)
    theirs = optax.lookahead(optax.adam(0.1), sync_period=3, slow_step_size=0.5)
    pair = optax.LookaheadParams.init_synced(params)
    state, other = ours.init(params), theirs.init(pair)
    for step in range(8):
        updates, state = ours.update(gradient(params, step), state, params)
        params = optax.apply_updates(params, updates)
        updates, other = theirs.update(gradient(pair.fast, step), other, pair)
        pair = optax.apply_updates(pair, updates)
        for name in params:
            # Sums in another order.
            np.testing.assert_allclose(params[name], pair.fast[name], rtol=1e-5)
            np.testing.assert_allclose(state.slow[name], pair.slow[name], rtol=1e-5)
    with pytest.raises(errors.ArgumentError, match="period is 0"):
        optimizers.lookahead(optax.adam(0.1), period=0, step_size=0.5)
