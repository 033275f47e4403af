"""What the studies' tests share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def hardly_optimised() -> Iterator[None]:
    """Leaves out most of XLA's optimisations, in the processes that are started too.

    For whole studies at small size: their programs are many, and run a few times each.
    """
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "1")
        jax.config.update(option, True)
        yield
        jax.config.update(option, before)
