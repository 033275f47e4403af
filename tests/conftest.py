"""Settings for every test: no display, Keras on JAX, strict ranks, real data."""

import os
import signal
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell starts a job in the background with Ctrl-C ignored, which the commands that
# the tests start and interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what downloads, unless it is asked for."""
    if os.environ.get("FLAXNETS_NETWORK"):
        return
    skip = pytest.mark.skip(reason="FLAXNETS_NETWORK is not set: nothing is downloaded")
    for item in items:
        if item.get_closest_marker("network"):
            item.add_marker(skip)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = os.environ.get("FLAXNETS_DATA")
    if folder is None:
        pytest.skip("FLAXNETS_DATA is not set: no real data here")
    return Path(folder)
