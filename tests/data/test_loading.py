import numpy as np
import pytest

from flaxnets import errors
from flaxnets.data import loading


def test_epoch_sees_each_example_at_most_once_in_whole_batches() -> None:
    order = loading.epoch_order(10, 3, seed=0, epoch=0)
    assert order.shape == (3, 3) and order.dtype == np.int32
    assert len(set(order.ravel())) == 9
    assert set(order.ravel()) <= set(range(10))


def test_order_depends_on_seed_and_epoch_only() -> None:
    orders = [
        loading.epoch_order(50, 5, seed, epoch).tobytes()
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]
    ]
    assert len(set(orders)) == 3 and orders[0] == orders[3]


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_unusable_batch_size_is_named(batch_size: int) -> None:
    with pytest.raises(errors.ArgumentError, match=f"{batch_size}.*10 training"):
        loading.steps_per_epoch(10, batch_size)
