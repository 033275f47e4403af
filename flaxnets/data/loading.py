"""The order in which examples are seen: a pure function of seed and epoch."""

import numpy as np

from flaxnets import errors


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of whole batches in `count` examples.

    Raises:
        ArgumentError: batch_size is not positive, or larger than the data.
    """
    if not 1 <= batch_size <= count:
        raise errors.ArgumentError(
            f"batch_size is {batch_size}, but must be between 1 and the "
            f"{count} training examples; choose a smaller batch or more data"
        )
    return count // batch_size


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Indices of one epoch's batches, int32[steps, batch_size].

    Each epoch is a fresh permutation drawn from Philox keyed by (seed, epoch), so any
    step's batch is known without replaying those before it. The remainder that does
    not fill a batch is left out, another one each epoch.
    """
    steps = steps_per_epoch(count, batch_size)
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(count)[: steps * batch_size]
    return order.astype(np.int32).reshape(steps, batch_size)
