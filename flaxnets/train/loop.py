"""The loop that runs every training: steps, evaluation, checkpoints, stops."""

import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple

import jax
import numpy as np
import optax

from flaxnets import errors
from flaxnets.data import arrays, datasets
from flaxnets.train import compiling, feeding, signals
from flaxnets.train.checkpoint import Checkpoints
from flaxnets.train.evaluation import Evaluation
from flaxnets.train.progress import Progress
from flaxnets.train.saving import Saver
from flaxnets.train.state import AnyState, StepOf, Trainable

Record = dict[str, Any]

# The host looks at the run (progress, signals, NaN) about this often.
CHUNK_SECONDS = 0.5


class Fitted(NamedTuple, Generic[AnyState]):
    """What `fit` returns.

    Attributes:
        state: the last state, its buffers alive however the run ended.
        records: one dict an epoch, those before a resume included.
        stopped: `finished`, `early`, `time`, `SIGINT` or `SIGTERM`.
        first_step_at: `time.time()` when the first step was done, None without steps.
        train_seconds: time in steps, without compilation and evaluation.
        compile_seconds: time in compiling the step, in this call.
        examples_per_second: compilation left out.
        skipped: steps that were left out, since they were not finite.
        waiting_share: the part of `train_seconds` in which the device waited for data.
        metadata: for `resumed` of another call that goes on after a whole epoch.

    Times and counts are those of the whole run, what was resumed included.
    """

    state: AnyState
    records: list[Record]
    stopped: str
    first_step_at: float | None
    train_seconds: float
    compile_seconds: float
    examples_per_second: float
    skipped: int
    waiting_share: float
    metadata: dict[str, Any]


def fit(
    state: AnyState,
    step: StepOf[AnyState],
    data: datasets.Dataset,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    evaluator: Evaluation,
    learning_rate: optax.Schedule,
    checkpoints: Checkpoints | None = None,
    records: Sequence[Record] = (),
    resumed: Mapping[str, Any] | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    patience: int | None = None,
    skip_nonfinite: bool = False,
    resident_bytes: int | None = None,
    seconds: float | None = None,
    spent: float = 0.0,
    save_seconds: float = 600.0,
    progress: Progress | None = None,
) -> Fitted[AnyState]:
    """Trains to the end of `epochs`, from wherever `state.step` stands.

    Each epoch's order is a function of seed and epoch, and each step's randomness of
    the state's key and step, so a state that is saved and taken up again ends
    bit-equal to one that was never interrupted (on CPU).

    SIGINT and SIGTERM end the run after the steps under way: the state is saved to
    `checkpoints` and returned.

    Args:
        state: where to begin; its buffers are donated.
        step: from `make_step` or another that builds one, not jitted.
        data: examples to train on, and to evaluate on after each epoch.
        epochs: epochs of the whole run, those already done included.
        batch_size: examples per step, divided among all devices of the kind in use.
        seed: of the order of the examples.
        evaluator: computes the test loss, and the metric by which epochs are compared.
        learning_rate: the optimizer's schedule, for the records.
        checkpoints: where to save after each epoch, at a stop, and now and then.
        records: those of the epochs already done, when resuming.
        resumed: the metadata of the checkpoint that is resumed: the sums of the
            epoch's steps so far, times and counts.
        on_record: called with each epoch's record; again for an epoch that its time
            broke off, when it goes on.
        patience: stop after this many epochs without a better value of that metric.
        skip_nonfinite: whether the step skips what is not finite, so that going on
            makes sense.
        resident_bytes: data up to this size stays on the device, see `feeding.make`.
        seconds: end after the steps in which so many seconds have passed in training,
            evaluation and saving, compilation left out; after some steps at least.
        spent: seconds that have passed for these data before, such as in computing
            them; they count, also for a resume.
        save_seconds: how often to save in the middle of an epoch.
        progress: where to show progress.

    Raises:
        ArgumentError: epochs, batch_size or patience cannot be used.
        DataError: the data are not what `data.Dataset` says.
        DivergedError: a loss is not finite and `skip_nonfinite` is off, or a whole
            epoch was skipped.
        RunFolderError: the last checkpoint could not be written; what was trained is
            its `fitted`.
    """
    if epochs < 1:
        raise errors.ArgumentError(f"epochs is {epochs}, but must be at least 1")
    if patience is not None and patience < 1:
        raise errors.ArgumentError(f"patience is {patience}, but must be at least 1")
    arrays.check_dataset(data)
    with _memory_advice("give a smaller resident_bytes, so that the data are streamed"):
        feed = feeding.make(
            step,
            data.train,
            batch_size=batch_size,
            seed=seed,
            resident_bytes=resident_bytes,
        )
        state = feed.devices.copy(state)
    with (
        contextlib.closing(feed),
        _prepared(evaluator, state, data) as evaluate,
        progress or Progress(epochs, feed.steps) as shown,
        signals.StopRequests() as requests,
    ):
        loop = _Loop(
            state=state,
            feed=feed,
            zero=feeding.zero_sums(step, state, data.train, batch_size),
            clock=_Clock(feed, batch_size, resumed or {}, spent),
            saver=Saver(checkpoints, shown.say),
            shown=shown,
            evaluate=evaluate,
            metric=evaluator.metric,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            skip_nonfinite=skip_nonfinite,
            seconds=math.inf if seconds is None else seconds,
            save_seconds=save_seconds,
            on_record=on_record,
            records=list(records),
            skipped=(resumed or {}).get("skipped", 0),
        )
        stopped = loop.run(requests, patience, (resumed or {}).get("partial"))
        fitted = loop.fitted(stopped)
        try:
            loop.saver.finish()
        except errors.RunFolderError as error:
            error.fitted = fitted
            raise
    return fitted


@dataclasses.dataclass
class _Loop(Generic[AnyState]):
    """A training under way."""

    state: AnyState
    feed: feeding.Feed
    zero: feeding.Sums
    clock: "_Clock"
    saver: Saver
    shown: Progress
    evaluate: Callable[[Any], dict[str, float]]
    metric: str
    learning_rate: optax.Schedule
    epochs: int
    batch_size: int
    skip_nonfinite: bool
    seconds: float
    save_seconds: float
    on_record: Callable[[Record], None]
    records: list[Record]
    skipped: int

    def run(
        self,
        requests: signals.StopRequests,
        patience: int | None,
        partial: Mapping[str, float] | None,
    ) -> str:
        """Runs epoch after epoch; returns why it stopped."""
        sums = _resumed(self.zero, partial)
        if self._late and (self.records or (int(self.state.step) and not partial)):
            return "time"
        for epoch in range(int(self.state.step) // self.feed.steps, self.epochs):
            if _waited(self.records, self.metric, patience):
                return "early"
            sums, whole = self._steps(epoch, sums, requests)
            totals, counted, _ = _read(sums)
            if whole or (self._late and requests.received is None):
                late = self._conclude(epoch, totals, counted, whole)
                sums = self.zero
                if late and requests.received is None:
                    return "time"
            else:
                self._save(None, {**totals, "count": counted})
            if requests.received is not None:
                return requests.received.name
        return "finished"

    @property
    def _late(self) -> bool:
        return self.clock.passed >= self.seconds

    def fitted(self, stopped: str) -> Fitted[AnyState]:
        return Fitted(
            state=self.state,
            records=self.records,
            stopped=stopped,
            first_step_at=self.clock.first_step_at,
            train_seconds=self.clock.seconds,
            compile_seconds=self.clock.compile_seconds,
            examples_per_second=self.clock.rate,
            skipped=self.skipped,
            waiting_share=self.clock.waiting_share,
            metadata=self._metadata(),
        )

    def _steps(
        self, epoch: int, sums: feeding.Sums, requests: signals.StopRequests
    ) -> tuple[feeding.Sums, bool]:
        """Runs the rest of an epoch's steps; returns whether it came to its end."""
        place = int(self.state.step) - epoch * self.feed.steps
        begun, saved = place, self.clock.seconds
        while place < self.feed.steps and requests.received is None:
            if self._late and place > begun:
                break
            with _memory_advice(
                f"use a smaller batch_size than {self.batch_size}, or accumulate "
                "gradients with optax.MultiSteps"
            ):
                count = self.clock.chunk_steps()
                self.state, sums, done = self.feed.run(
                    self.state, sums, epoch, place, count
                )
                totals, counted, bad = _read(sums)
            if self.clock.first_step_at is None:
                self.shown.say(f"compiled in {self.clock.compile_seconds:.1f} s")
            self.clock.tick(done)
            place += done
            if bad >= 0 and not self.skip_nonfinite:
                raise self._diverged(f"the loss at step {bad} is not finite", bad)
            means = _means(totals, counted)
            self.shown.update(epoch, place, self.clock.rate, means)
            due = self.clock.seconds - saved >= self.save_seconds and not self._late
            if due and place < self.feed.steps:
                self._save(None, {**totals, "count": counted})
                saved = self.clock.seconds
        return sums, place == self.feed.steps

    def _conclude(
        self, epoch: int, totals: Mapping[str, float], counted: int, whole: bool
    ) -> bool:
        """Evaluates, records and saves at the end of an epoch, or of the time.

        Returns:
            Whether the time is over. By what is saved, so that a resume sees the same:
            the time that saving takes counts from the next epoch on.
        """
        step = int(self.state.step)
        if whole:
            self.skipped += self.feed.steps - counted
        if counted == 0:
            raise self._diverged(f"every step of epoch {epoch + 1} was skipped", step)
        with self.clock.beside():
            tested = self.evaluate(self.state.variables)
        if not (math.isfinite(tested["loss"]) or self.skip_nonfinite):
            raise self._diverged(f"the test loss after step {step} is not finite", step)
        record = {
            "epoch": epoch + 1,
            "step": step,
            **_prefixed("train_", _means(totals, counted)),
            **_prefixed("test_", tested),
            "learning_rate": _at(self.learning_rate, step - 1),
            "examples_per_second": self.clock.rate,
            "seconds": self.clock.seconds,
        }
        # Of an epoch that was broken off by its time, and goes on.
        if self.records and self.records[-1]["epoch"] == record["epoch"]:
            self.records.pop()
        self.records.append(record)
        try:
            self.on_record(record)
        except errors.RunFolderError as error:
            self.shown.say(f"warning: {error}; training goes on")
        late = self._late
        with self.clock.beside():
            self._save(
                tested[self.metric], None if whole else {**totals, "count": counted}
            )
        self.shown.say(_line(record, self.epochs))
        return late

    def _save(self, metric: float | None, partial: dict[str, float] | None) -> None:
        metadata = {
            "partial": partial,
            "learning_rate": _at(self.learning_rate, int(self.state.step)),
            **self._metadata(),
        }
        self.saver.save(self.state, metric, metadata)

    def _metadata(self) -> dict[str, Any]:
        return {"skipped": self.skipped, **self.clock.metadata()}

    def _diverged(self, what: str, step: int) -> errors.DivergedError:
        good = self.saver.last_good()
        saved = "no checkpoint was saved before it"
        if good is not None:
            saved = f"the last good checkpoint is that of step {good}"
        or_skip = ", or with --on-nan skip to leave such steps out"
        return errors.DivergedError(
            f"{what} (learning rate {_at(self.learning_rate, step):.3g}); {saved}. "
            "Begin another run with a lower --learning-rate"
            f"{'' if self.skip_nonfinite else or_skip}"
        )


class _Clock:
    """Times steps, and sizes chunks so that each takes about CHUNK_SECONDS.

    Args:
        feed: runs the steps.
        batch_size: examples per step.
        resumed: `metadata()` of the clock that this one continues, or {}.
        spent: seconds that passed before, and are not among those.
    """

    def __init__(
        self,
        feed: feeding.Feed,
        batch_size: int,
        resumed: Mapping[str, Any],
        spent: float,
    ) -> None:
        self._feed, self._batch_size = feed, batch_size
        self._compiled_before = feed.chunk.compile_seconds
        self._waited_before: float = resumed.get("waited", 0.0)
        self._steps: int = resumed.get("timed_steps", 0)
        self._chunk = 1
        self._beside: float = resumed.get("beside", 0.0)
        self._spent: float = resumed.get("spent", 0.0) + spent
        self.seconds: float = resumed.get("seconds", 0.0)
        self.first_step_at: float | None = None

    @property
    def rate(self) -> float:
        """Examples per second so far."""
        return self._steps * self._batch_size / self.seconds if self.seconds else 0.0

    @property
    def compile_seconds(self) -> float:
        """Time that this clock saw compilation take."""
        return self._feed.chunk.compile_seconds - self._compiled_before

    @property
    def passed(self) -> float:
        """Seconds in steps, beside them, and before them."""
        return self.seconds + self._beside + self._spent

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Counts time that is not spent in steps."""
        start = time.perf_counter()
        yield
        self._beside += time.perf_counter() - start

    @property
    def _waited(self) -> float:
        return self._waited_before + self._feed.waited

    @property
    def waiting_share(self) -> float:
        """Part of the time in steps that the device waited for data."""
        return self._waited / self.seconds if self.seconds else 0.0

    def metadata(self) -> dict[str, Any]:
        """What a clock needs to continue this one."""
        return {
            "seconds": self.seconds,
            "timed_steps": self._steps,
            "waited": self._waited,
            "beside": self._beside,
            "spent": self._spent,
        }

    def chunk_steps(self) -> int:
        """How many steps to ask for next; starts the clock."""
        self._compiled = self.compile_seconds
        self._start = time.perf_counter()
        return self._chunk

    def tick(self, done: int) -> None:
        """Counts `done` steps since `chunk_steps`."""
        elapsed = time.perf_counter() - self._start
        elapsed -= self.compile_seconds - self._compiled
        self._steps += done
        self.seconds += elapsed
        self.first_step_at = self.first_step_at or time.time()
        fitting = int(CHUNK_SECONDS * done / max(elapsed, 1e-6))
        # Growing by steps, since the first call is slower than those that follow.
        self._chunk = max(1, min(fitting, 8 * self._chunk))


@contextlib.contextmanager
def _prepared(
    evaluator: Evaluation, state: Trainable, data: datasets.Dataset
) -> Iterator[Callable[[Any], dict[str, float]]]:
    """Compiles the evaluation beside the training step; yields the evaluation."""
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=compiling.sharding_of(leaf)
        ),
        state.variables,
    )

    def prepare() -> None:
        # What fails here fails again, and is raised, where it is needed.
        with contextlib.suppress(Exception):
            evaluator.prepare(shapes, data.test.images)

    thread = threading.Thread(target=prepare)
    thread.start()

    def evaluate(variables: Any) -> dict[str, float]:
        thread.join()
        with _memory_advice(
            f"evaluate with a smaller batch_size than {evaluator.batch_size}"
        ):
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
    """NaN where nothing was counted."""
    return {
        name: total / count if count else math.nan for name, total in totals.items()
    }


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in metrics.items()}


@functools.partial(jax.jit, static_argnums=0)
def _rate(schedule: optax.Schedule, step: Any) -> Any:
    return schedule(step)


def _at(schedule: optax.Schedule, step: int) -> float:
    # Compiled whole: a schedule's operations one by one take far longer.
    return float(_rate(schedule, np.int32(step)))


def _waited(records: Sequence[Record], metric: str, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better test metric."""
    if patience is None or len(records) <= patience:
        return False
    values = [record[f"test_{metric}"] for record in records]
    return max(values[-patience:]) <= max(values[:-patience])


@contextlib.contextmanager
def _memory_advice(advice: str) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise errors.DeviceError(
            f"the device ran out of memory: {first}; {advice}"
        ) from None


# How the metrics of a record are shown; others with four digits.
_FORMATS = {
    "accuracy": "{:.2%}",
    "robust_accuracy": "{:.2%}",
    "success_rate": "{:.2%}",
    "psnr": "{:.2f} dB",
}


def _line(record: Record, epochs: int) -> str:
    parts = [f"epoch {record['epoch']}/{epochs}"]
    for split in ("train_", "test_"):
        names = [key.removeprefix(split) for key in record if key.startswith(split)]
        # jit sorts by name; the loss comes first all the same.
        names.sort(key=lambda name: name != "loss")
        shown = [
            f"{name} {_FORMATS.get(name, '{:.4f}').format(record[split + name])}"
            for name in names
        ]
        parts.append(f"{split[:-1]} {' '.join(shown)}")
    parts.append(f"{record['examples_per_second']:,.0f} examples/s")
    return "  ".join(parts)
