"""Spectral normalisation against numpy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import models, params

# Window 1x1 on unit vectors: the output is the kernel that was used, and the bias.
LAYER = models.SpectralConv(5, (1, 1))
UNITS = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4)


def variables():
    drawn = params.initialize(LAYER_IN_TRAINING, jax.random.key(0), (1, 1, 1, 4))
    kernel = np.random.default_rng(0).standard_normal((1, 1, 4, 5), np.float32)
    return {**drawn, "params": {**drawn["params"], "kernel": kernel}}


class InTraining:
    """The layer with the arguments that `params.initialize` gives."""

    def init(self, key, x):
        return LAYER.init(key, x, train=True)


LAYER_IN_TRAINING = InTraining()


@jax.jit
def used(variables):
    return LAYER.apply(variables, UNITS, train=False).reshape(4, 5)


def test_the_largest_singular_value_becomes_one() -> None:
    @jax.jit
    def trained(variables):
        def step(_, statistics):
            state = {"params": variables["params"], **statistics}
            return LAYER.apply(state, UNITS, train=True, mutable=["batch_stats"])[1]

        statistics = {"batch_stats": variables["batch_stats"]}
        return jax.lax.fori_loop(0, 100, step, statistics)

    start = variables()
    kernel = start["params"]["kernel"].reshape(4, 5)
    values = np.linalg.svd(kernel, compute_uv=False)
    # An estimate from below, which training makes exact; use leaves it as it is.
    assert np.linalg.svd(used(start), compute_uv=False)[0] > 1.001
    settled = {"params": start["params"], **trained(start)}
    np.testing.assert_allclose(used(settled), kernel / values[0], rtol=1e-4)


def test_its_gradient_is_that_of_the_papers_equation_12() -> None:
    start = variables()
    kernel = start["params"]["kernel"].reshape(4, 5)
    left, values, right = np.linalg.svd(kernel)
    statistics = {"batch_stats": {"singular": right[0]}}
    weights = np.random.default_rng(1).standard_normal((4, 5), np.float32)

    @jax.jit
    @jax.grad
    def gradient(kernel):
        state = {"params": {**start["params"], "kernel": kernel}, **statistics}
        output = LAYER.apply(state, UNITS, train=False).reshape(4, 5)
        return jnp.sum(weights * output)

    normalised = kernel / values[0]
    along = np.outer(left[:, 0], right[0])
    expected = (weights - (weights * normalised).sum() * along) / values[0]
    found = gradient(start["params"]["kernel"]).reshape(4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
