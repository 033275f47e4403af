"""Similarity of images against scikit-image and TensorFlow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics

from flaxnets import errors
from flaxnets.train import similarity


def pairs(height: int = 28, width: int = 31, channels: int = 3, batch: int = 4):
    """Smooth pictures, and the same with more and more noise."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    phase = generator.uniform(0, 6, (batch, 1, 1, channels))
    wave = np.sin(rows[None, ..., None] / 3 + phase) * np.cos(
        columns[None, ..., None] / 5 + phase
    )
    images = (0.5 + 0.4 * wave).astype(np.float32)
    strength = np.linspace(0.01, 0.5, batch).reshape(-1, 1, 1, 1)
    noisy = images + strength * generator.normal(size=images.shape)
    return images, np.clip(noisy, 0, 1).astype(np.float32)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_psnr(data_range: float) -> None:
    images, others = pairs()
    found = similarity.psnr(images, others, data_range=data_range)
    expected = [
        metrics.peak_signal_noise_ratio(a, b, data_range=data_range)
        for a, b in zip(images, others, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isinf(similarity.psnr(images, images)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim(window, channels: int) -> None:
    images, others = pairs(channels=channels)
    options = {}
    if window == "gaussian":
        options = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
        }
    expected = [
        metrics.structural_similarity(a, b, data_range=1.0, channel_axis=-1, **options)
        for a, b in zip(images.astype(float), others.astype(float), strict=True)
    ]
    found = similarity.ssim(images, others, window=window)
    # Variances are differences of float32 squares; the constants are of 1e-4.
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected[0] > 0.9 > 0.6 > expected[-1]
    np.testing.assert_allclose(similarity.ssim(images, images), 1.0, atol=1e-6)


def test_the_gradient_of_ssim() -> None:
    """By differences, in float64."""
    images, others = pairs(channels=1, batch=1)
    with jax.enable_x64(True):
        step = 1e-6
        at = jnp.asarray(images, jnp.float64)
        other = jnp.asarray(others, jnp.float64)
        direction = jax.random.normal(jax.random.key(0), at.shape, jnp.float64)
        slope = jnp.vdot(
            jax.grad(lambda x: similarity.ssim(x, other)[0])(at), direction
        )
        ahead = similarity.ssim(at + step * direction, other)[0]
        behind = similarity.ssim(at - step * direction, other)[0]
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_integers_have_the_range_that_their_type_holds(dtype) -> None:
    images, others = ((255 * x).astype(dtype) for x in pairs())
    wide = float(np.iinfo(dtype).max) - float(np.iinfo(dtype).min)
    expected = [
        metrics.structural_similarity(a, b, data_range=wide, channel_axis=-1)
        for a, b in zip(images, others, strict=True)
    ]
    found = similarity.ssim(images, others, window="uniform")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    expected = [
        metrics.peak_signal_noise_ratio(a, b, data_range=wide)
        for a, b in zip(images, others, strict=True)
    ]
    np.testing.assert_allclose(similarity.psnr(images, others), expected, rtol=1e-5)


def test_halves_are_compared_in_float32() -> None:
    """Else their variances, differences of squares, would be noise."""
    images, others = (jnp.asarray(x, jnp.bfloat16) for x in pairs())
    expected = similarity.ssim(images.astype(jnp.float32), others.astype(jnp.float32))
    found = similarity.ssim(images, others)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


def test_the_gradient_of_ms_ssim_is_a_number_everywhere() -> None:
    """Where a scale is negatively correlated, which counts as 0, it is 0."""
    images, _ = pairs(48, 50, channels=2, batch=2)
    negative = images.copy()
    negative[0] = 1 - negative[0]
    slopes = jax.jit(
        jax.grad(lambda x: similarity.ms_ssim(x, negative, weights=(0.5, 0.5)).sum())
    )(images + np.float32(0.01))
    np.testing.assert_array_equal(slopes[0], 0)
    assert np.isfinite(slopes).all() and (slopes[1] != 0).any()


@pytest.mark.parametrize("size", [176, 201])
def test_ms_ssim(size: int) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is missing")
    images, others = pairs(size, size + 6, batch=3)
    expected = tensorflow.image.ssim_multiscale(images, others, 1.0).numpy()
    np.testing.assert_allclose(similarity.ms_ssim(images, others), expected, atol=1e-4)


def test_what_cannot_be_compared() -> None:
    small = jnp.zeros((1, 10, 10, 1))
    with pytest.raises(errors.ArgumentError, match="smaller than the window of 11"):
        similarity.ssim(small, small)
    with pytest.raises(errors.ArgumentError, match="at least 176 pixels"):
        similarity.ms_ssim(jnp.zeros((1, 100, 200, 1)), jnp.zeros((1, 100, 200, 1)))
    with pytest.raises(errors.ArgumentError, match="weights are empty"):
        similarity.ms_ssim(small, small, weights=())
    with pytest.raises(errors.ArgumentError, match="both must be the same"):
        similarity.psnr(small, jnp.zeros((1, 10, 10, 3)))
    with pytest.raises(errors.ArgumentError, match="'gaussian' or 'uniform'"):
        similarity.ssim(small, small, window="box")  # pyright: ignore[reportArgumentType]
