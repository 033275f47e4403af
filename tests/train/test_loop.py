"""The loop on a small network and generated data, against a plain Python loop."""

import functools
import io
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import data, errors, models, train
from flaxnets.train import checkpoint, compiling, loop, losses
from flaxnets.train.progress import Progress

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
        options.pop("data", None) or dataset(),
        epochs=epochs,
        batch_size=options.pop("batch_size", BATCH),
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


class Stopping(Progress):
    """Sends this process a signal once a step is done."""

    def __init__(self, number: signal.Signals, epoch: int, step: int) -> None:
        super().__init__(3, 5, stream=io.StringIO())
        self._at, self._signal = (epoch, step), number

    def update(self, epoch, step, rate, metrics) -> None:
        if (epoch, step) >= self._at:
            os.kill(os.getpid(), self._signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("resident_bytes", [None, 0])
def test_a_signal_saves_in_mid_epoch(
    number, resident_bytes, tmp_path, monkeypatch
) -> None:
    # One step a chunk, so that the signal comes between two of them.
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    options = {"epochs": 3, "resident_bytes": resident_bytes}
    whole = fit(**options)
    with train.Checkpoints(tmp_path) as checkpoints:
        stopping = Stopping(number, epoch=1, step=2)
        first = fit(checkpoints=checkpoints, progress=stopping, **options)
    assert first.stopped == number.name
    # The state that is returned is alive, and is the one that was saved.
    assert int(first.state.step) == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first.state.params))
    with train.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 7
        state = checkpoints.restore(parts()[0])
        assert_equal_states(state, first.state)
        metadata = checkpoints.metadata(7)
        rest = fit(state, resumed=metadata, records=first.records, **options)
    assert_equal_states(whole.state, rest.state)
    keys = ("epoch", "step", "train_loss", "train_accuracy", "test_loss")
    for one, other in zip(whole.records, rest.records, strict=True):
        assert [one[key] for key in keys] == [other[key] for key in keys]
    assert rest.train_seconds > first.train_seconds


def test_a_signal_before_the_first_step_saves_it(tmp_path, monkeypatch) -> None:
    def signalled(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr(loop, "_waited", signalled)
    with train.Checkpoints(tmp_path) as checkpoints:
        assert fit(checkpoints=checkpoints).stopped == "SIGTERM"
        assert checkpoints.steps() == (0,)


def test_resuming_a_finished_run_changes_nothing(tmp_path) -> None:
    with train.Checkpoints(tmp_path) as checkpoints:
        done = fit(checkpoints=checkpoints)
        metadata = checkpoints.metadata(10)
        again = fit(done.state, resumed=metadata, records=done.records)
    assert again.records == done.records
    assert again.first_step_at is None
    assert again.train_seconds == done.train_seconds
    assert again.examples_per_second == done.examples_per_second


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, capsys) -> None:
    saved = checkpoint._orbax().save
    failing = [True, False, False]

    class Orbax:
        def save(self, *args):
            if failing.pop(0):
                raise OSError(28, "No space left on device")
            saved(*args)

    monkeypatch.setattr(checkpoint, "_orbax", Orbax)
    with train.Checkpoints(tmp_path, keep=3) as checkpoints:
        fitted = fit(epochs=3, checkpoints=checkpoints)
        assert checkpoints.steps() == (10, 15)
    assert fitted.stopped == "finished"
    assert "the disk is full" in capsys.readouterr().err


def test_a_last_save_that_fails_hands_over_what_was_trained(
    tmp_path, monkeypatch
) -> None:
    class Orbax:
        def save(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_orbax", Orbax)
    with train.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(errors.RunFolderError, match="disk is full") as caught:
            fit(checkpoints=checkpoints)
    assert_equal_states(caught.value.fitted.state, fit().state)


def test_early_stop_waits_for_patience() -> None:
    fitted = fit(epochs=9, patience=2, optimizer=optax.sgd(0.0))
    assert fitted.stopped == "early"
    assert len(fitted.records) == 3


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_below_one_is_refused(patience: int) -> None:
    with pytest.raises(errors.ArgumentError, match=f"patience is {patience}"):
        fit(patience=patience)


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


def test_an_update_that_explodes_last_is_no_checkpoint(tmp_path) -> None:
    """The losses of the steps are finite; only the test loss tells."""
    _, step = parts()

    def poison(state, batch):
        after, metrics = step(state, batch)
        factor = jnp.where(after.step == 10, jnp.inf, 1.0)
        return after._replace(
            params=jax.tree.map(lambda leaf: leaf * factor, after.params)
        ), metrics

    with (
        train.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(
            errors.DivergedError,
            match=r"test loss after step 10 .*checkpoint is that of step 5",
        ),
    ):
        fit(step=poison, checkpoints=checkpoints)
    with train.Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ((5,), 5)


def test_divergence_is_noticed_within_a_chunk(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    seen = []

    class Watching(Progress):
        def update(self, epoch, step, rate, metrics) -> None:
            seen.append((epoch, step))

    with pytest.raises(errors.DivergedError, match="step 7 "):
        fit(step=exploding(7), progress=Watching(2, 5, stream=io.StringIO()))
    # Steps are counted from 0: the last one seen is the one before.
    assert seen[-1] == (1, 2)


def test_an_epoch_without_a_finite_step_ends_a_skipping_run() -> None:
    optimizer = optax.sgd(1e38)
    state, _ = parts(optimizer)
    step = train.make_step(
        losses.classification(MODEL.apply), optimizer, skip_nonfinite=True
    )
    with pytest.raises(errors.DivergedError, match="every step of epoch 2 was skipped"):
        fit(state, epochs=3, step=step, skip_nonfinite=True)


@pytest.mark.parametrize(
    ("label", "message"), [(-1, "-1"), (3, "3"), (2**31 - 1, "2147483647")]
)
def test_labels_out_of_range_are_refused_before_tracing(label, message) -> None:
    data_set = dataset()
    data_set.train.labels[7] = label

    def untouched(state, batch):
        raise AssertionError("the step was traced")

    with pytest.raises(errors.DataError, match=message):
        fit(step=untouched, data=data_set)


def test_a_step_is_compiled_once_for_several_fits() -> None:
    _, step = parts()
    assert fit(step=step).compile_seconds > 0
    assert fit(step=step).compile_seconds == 0
    with pytest.warns(
        compiling.RecompilationWarning, match=r"training step compiles again.*\[5, 8\]"
    ):
        fit(step=step, batch_size=4)


def test_a_wrapped_step_is_another_step() -> None:
    """`functools.wraps` copies a function's attributes, what is kept there too."""
    _, step = parts()
    fit(step=step)

    @functools.wraps(step)
    def still(state, batch):
        after, metrics = step(state, batch)
        return after._replace(params=state.params), metrics

    fitted = fit(step=still)
    assert_equal_states(fitted.state.params, parts()[0].params)


def test_a_record_that_cannot_be_written_does_not_end_the_run(capsys) -> None:
    def full(record):
        raise errors.RunFolderError("metrics.jsonl: cannot be written")

    assert fit(on_record=full).stopped == "finished"
    assert "metrics.jsonl: cannot be written; training goes on" in (
        capsys.readouterr().err
    )


def test_a_stop_saves_sums_that_are_not_finite(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    _, step = parts()

    def unsure(state, batch):
        after, metrics = step(state, batch)
        return after, {**metrics, "accuracy": jnp.nan}

    with train.Checkpoints(tmp_path) as checkpoints:
        stopping = Stopping(signal.SIGTERM, epoch=0, step=2)
        fit(step=unsure, checkpoints=checkpoints, progress=stopping)
    with train.Checkpoints(tmp_path) as checkpoints:
        assert np.isnan(checkpoints.metadata(2)["partial"]["accuracy"])


def test_no_epochs_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="epochs is 0"):
        fit(epochs=0)
