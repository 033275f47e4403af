"""The loop on a small network and generated data, against a plain Python loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import data, errors, models, train
from flaxnets.train import losses

BATCH = 8


def dataset(count: int = 40, classes: int = 3) -> data.Dataset:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count).astype(np.int32)
    images = generator.integers(0, 100, (count, 6, 6, 1)).astype(np.uint8)
    images[np.arange(count), labels] += 100
    split = data.Split(images, labels)
    test = data.Split(images[:13], labels[:13])
    return data.Dataset("generated", split, test, ("a", "b", "c"), "generated")


MODEL = models.CNN(num_classes=3, widths=(4,), pools=1, dense=(8,), dropout=0.2)


def parts(optimizer=None):
    optimizer = optimizer or optax.adam(1e-2)
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    state = train.create(variables, optimizer, key=jax.random.key(1))
    step = train.make_step(losses.classification(MODEL.apply), optimizer)
    return state, step


def fit(state=None, epochs: int = 2, optimizer=None, step=None, **options):
    fresh, built = parts(optimizer)
    return train.fit(
        fresh if state is None else state,
        step or built,
        dataset(),
        epochs=epochs,
        batch_size=BATCH,
        seed=0,
        evaluator=train.Evaluator(MODEL.apply, batch_size=5),
        learning_rate=optax.constant_schedule(1e-2),
        **options,
    )


def assert_equal_states(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_equals_a_plain_loop_over_the_documented_order() -> None:
    fitted = fit()
    state, step = parts()
    step = jax.jit(step)
    images, labels = dataset().train
    for epoch in range(2):
        for chosen in data.epoch_order(len(labels), BATCH, seed=0, epoch=epoch):
            batch = {"image": images[chosen], "label": labels[chosen]}
            state, _ = step(state, batch)
    # The compiled loop may order float32 sums differently than the single step.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        fitted.state.params,
        state.params,
    )
    assert int(fitted.state.step) == 10


def test_records_hold_means_over_all_examples() -> None:
    fitted = fit(epochs=1)
    (record,) = fitted.records
    test = dataset().test
    logits, _ = MODEL.apply(fitted.state.variables, test.images / np.float32(255))
    accuracy = np.mean(np.argmax(logits, axis=-1) == test.labels)
    assert record["test_accuracy"] == pytest.approx(accuracy)
    assert (record["epoch"], record["step"]) == (1, 5)
    assert 0 <= record["train_accuracy"] <= 1


def test_streamed_data_give_bit_equal_results() -> None:
    assert_equal_states(fit().state, fit(resident_bytes=0).state)


def test_stopped_and_resumed_equals_uninterrupted(tmp_path) -> None:
    whole = fit(epochs=3)
    with train.Checkpoints(tmp_path) as checkpoints:
        first = fit(epochs=1, checkpoints=checkpoints)
    with train.Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(parts()[0])
        rest = fit(state, epochs=3, checkpoints=checkpoints, records=first.records)
    assert_equal_states(whole.state, rest.state)
    keys = ("epoch", "step", "train_loss", "train_accuracy", "test_loss")
    for one, other in zip(whole.records, rest.records, strict=True):
        assert [one[key] for key in keys] == [other[key] for key in keys]


def test_early_stop_waits_for_patience() -> None:
    fitted = fit(epochs=9, patience=2, optimizer=optax.sgd(0.0))
    assert fitted.stopped == "early"
    assert len(fitted.records) == 3


def exploding(state_step: int):
    """A step whose loss is not finite at one step."""
    _, step = parts()

    def explode(state, batch):
        after, metrics = step(state, batch)
        bad = state.step == state_step
        return after, {**metrics, "loss": jnp.where(bad, jnp.nan, metrics["loss"])}

    return explode


def test_not_finite_loss_stops_the_run_and_names_the_step(tmp_path) -> None:
    with (
        train.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(
            errors.DivergedError,
            match=r"step 7 .*learning rate 0.01.*checkpoint is that of step 5",
        ),
    ):
        fit(step=exploding(7), checkpoints=checkpoints)


def test_skipped_steps_are_counted_and_left_out_of_the_means() -> None:
    fitted = fit(step=exploding(7), skip_nonfinite=True)
    assert fitted.skipped == 1
    assert np.isfinite([record["train_loss"] for record in fitted.records]).all()


def test_no_epochs_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="epochs is 0"):
        fit(epochs=0)
