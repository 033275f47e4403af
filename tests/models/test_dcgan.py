"""Shapes, numbers of parameters, and what the networks promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (12, 20)])
def test_shapes_and_numbers_of_parameters(size, upsampling) -> None:
    generator = models.DCGANGenerator(size, 3, (8, 6), upsampling)
    judge = models.DCGANDiscriminator((6, 8))

    def run(key):
        (images, up), made = generator.init_with_output(key, jnp.zeros((2, 5)))
        (logits, down), tests = judge.init_with_output(key, images)
        assert list(up) == ["map", "up1", "output"]
        assert list(down) == ["conv1", "conv2", "features", "logits"]
        return images, logits, made["params"], tests["params"]

    images, logits, made, tests = jax.eval_shape(run, jax.random.key(0))
    assert (images.shape, logits.shape) == ((2, *size, 3), (2,))
    place, window = size[0] * size[1] // 16, 16 if upsampling == "transposed" else 9
    # Scale and bias of each normalisation; a bias where there is none.
    assert params.count(made) == (
        5 * 8 * place + 2 * 8 + window * 8 * 6 + 2 * 6 + window * 6 * 3 + 3
    )
    assert params.count(tests) == (16 * 3 * 6 + 6 + 16 * 6 * 8 + 2 * 8 + place * 8 + 1)


@pytest.mark.parametrize("normalisation", ["batch", "spectral", "none"])
def test_hidden_layers_join_all_of_the_smallest_map(normalisation) -> None:
    generator = models.DCGANGenerator((8, 12), 1, (3,), hidden=(5, 7))
    judge = models.DCGANDiscriminator((3,), normalisation, (7, 5))
    made = params.initialize(generator, jax.random.key(0), (1, 4))
    tests = params.initialize(judge, jax.random.key(1), (1, 8, 12, 1))
    place = 4 * 6
    assert params.count(made["params"]) == (
        4 * 5 + 2 * 5 + 5 * 7 + 2 * 7 + 7 * place * 3 + 2 * 3 + 16 * 3 + 1
    )
    # Scale and bias where the batch normalises, a bias elsewhere.
    several = 2 if normalisation == "batch" else 1
    dense = place * 3 * 7 + several * 7 + 7 * 5 + several * 5
    assert params.count(tests["params"]) == 16 * 3 + 3 + dense + 5 + 1
    latents = np.random.default_rng(0).standard_normal((6, 4), np.float32)
    images, up = generator.apply(made, latents)
    assert list(up) == ["hidden1", "hidden2", "map", "output"]
    logits, down = judge.apply(tests, images)
    assert (images.shape, logits.shape) == ((6, 8, 12, 1), (6,))
    assert list(down) == ["conv1", "hidden1", "hidden2", "features", "logits"]
    assert down["features"].shape == (6, 5)

    # One logit knows all of its picture, and nothing of the others.
    slopes = jax.grad(lambda images: judge.apply(tests, images)[0][2])(images)
    assert np.all(slopes[2] != 0)
    assert not np.delete(slopes, 2, axis=0).any()


def test_pictures_are_in_0_1_and_the_smallest_network_knows_its_batch() -> None:
    """Normalised by the batch in training, so that a factor of all changes nothing."""
    model = models.DCGANGenerator((4, 4), 1, (3,))
    variables = params.initialize(model, jax.random.key(0), (1, 2))
    latents = 100 * np.random.default_rng(0).standard_normal((6, 2), np.float32)

    @jax.jit
    def run(latents):
        trained, changed = model.apply(
            variables, latents, train=True, mutable=["batch_stats"]
        )
        return trained[0], model.apply(variables, latents)[0], changed

    trained, plain, changed = run(latents)
    larger, _, _ = run(3 * latents)
    assert 0 <= plain.min() < plain.max() <= 1
    np.testing.assert_allclose(larger, trained, atol=1e-4)
    for name, leaf in params.flatten(changed["batch_stats"]).items():
        before = params.flatten(variables["batch_stats"])[name]
        assert not np.allclose(leaf, before)


def test_sizes_and_options_that_do_not_fit_are_refused() -> None:
    for model, shape, message in (
        (models.DCGANGenerator((30, 28)), (1, 5), "30x28 pixels and 2 widths"),
        (models.DCGANGenerator(widths=()), (1, 5), "at least one"),
        (models.DCGANDiscriminator(), (1, 28, 26, 1), "divisible by 4"),
        (
            models.DCGANGenerator(upsampling="bilinear"),  # type: ignore[arg-type]
            (1, 5),
            "one of transposed, nearest",
        ),
        (
            models.DCGANDiscriminator(normalisation="layer"),  # type: ignore[arg-type]
            (1, 28, 28, 1),
            "one of batch, spectral, none",
        ),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            params.abstract(model, shape)
