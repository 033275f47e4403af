"""Gradual unfreezing: the phases of one training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import errors, models, params, train, transfer
from flaxnets.train import losses

SHAPE = (8, 8, 3)
MODEL = models.WithHead(
    models.CNN(widths=(4, 6), dense=(), num_classes=None), models.Head(3, "mean", ())
)
PHASES = (("backbone/**",), ("backbone/conv1/**",), ())
BATCH = {
    "image": jax.random.uniform(jax.random.key(2), (6, *SHAPE)),
    "label": jnp.array([0, 1, 2, 0, 1, 2]),
}


def _after(optimizer, phases, steps: int = 3) -> list[train.State]:
    variables = params.initialize(MODEL, jax.random.key(0), (1, *SHAPE))
    state = train.create(variables, optimizer, key=jax.random.key(1), frozen=phases[0])
    states = []
    for number, frozen in enumerate(phases):
        if number:
            state = transfer.thawed(state, optimizer, frozen=frozen)
        loss = losses.classification(MODEL.apply)
        step = jax.jit(train.make_step(loss, optimizer, frozen=frozen))
        for _ in range(steps):
            state, _ = step(state, BATCH)
        states.append(state)
    return states


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-2),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9)),
        optax.chain(optax.adam(optax.cosine_decay_schedule(1e-2, 9)), optax.ema(0.9)),
    ],
    ids=["adamw", "momentum", "schedule"],
)
def test_each_phase_trains_what_it_names_and_no_more(optimizer) -> None:
    first, second, third = _after(optimizer, PHASES)

    def moved(before, after) -> set[str]:
        old, new = params.flatten(before.params), params.flatten(after.params)
        return {name for name in old if not np.array_equal(old[name], new[name])}

    head = {"head/logits/kernel", "head/logits/bias"}
    conv2 = {"backbone/conv2/kernel", "backbone/conv2/bias"}
    conv1 = {"backbone/conv1/kernel", "backbone/conv1/bias"}
    assert moved(first, second) == head | conv2
    assert moved(second, third) == head | conv2 | conv1
    assert int(third.step) == 9
    sizes = [params.nbytes(state.optimizer) for state in (first, second, third)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_what_the_optimizer_holds_goes_on() -> None:
    """By Adam's own formula: moments of the head as if nothing had happened."""
    optimizer = optax.adam(1e-2)
    (state,) = _after(optimizer, PHASES[:1])
    grown = transfer.thawed(state, optimizer, frozen=PHASES[1])
    before, after = state.optimizer[0], grown.optimizer[0]
    assert int(after.count) == int(before.count) == 3
    np.testing.assert_array_equal(
        after.mu["head"]["logits"]["kernel"], before.mu["head"]["logits"]["kernel"]
    )
    assert not np.any(after.nu["backbone"]["conv2"]["kernel"])
    assert "conv1" not in after.mu["backbone"]


def test_the_same_phase_twice_is_one_phase() -> None:
    optimizer = optax.adamw(1e-2)
    twice = _after(optimizer, (PHASES[1], PHASES[1]))[-1]
    once = _after(optimizer, (PHASES[1],), steps=6)[-1]
    for name, leaf in params.flatten(twice.params).items():
        np.testing.assert_array_equal(leaf, params.flatten(once.params)[name])


def test_freezing_again_or_another_optimizer_is_an_error() -> None:
    (state,) = _after(optax.adam(1e-2), PHASES[2:])
    with pytest.raises(errors.ArgumentError, match="has no place any more"):
        transfer.thawed(state, optax.adam(1e-2), frozen=PHASES[0])
    with pytest.raises(errors.ArgumentError, match="same optimizer"):
        transfer.thawed(state, optax.sgd(1e-2))
