"""Gradual unfreezing: the phases of one training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import data, errors, models, params, train, transfer
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


PICTURES = data.Split(
    np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8),
    np.arange(20, dtype=np.int32) % 3,
)
OPTIMIZER = optax.adamw(optax.cosine_decay_schedule(1e-2, 30))
FIT = {
    "batch_size": 4,
    "seed": 0,
    "learning_rate": optax.cosine_decay_schedule(1e-2, 30),
}


def _phases(stored: bool) -> list[transfer.Phase]:
    """Nothing but the head, then the second layer too, then everything."""
    plans = [
        (0, transfer.Plan(MODEL, SHAPE, "feature_extraction", stored=stored)),
        (
            2,
            transfer.Plan(
                MODEL, SHAPE, "partial_fine_tuning", up_to="conv1", stored=stored
            ),
        ),
        (4, transfer.Plan(MODEL, SHAPE, "fine_tuning")),
    ]

    def seen(plan, variables) -> data.Dataset:
        split = plan.seen(variables, PICTURES)
        return data.Dataset("pictures", split, split, ("a", "b", "c"), "")

    return [
        transfer.Phase(
            epoch,
            plan.frozen,
            losses.classification(plan.apply),
            train.Evaluator(plan.apply, batch_size=10),
            lambda variables, plan=plan: seen(plan, variables),
        )
        for epoch, plan in plans
    ]


def _begun(frozen) -> train.State:
    variables = params.initialize(MODEL, jax.random.key(0), (1, *SHAPE))
    return train.create(variables, OPTIMIZER, key=jax.random.key(1), frozen=frozen)


@pytest.mark.once
def test_phases_are_trainings_one_after_the_other() -> None:
    """Against `fit` and `thawed` by hand, on pictures and by each phase's features."""
    phases = _phases(stored=False)
    state = _begun(phases[0].frozen)
    ends = (2, 4, 6)
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        if number:
            state = transfer.thawed(state, OPTIMIZER, frozen=phase.frozen)
        step = train.make_step(phase.loss, OPTIMIZER, frozen=phase.frozen)
        state = train.fit(
            state,
            step,
            phase.data(state.variables),
            epochs=end,
            evaluator=phase.evaluator,
            **FIT,
        ).state
    for stored in (False, True):
        begun = []
        fitted = transfer.fit_phases(
            _begun(phases[0].frozen),
            OPTIMIZER,
            _phases(stored),
            epochs=6,
            steps_per_epoch=5,
            on_phase=lambda phase, begun=begun: begun.append(phase.epoch),
            **FIT,
        )
        assert begun == [0, 2, 4] and int(fitted.state.step) == 30
        assert [record["epoch"] for record in fitted.records] == [1, 2, 3, 4, 5, 6]
        for name, leaf in params.flatten(fitted.state.params).items():
            expected = params.flatten(state.params)[name]
            if stored:  # Sums in another order.
                np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-5)
            else:
                np.testing.assert_array_equal(leaf, expected)


@pytest.mark.once
def test_phases_resumed_within_and_between_them_end_bit_equal(tmp_path: Path) -> None:
    def fitted(state, folder: Path, epochs: int, **more) -> train.Fitted:
        with train.Checkpoints(folder) as checkpoints:
            return transfer.fit_phases(
                state,
                OPTIMIZER,
                _phases(stored=True)[: (epochs + 1) // 2],
                epochs=epochs,
                steps_per_epoch=5,
                checkpoints=checkpoints,
                **more,
                **FIT,
            )

    phases = _phases(stored=True)
    whole = fitted(_begun(phases[0].frozen), tmp_path / "whole", 6)
    for stopped in (2, 3):
        folder = tmp_path / str(stopped)
        first = fitted(_begun(phases[0].frozen), folder, stopped)
        with train.Checkpoints(folder) as checkpoints:
            last = checkpoints.latest()
            assert last == 5 * stopped
            frozen = transfer.phase_at(phases, last, 5).frozen
            state = checkpoints.restore(_begun(frozen), last)
            resumed = checkpoints.metadata(last)
        again = fitted(state, folder, 6, records=first.records, resumed=resumed)
        jax.tree.map(
            np.testing.assert_array_equal,
            again.state._replace(key=()),
            whole.state._replace(key=()),
        )
        assert again.train_seconds > first.train_seconds
        assert len(again.records) == 6


def test_phases_end_with_their_time() -> None:
    """What the data take counts: here all of it, so the steps are but a few."""
    phases = _phases(stored=True)
    fitted = transfer.fit_phases(
        _begun(phases[0].frozen),
        OPTIMIZER,
        phases,
        epochs=6,
        steps_per_epoch=5,
        seconds=1e-9,
        **FIT,
    )
    assert fitted.stopped == "time" and 1 <= int(fitted.state.step) <= 5
    assert fitted.metadata["spent"] > 0 and len(fitted.records) == 1


def test_phases_that_cannot_be() -> None:
    phases = _phases(stored=False)
    fit = {"epochs": 6, "steps_per_epoch": 5, **FIT}
    state = _begun(phases[0].frozen)
    with pytest.raises(errors.ArgumentError, match=r"epochs \[2, 4\], but the first"):
        transfer.fit_phases(state, OPTIMIZER, phases[1:], **fit)
    with pytest.raises(errors.ArgumentError, match=r"epochs \[0, 4, 2\]"):
        swapped = [phases[0], phases[2], phases[1]]
        transfer.fit_phases(state, OPTIMIZER, swapped, **fit)
    with pytest.raises(errors.ArgumentError, match="freezes backbone/conv1/bias, whi"):
        later = [phases[2]._replace(epoch=0), phases[1]]
        transfer.fit_phases(state, OPTIMIZER, later, **fit)
    with pytest.raises(errors.ArgumentError, match="at epoch 4, but there are 4"):
        transfer.fit_phases(state, OPTIMIZER, phases, **{**fit, "epochs": 4})
    with pytest.raises(errors.ArgumentError, match="has 5 steps, but steps_per_epoch"):
        transfer.fit_phases(state, OPTIMIZER, phases, **{**fit, "steps_per_epoch": 10})
