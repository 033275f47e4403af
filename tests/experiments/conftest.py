"""Programs of studies are compiled quickly: they are small, and run a few times."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def _hardly_optimised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves out most of XLA's optimisations, in what tests start as well."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
