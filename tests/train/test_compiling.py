import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets.train import compiling


def test_compiles_once_for_constant_shapes() -> None:
    traces = []

    def double(x):
        traces.append(x.shape)
        return 2 * x

    compiled = compiling.Compiled(double, name="doubling")
    for value in (1.0, 2.0):
        np.testing.assert_array_equal(
            compiled(jnp.full(3, value)), np.full(3, 2 * value)
        )
    assert traces == [(3,)]
    assert compiled.compile_seconds > 0


def test_second_compilation_names_what_changed() -> None:
    compiled = compiling.Compiled(lambda batch: batch["image"], name="the step")
    compiled({"image": jnp.zeros((4, 2))})
    with pytest.warns(
        compiling.RecompilationWarning,
        match=r"the step compiles again.*image.*float32\[4, 2\] -> float32\[3, 2\]",
    ):
        compiled({"image": jnp.zeros((3, 2))})
