"""Noise whose bound holds to the last bit, and what its generator is told."""

import jax
import numpy as np
import pytest

from flaxnets import errors, models, params
from flaxnets.models import perturber


def edge_pictures() -> np.ndarray:
    """0, 1 and their neighbours, multiples of 1/255, and values of every size."""
    generator = np.random.default_rng(0)
    edges = np.float32([0, 1, 1e-45, 1e-38, 1e-9, 2**-24, 1 - 2**-24, 0.5])
    levels = np.arange(256, dtype=np.float32) / 255
    sizes = generator.random(1000) * 2.0 ** generator.integers(-30, 1, 1000)
    some = generator.random(4000, np.float32)
    values = np.concatenate([edges, levels, sizes.astype(np.float32), some])
    return values[: len(values) // 16 * 16].reshape(-1, 4, 4, 1)


@pytest.mark.parametrize("epsilon", [0.3, 8 / 255, 1e-3, 1.0])
def test_the_bound_holds_to_the_last_bit(epsilon: float) -> None:
    images = edge_pictures()

    @jax.jit
    def run(images, output):
        # What comes before the bound, so that both ends of it are reached.
        noise = perturber.bounded(output, epsilon)
        return noise, models.perturbed(images, noise)

    for output in (100.0, -100.0, 5.0, -5.0, 0.01):
        noise, shown = run(images, np.full_like(images, output))
        noise, shown = (np.asarray(found, np.float64) for found in (noise, shown))
        assert np.abs(noise).max() <= epsilon
        assert np.abs(shown - images).max() <= epsilon
        assert shown.min() >= 0 and shown.max() <= 1
        if abs(output) == 100:
            assert np.abs(noise).min() >= epsilon - 2**-24


def test_the_gradient_leads_back_from_where_values_are_cut() -> None:
    images = np.float32([0.0, 0.0, 1.0, 1.0, 0.5, 0.5])
    noise = np.float32([-0.2, -0.2, 0.2, 0.2, 0.2, 0.2])
    # A step goes against the slope: the first would go farther out.
    slopes = np.float32([3, -3, -3, 3, 3, -3])

    @jax.jit
    def gradients(noise, output):
        def shown(noise):
            return (slopes * models.perturbed(images, noise)).sum()

        def made(output):
            return (slopes * perturber.bounded(output, 0.5)).sum()

        return jax.grad(shown)(noise), jax.grad(made)(output)

    of_noise, of_output = gradients(noise, 10 * noise)
    np.testing.assert_array_equal(of_noise, [0, -3, 0, 3, 3, -3])
    expected = 0.5 * np.float32([0, -3, 0, 3, 3, 0])
    np.testing.assert_allclose(of_output, expected, rtol=1e-6)


def test_noise_and_endpoints() -> None:
    """Bounded or not, the noise is what the same decoder's output makes of it."""
    images = np.random.default_rng(0).random((3, 6, 5, 2), np.float32)
    bounded, free = (models.Perturber((3,), 2, epsilon) for epsilon in (0.1, None))
    variables = params.initialize(bounded, jax.random.key(0), images.shape)

    @jax.jit
    def run(variables, images):
        return bounded.apply(variables, images), free.apply(variables, images)

    (noise, endpoints), (output, _) = run(variables, images)
    assert noise.shape == images.shape
    assert set(variables["params"]) == {"encoder", "decoder"}
    assert {"encoder/code", "decoder/level1", "noise"} <= set(endpoints)
    cut = np.clip(output, -1, 1)
    np.testing.assert_allclose(noise, 0.1 * cut, rtol=1e-4, atol=1e-7)


def test_it_is_told_targets_and_random_numbers() -> None:
    images = np.random.default_rng(0).random((2, 4, 4, 1), np.float32)
    model = models.Perturber((3,), 1, classes=5, latent=2)
    variables = params.initialize(model, jax.random.key(0), images.shape)
    told = {"target_embedding", "latent_projection"}
    assert told < set(variables["params"])

    @jax.jit
    def run(targets, key, latents):
        rngs = {"latent": key}
        drawn = model.apply(variables, images, targets, rngs=rngs)[0]
        return drawn, model.apply(variables, images, targets, latents)[0]

    zeros = np.zeros((2, 2), np.float32)
    first, given = run(np.int32([1, 1]), jax.random.key(1), zeros)
    again, moved = run(np.int32([1, 2]), jax.random.key(1), zeros)
    other, drawn = run(np.int32([1, 1]), jax.random.key(2), zeros + 1)
    # Only the second picture's target has changed.
    np.testing.assert_array_equal(again[0], first[0])
    assert not np.allclose(again[1], first[1])
    np.testing.assert_array_equal(moved[0], given[0])
    assert not np.allclose(other, first)
    assert not np.allclose(drawn, given)

    narrow = models.Perturber((3,), 1, classes=5, latent=2, bottleneck=4)
    shapes = params.abstract(narrow, images.shape)
    noise, _ = jax.eval_shape(narrow.apply, shapes, images, np.int32([1, 1]), zeros)
    assert noise.shape == images.shape
    assert shapes["params"]["target_embedding"]["embedding"].shape == (5, 4)


def test_what_does_not_fit_is_refused() -> None:
    images, targets = np.zeros((1, 4, 4, 1)), np.zeros(1, np.int32)
    for epsilon in (-0.1, 0.0, float("nan"), 2.0):
        with pytest.raises(errors.ArgumentError, match="epsilon is"):
            params.abstract(models.Perturber((2,), 1, epsilon), images.shape)
    plain = models.Perturber((2,), 1)
    told = models.Perturber((2,), 1, classes=3)
    random = models.Perturber((2,), 1, latent=3)
    for model, arguments, message in (
        (plain, (targets,), "was given targets, but was made with classes=None"),
        (told, (), "was given no targets"),
        (plain, (None, np.zeros((1, 3))), "made with latent=None"),
        (random, (), "neither latents nor rngs"),
    ):
        variables = params.abstract(model, images.shape)
        with pytest.raises(errors.ArgumentError, match=message):
            jax.eval_shape(model.apply, variables, images, *arguments)
