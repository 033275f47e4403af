"""The autoencoders that are timed against each other compute the same."""

import numpy as np
import pytest

from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.job import UnpoolingJob
from experiments.benchmark.workers import unpooling

pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")
pytest.importorskip("keras", reason="Keras is not installed (extra peers)")


def _made(contender: str, kind, name: str, channels: int, widths=()):
    job = UnpoolingJob(
        kind, "eager", name, 2, 8, channels, widths, "cpu", False, 0, calls=1, windows=1
    )
    return unpooling.made(CONTENDERS[contender], job)


def _losses(contender: str, name: str) -> list[float]:
    work = _made(contender, "train_step", name, 3, (8, 4))
    return [float(work.call()) for _ in range(3)]


@pytest.mark.parametrize("name", ["nearest", "max_unpool"])
def test_pytorch_trains_the_same_autoencoder(name: str) -> None:
    ours, theirs = _losses("flaxnets", name), _losses("pytorch", name)
    # Two steps of Adam, which divides rounding by rounding where gradients are tiny.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[2] < ours[0]


@pytest.mark.parametrize("name", ["nearest", "transposed"])
def test_keras_trains_the_same_autoencoder(name: str) -> None:
    ours, theirs = _losses("flaxnets", name), _losses("keras-jax", name)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    # Keras's Adam has its epsilon elsewhere.
    np.testing.assert_allclose(ours, theirs, rtol=1e-2)


def test_pytorch_s_transposed_autoencoder_is_as_large() -> None:
    """It cuts the output on the other side, so that only the sizes are the same."""
    ours, theirs = _losses("flaxnets", "transposed"), _losses("pytorch", "transposed")
    assert ours[0] == pytest.approx(theirs[0], rel=0.5)


@pytest.mark.parametrize("name", ["nearest", "bed_of_nails", "max_unpool"])
def test_pytorch_unpools_the_same(name: str) -> None:
    ours, theirs = (
        [np.asarray(found) for found in _made(who, "operator", name, 4).call()]
        for who in ("flaxnets", "pytorch")
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, np.moveaxis(other, 1, -1), rtol=1e-6)
