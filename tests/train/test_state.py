import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import errors, params, train

PARAMS = {
    "backbone": {"kernel": jnp.full((2, 3), 0.5)},
    "head": {"kernel": jnp.ones((3,)), "bias": jnp.zeros(())},
}
STATISTICS = {"batch_stats": {"backbone": {"mean": jnp.zeros(3)}}}
BATCH = {"image": jnp.arange(8.0).reshape(4, 2), "label": jnp.zeros(4, jnp.int32)}


def loss(params, statistics, batch, key):
    hidden = batch["image"] @ params["backbone"]["kernel"]
    value = jnp.mean((hidden @ params["head"]["kernel"] + params["head"]["bias"]) ** 2)
    moved = jax.tree.map(lambda leaf: leaf + 1, statistics)
    return value, (moved, {"loss": value, "draw": jax.random.uniform(key)})


def stepped(frozen=(), optimizer=None, steps=3, **options):
    optimizer = optimizer or optax.adam(0.1)
    variables = {"params": PARAMS, **STATISTICS}
    state = train.create(variables, optimizer, key=jax.random.key(0), frozen=frozen)
    step = jax.jit(train.make_step(loss, optimizer, frozen=frozen, **options))
    metrics = []
    for _ in range(steps):
        state, measured = step(state, BATCH)
        metrics.append(measured)
    return state, metrics


def test_step_equals_plain_optax() -> None:
    state, _ = stepped()
    optimizer = optax.adam(0.1)
    expected, moments = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        gradients = jax.grad(lambda p: loss(p, {}, BATCH, jax.random.key(0))[0])(
            expected
        )
        updates, moments = optimizer.update(gradients, moments, expected)
        expected = optax.apply_updates(expected, updates)
    # The jitted step may fuse, hence the tolerance of a few float32 roundings.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, expected
    )
    assert int(state.step) == 3


def test_frozen_leaves_and_their_statistics_stay_bit_equal() -> None:
    state, _ = stepped(frozen="backbone/**")
    before, after = PARAMS["backbone"], state.params["backbone"]
    np.testing.assert_array_equal(before["kernel"], after["kernel"])
    np.testing.assert_array_equal(
        state.statistics["batch_stats"]["backbone"]["mean"], np.zeros(3)
    )
    assert np.any(state.params["head"]["kernel"] != PARAMS["head"]["kernel"])
    free, _ = stepped()
    np.testing.assert_array_equal(
        free.statistics["batch_stats"]["backbone"]["mean"], np.full(3, 3.0)
    )


def test_optimizer_holds_nothing_for_frozen_leaves() -> None:
    state, _ = stepped(frozen="backbone/**")
    # Adam: two moments of the head's 4 numbers, and a count.
    assert params.count(state.optimizer) == 2 * 4 + 1


def test_frozen_backward_pass_is_not_computed() -> None:
    """Freezing the first layer leaves out its weight gradient, a matrix product."""

    def products(frozen: str | tuple[str, ...]) -> int:
        optimizer = optax.sgd(0.1)
        variables = {"params": PARAMS, **STATISTICS}
        state = train.create(variables, optimizer, key=jax.random.key(0), frozen=frozen)
        step = train.make_step(loss, optimizer, frozen=frozen)
        return str(jax.make_jaxpr(step)(state, BATCH)).count("dot_general")

    assert products("backbone/**") < products(())


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("bakbone/**", "matches no parameter; did you mean 'backbone'.*backbone, head"),
        ("**", "matches every parameter.*backbone, head"),
    ],
)
def test_freezing_nothing_or_everything_is_an_error(frozen: str, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        stepped(frozen=frozen)


def test_each_step_has_its_own_key_and_the_run_can_be_repeated() -> None:
    _, first = stepped()
    _, again = stepped()
    draws = [float(metrics["draw"]) for metrics in first]
    assert len(set(draws)) == 3
    assert draws == [float(metrics["draw"]) for metrics in again]


def test_skipping_leaves_a_step_that_is_not_finite_out() -> None:
    optimizer = optax.adam(0.1)
    variables = {"params": PARAMS, **STATISTICS}
    state = train.create(variables, optimizer, key=jax.random.key(0))
    step = train.make_step(loss, optimizer, skip_nonfinite=True)
    broken = {**BATCH, "image": BATCH["image"] * jnp.nan}
    after, _ = step(state, broken)
    for name in ("params", "statistics", "optimizer"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(after, name), getattr(state, name)
        )
    assert int(after.step) == 1
