"""How batches reach the compiled step: from the device's memory, or streamed to it.

Both feeds give the same batches in the same order to the same step, and run many
steps in one compiled call, so that the host does nothing between steps.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import machine
from flaxnets.data import datasets, loading
from flaxnets.train import compiling, parallel
from flaxnets.train.state import AnyState, StepOf, Trainable

# Two streamed chunks of this size (one in use, one being gathered) are small beside
# any data set that has to be streamed.
STREAM_CHUNK_BYTES = 32 << 20


class Sums(NamedTuple):
    """What a run of steps adds up.

    Attributes:
        totals: each metric summed over the steps whose loss was finite.
        count: int32[], the number of those steps.
        first_bad: int32[], the first step whose loss was not finite, or -1.
    """

    totals: dict[str, Any]
    count: Any
    first_bad: Any


class Feed(Protocol):
    """Runs the steps of an epoch on its batches.

    Attributes:
        steps: of an epoch.
        chunk: the compiled run of steps.
        devices: that they run on.
        waited: seconds in which the device had nothing to do for want of data.
    """

    steps: int
    waited: float
    chunk: compiling.Compiled
    devices: parallel.Devices

    def run(
        self, state: AnyState, sums: Sums, epoch: int, start: int, count: int
    ) -> tuple[AnyState, Sums, int]:
        """Runs at most `count` steps of `epoch`, from its step `start` on.

        Returns the state and sums after them, and the number of steps run: fewer at
        the epoch's end, or at a streamed chunk's.
        """
        ...

    def close(self) -> None:
        """Ends what works in the background."""
        ...


def make(
    step: StepOf,
    split: datasets.Split,
    *,
    batch_size: int,
    seed: int,
    resident_bytes: int | None = None,
) -> Feed:
    """The feed for a data set: resident where it fits, else streamed.

    Args:
        step: the step to run.
        split: the training examples; an array, mapped from a file or not, or
            `data.Pictures`.
        batch_size: examples per step.
        seed: of the order of the examples.
        resident_bytes: the largest data set to keep on the device;
            `default_resident_bytes()` by default.
    """
    size = split.images.nbytes + split.labels.nbytes
    limit = default_resident_bytes() if resident_bytes is None else resident_bytes
    kind = ResidentFeed if size <= limit else StreamedFeed
    return kind(step, split, batch_size, seed)


def default_resident_bytes() -> int:
    """Half of the device's memory, or 4 GiB where the device does not tell."""
    statistics = machine.default_device().memory_stats() or {}
    return int(statistics.get("bytes_limit", 8 << 30)) // 2


def zero_sums(
    step: StepOf, state: Trainable, split: datasets.Split, batch: int
) -> Sums:
    """Sums of no steps, with the names of the step's metrics."""
    images, labels = split
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype),
        "label": jax.ShapeDtypeStruct((batch,), labels.dtype),
    }
    names = jax.eval_shape(step, state, shapes)[1]
    # On the host, so that donation leaves them as they are for the next epoch.
    totals = {name: np.zeros((), np.float32) for name in names}
    return Sums(totals, np.zeros((), np.int32), np.full((), -1, np.int32))


class ResidentFeed:
    """Examples stay on the device; a step gathers its batch by index."""

    def __init__(
        self, step: StepOf, split: datasets.Split, batch_size: int, seed: int
    ) -> None:
        self.steps = loading.steps_per_epoch(len(split.labels), batch_size)
        self.devices = parallel.Devices(batch_size)
        self.chunk = _chunk(step, _gather, self.devices)
        self._order_of = lambda epoch: loading.epoch_order(
            len(split.labels), batch_size, seed, epoch
        )
        self.waited = 0.0
        self._data = self.devices.copy((np.asarray(split.images), split.labels))
        self._order: tuple[int, Any] = (-1, None)

    def run(
        self, state: AnyState, sums: Sums, epoch: int, start: int, count: int
    ) -> tuple[AnyState, Sums, int]:
        if self._order[0] != epoch:
            self._order = (epoch, self.devices.copy(self._order_of(epoch)))
        stop = min(start + count, self.steps)
        source = (*self._data, self._order[1])
        sums = self.devices.copy(sums)
        state, sums = self.chunk(state, sums, source, np.int32(start), np.int32(stop))
        return state, sums, stop - start

    def close(self) -> None:
        pass


class StreamedFeed:
    """Chunks of batches are gathered on the host while the device works on others.

    An epoch is cut into chunks of `_length` steps; a call runs steps of one chunk.
    """

    def __init__(
        self, step: StepOf, split: datasets.Split, batch_size: int, seed: int
    ) -> None:
        self.steps = loading.steps_per_epoch(len(split.labels), batch_size)
        self.devices = parallel.Devices(batch_size)
        self.chunk = _chunk(step, _index, self.devices)
        self.waited = 0.0
        self._split, self._batch_size, self._seed = split, batch_size, seed
        batch_bytes = batch_size * split.images.nbytes // len(split.labels)
        self._length = max(1, min(self.steps, STREAM_CHUNK_BYTES // batch_bytes))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="flaxnets-stream")
        self._gathered: dict[tuple[int, int], Future] = {}

    def run(
        self, state: AnyState, sums: Sums, epoch: int, start: int, count: int
    ) -> tuple[AnyState, Sums, int]:
        begin = start - start % self._length
        end = min(begin + self._length, self.steps)
        following = (epoch, end) if end < self.steps else (epoch + 1, 0)
        # Only the chunk in use and the one after it are held.
        self._gathered = {
            place: self._gathered.get(place)
            or self._worker.submit(self._chunk_at, *place)
            for place in ((epoch, begin), following)
        }
        asked = time.perf_counter()
        source = self._gathered[epoch, begin].result()
        self.waited += time.perf_counter() - asked
        stop = min(start + count, end)
        first, last = np.int32(start - begin), np.int32(stop - begin)
        sums = self.devices.copy(sums)
        state, sums = self.chunk(state, sums, source, first, last)
        return state, sums, stop - start

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def _chunk_at(self, epoch: int, start: int) -> tuple[jax.Array, jax.Array]:
        images, labels = self._split
        order = loading.epoch_order(len(labels), self._batch_size, self._seed, epoch)
        indices = order[start : start + self._length]
        # Always full length, so that the compiled shape never changes; the loop stops
        # before the repeated rows.
        indices = np.pad(indices, ((0, self._length - len(indices)), (0, 0)))
        chunk = (images[indices], labels[indices])
        return jax.device_put(chunk, self.devices.divided(1))


def _gather(source: tuple, index: jax.Array) -> dict[str, jax.Array]:
    images, labels, order = source
    return {"image": images[order[index]], "label": labels[order[index]]}


def _index(source: tuple, index: jax.Array) -> dict[str, jax.Array]:
    images, labels = source
    return {"image": images[index], "label": labels[index]}


def _chunk(
    step: StepOf, fetch: Callable, devices: parallel.Devices
) -> compiling.Compiled:
    """Steps `start` to `stop` of a source, compiled once for any number of them.

    Kept with the step, so that another `fit` with it does not compile it again.
    """
    chunks = vars(step).setdefault("_flaxnets_chunks", {})
    # With the step itself in the key, since wrappers of a function copy its attributes.
    key = (step, fetch, devices)
    if key in chunks:
        return chunks[key]

    def body(index: jax.Array, carry: tuple, source: Any) -> tuple[Any, Sums]:
        state, sums = carry
        after, metrics = step(state, devices.divide(fetch(source, index)))
        finite = jnp.isfinite(metrics["loss"])
        totals = {
            name: total + jnp.where(finite, metrics[name], 0.0)
            for name, total in sums.totals.items()
        }
        unseen = (sums.first_bad < 0) & ~finite
        first_bad = jnp.where(unseen, state.step, sums.first_bad)
        return after, Sums(totals, sums.count + finite.astype(jnp.int32), first_bad)

    def run(
        state: AnyState, sums: Sums, source: Any, start: jax.Array, stop: jax.Array
    ) -> tuple[AnyState, Sums]:
        return jax.lax.fori_loop(
            start,
            stop,
            lambda index, carry: body(index, carry, source),
            (state, sums),
        )

    chunks[key] = compiling.Compiled(
        run,
        name="the training step",
        donate_argnums=(0, 1),
        out_shardings=devices.copied,
    )
    return chunks[key]
