"""The loop that runs every training: steps, evaluation, checkpoints, stops."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from flaxnets import errors
from flaxnets.data import datasets
from flaxnets.train import feeding, signals
from flaxnets.train.checkpoint import Checkpoints
from flaxnets.train.evaluation import Evaluator
from flaxnets.train.progress import Progress
from flaxnets.train.state import State, Step

Record = dict[str, Any]

# The host looks at the run (progress, signals, NaN) about this often.
CHUNK_SECONDS = 0.5


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        state: the last state, its buffers alive however the run ended.
        records: one dict an epoch, those before a resume included.
        stopped: `finished`, `early`, `SIGINT` or `SIGTERM`.
        first_step_at: `time.time()` when the first step was done, None without steps.
        train_seconds: time in steps, without compilation and evaluation.
        compile_seconds: time in compiling the step.
        examples_per_second: of this call's steps, compilation left out.
        skipped: steps whose loss was not finite (only with a skipping step).
    """

    state: State
    records: list[Record]
    stopped: str
    first_step_at: float | None
    train_seconds: float
    compile_seconds: float
    examples_per_second: float
    skipped: int


def fit(
    state: State,
    step: Step,
    data: datasets.Dataset,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    evaluator: Evaluator,
    learning_rate: optax.Schedule,
    checkpoints: Checkpoints | None = None,
    records: Sequence[Record] = (),
    partial: Mapping[str, float] | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    patience: int | None = None,
    skip_nonfinite: bool = False,
    resident_bytes: int | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Trains to the end of `epochs`, from wherever `state.step` stands.

    Each epoch's order is a function of seed and epoch, and each step's randomness of
    the state's key and step, so a state that is saved and taken up again ends
    bit-equal to one that was never interrupted (on one kind of device).

    SIGINT and SIGTERM end the run after the steps under way: the state is saved to
    `checkpoints` and returned.

    Args:
        state: where to begin; its buffers are donated.
        step: from `make_step`, not jitted.
        data: examples to train on, and to evaluate on after each epoch.
        epochs: epochs of the whole run, those already done included.
        batch_size: examples per step.
        seed: of the order of the examples.
        evaluator: computes test loss and accuracy.
        learning_rate: the optimizer's schedule, for the records.
        checkpoints: where to save after each epoch and at a stop.
        records: those of the epochs already done, when resuming.
        partial: the `partial` metadata of the checkpoint that is resumed: the sums
            of the epoch's steps so far.
        on_record: called with each epoch's record.
        patience: stop after this many epochs without a better test accuracy.
        skip_nonfinite: whether the step skips what is not finite, so that going on
            makes sense.
        resident_bytes: data up to this size stays on the device, see `feeding.make`.
        progress: where to show progress.

    Raises:
        ArgumentError: epochs or batch_size cannot be used.
        DivergedError: the loss is not finite and `skip_nonfinite` is off.
    """
    if epochs < 1:
        raise errors.ArgumentError(f"epochs is {epochs}, but must be at least 1")
    feed = feeding.make(
        step,
        data.train,
        batch_size=batch_size,
        seed=seed,
        resident_bytes=resident_bytes,
    )
    zero = feeding.zero_sums(step, state, data.train, batch_size)
    sums = _resumed(zero, partial)
    records = list(records)
    clock = _Clock(feed, batch_size)
    stopped, skipped = "finished", 0

    def save(metric: float | None, partial: dict[str, float] | None) -> None:
        done = int(state.step)
        if checkpoints is not None and done not in checkpoints.steps():
            metadata = {"partial": partial, "learning_rate": _at(learning_rate, done)}
            checkpoints.save(done, state, metric=metric, metadata=metadata)

    with (
        _prepared(evaluator, state, data) as evaluate,
        progress or Progress(epochs, feed.steps) as shown,
        signals.StopRequests() as requests,
    ):
        for epoch in range(int(state.step) // feed.steps, epochs):
            if _waited(records, patience):
                stopped = "early"
                break
            place = int(state.step) - epoch * feed.steps
            while place < feed.steps and requests.received is None:
                with _memory_advice(batch_size):
                    count = clock.chunk_steps()
                    state, sums, done = feed.run(state, sums, epoch, place, count)
                    totals, counted, bad = _read(sums)
                clock.tick(done)
                place += done
                if bad >= 0 and not skip_nonfinite:
                    raise _diverged(bad, learning_rate, checkpoints)
                shown.update(epoch, place, clock.rate, _means(totals, counted))
            if place < feed.steps:
                save(None, {**totals, "count": counted})
            else:
                skipped += feed.steps - counted
                tested = evaluate(state.variables)
                record = {
                    "epoch": epoch + 1,
                    "step": int(state.step),
                    **_prefixed("train_", _means(totals, counted)),
                    **_prefixed("test_", tested),
                    "learning_rate": _at(learning_rate, int(state.step) - 1),
                    "examples_per_second": clock.rate,
                    "seconds": clock.seconds,
                }
                records.append(record)
                on_record(record)
                save(tested["accuracy"], None)
                shown.say(_line(record, epochs))
                sums = zero
            if requests.received is not None:
                stopped = requests.received.name
                break
    if checkpoints is not None:
        checkpoints.wait()
    return Fitted(
        state=state,
        records=records,
        stopped=stopped,
        first_step_at=clock.first_step_at,
        train_seconds=clock.seconds,
        compile_seconds=feed.chunk.compile_seconds,
        examples_per_second=clock.rate,
        skipped=skipped,
    )


class _Clock:
    """Times steps, and sizes chunks so that each takes about CHUNK_SECONDS."""

    def __init__(self, feed: feeding.Feed, batch_size: int) -> None:
        self._feed, self._batch_size = feed, batch_size
        self._steps = 0
        self._chunk = 1
        self.seconds = 0.0
        self.first_step_at: float | None = None

    @property
    def rate(self) -> float:
        """Examples per second so far."""
        return self._steps * self._batch_size / self.seconds if self.seconds else 0.0

    def chunk_steps(self) -> int:
        """How many steps to ask for next; starts the clock."""
        self._compiled = self._feed.chunk.compile_seconds
        self._start = time.perf_counter()
        return self._chunk

    def tick(self, done: int) -> None:
        """Counts `done` steps since `chunk_steps`."""
        elapsed = time.perf_counter() - self._start
        elapsed -= self._feed.chunk.compile_seconds - self._compiled
        self._steps += done
        self.seconds += elapsed
        self.first_step_at = self.first_step_at or time.time()
        fitting = int(CHUNK_SECONDS * done / max(elapsed, 1e-6))
        # Growing by steps, since the first call is slower than those that follow.
        self._chunk = max(1, min(fitting, 8 * self._chunk))


@contextlib.contextmanager
def _prepared(
    evaluator: Evaluator, state: State, data: datasets.Dataset
) -> Iterator[Callable[[Any], dict[str, float]]]:
    """Compiles the evaluation beside the training step; yields the evaluation."""
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.variables
    )
    thread = threading.Thread(target=evaluator.prepare, args=(shapes, data.test.images))
    thread.start()

    def evaluate(variables: Any) -> dict[str, float]:
        thread.join()
        return evaluator.evaluate(variables, *data.test)

    try:
        yield evaluate
    finally:
        thread.join()


def _resumed(zero: feeding.Sums, partial: Mapping[str, float] | None) -> feeding.Sums:
    if partial is None:
        return zero
    totals = {name: np.float32(partial[name]) for name in zero.totals}
    return zero._replace(totals=totals, count=np.int32(partial["count"]))


def _read(sums: feeding.Sums) -> tuple[dict[str, float], int, int]:
    totals, counted, bad = jax.device_get(sums)
    return (
        {name: float(total) for name, total in totals.items()},
        int(counted),
        int(bad),
    )


def _means(totals: Mapping[str, float], count: int) -> dict[str, float]:
    return {name: total / max(count, 1) for name, total in totals.items()}


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in metrics.items()}


@functools.partial(jax.jit, static_argnums=0)
def _rate(schedule: optax.Schedule, step: Any) -> Any:
    return schedule(step)


def _at(schedule: optax.Schedule, step: int) -> float:
    # Compiled whole: a schedule's operations one by one take far longer.
    return float(_rate(schedule, np.int32(step)))


def _waited(records: Sequence[Record], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better test accuracy."""
    if patience is None or len(records) <= patience:
        return False
    accuracies = [record["test_accuracy"] for record in records]
    return max(accuracies[-patience:]) <= max(accuracies[:-patience])


def _diverged(
    bad: int, learning_rate: optax.Schedule, checkpoints: Checkpoints | None
) -> errors.DivergedError:
    last = checkpoints.latest() if checkpoints is not None else None
    saved = "no checkpoint was saved before it"
    if last is not None:
        saved = f"the last good checkpoint is that of step {last}"
    return errors.DivergedError(
        f"the loss at step {bad} is not finite (learning rate "
        f"{_at(learning_rate, bad):.3g}); {saved}. Use a lower --learning-rate, or "
        "--on-nan skip to leave such steps out"
    )


@contextlib.contextmanager
def _memory_advice(batch_size: int) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise errors.DeviceError(
            f"the device ran out of memory with batch_size={batch_size}: {first}. Use "
            "a smaller batch, or accumulate gradients with optax.MultiSteps"
        ) from None


def _line(record: Record, epochs: int) -> str:
    return (
        f"epoch {record['epoch']}/{epochs}"
        f"  train loss {record['train_loss']:.4f}"
        f" accuracy {record.get('train_accuracy', float('nan')):.2%}"
        f"  test loss {record['test_loss']:.4f}"
        f" accuracy {record['test_accuracy']:.2%}"
        f"  {record['examples_per_second']:,.0f} examples/s"
    )
