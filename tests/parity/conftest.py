"""torchvision beside PyTorch's CPU build, for which there is no matching binary."""

import importlib.util

import pytest

from experiments.benchmark.torchvision_import import imported


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, or a skip where it is not installed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return imported()
