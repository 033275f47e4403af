"""How like two images are: peak signal-to-noise ratio and structural similarity."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

Window = Literal["gaussian", "uniform"]

# Wang, Simoncelli and Bovik 2003, section 3.2: the weights of the five scales.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(images: jax.Array, others: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, of each pair of images.

    10 log10(data_range^2 / mean squared error); infinite for equal images. Equal to
    scikit-image's `peak_signal_noise_ratio`.

    Args:
        images, others: f32[B, H, W, C].
        data_range: the largest value possible less the smallest.

    Returns:
        f32[B].
    """
    _check_alike(images, others)
    error = jnp.mean(jnp.square(images - others), axis=(1, 2, 3))
    return 10 * jnp.log10(data_range**2 / error)


def ssim(
    images: jax.Array,
    others: jax.Array,
    *,
    data_range: float = 1.0,
    window: Window = "gaussian",
) -> jax.Array:
    """Structural similarity of each pair of images: 1 where they are equal.

    Wang, Bovik, Sheikh and Simoncelli 2004, with their constants, averaged over places
    and channels. Differentiable, so that `1 - ssim` is a loss.

    Args:
        images, others: f32[B, H, W, C].
        data_range: the largest value possible less the smallest.
        window: `gaussian`, the paper's, 11 pixels wide with a deviation of 1.5, as
            TensorFlow's `tf.image.ssim` and scikit-image's with `gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False` have it; or `uniform`, 7 pixels
            wide with sample covariances, scikit-image's default.

    Returns:
        f32[B].

    Raises:
        ArgumentError: images of other shapes, or smaller than the window.
    """
    similarity, _ = _similarity(images, others, data_range, window)
    return similarity


def ms_ssim(
    images: jax.Array,
    others: jax.Array,
    *,
    data_range: float = 1.0,
    weights: Sequence[float] = SCALE_WEIGHTS,
) -> jax.Array:
    """Structural similarity over several scales, of each pair of images.

    Wang, Simoncelli and Bovik 2003; the values of TensorFlow's
    `tf.image.ssim_multiscale`, which counts what is negatively correlated as 0.

    Args:
        images, others: f32[B, H, W, C]; sides of at least 176 pixels for five scales.
        data_range: the largest value possible less the smallest.
        weights: of the scales, the finest first; their number is that of the scales.

    Returns:
        f32[B].

    Raises:
        ArgumentError: images of other shapes, or too small for so many scales.
    """
    least = 11 * 2 ** (len(weights) - 1)
    _check_alike(images, others)
    if min(images.shape[1:3]) < least:
        raise errors.ArgumentError(
            f"images are {list(images.shape)}, but {len(weights)} scales need sides of "
            f"at least {least} pixels; give fewer weights"
        )
    factors = []
    for number, weight in enumerate(weights):
        whole, contrast = _by_channel(images, others, data_range, "gaussian")
        last = number == len(weights) - 1
        factors.append(jnp.maximum(whole if last else contrast, 0.0) ** weight)
        if not last:
            images, others = _halved(images), _halved(others)
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return jnp.mean(product, axis=-1)


def checkerboard(differences: np.ndarray, *, period: int = 2) -> float:
    """Share of an error's energy in a pattern that repeats with a stride.

    Un-pooling that treats the places of its windows unequally leaves such a pattern
    (Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts"). This is
    the energy of the two-dimensional spectrum in those rows and columns, the mean's
    left out, whose frequency is a multiple of 1 / period, over that of all places but
    the mean's. White noise has as much of it as there are such places.

    Args:
        differences: what came out less what should have, f[B, H, W, C].
        period: the stride, in pixels.

    Returns:
        The share, from 0 to 1; 0 where there is no error.

    Raises:
        ArgumentError: the period divides neither side, so that its frequency lies
            between the spectrum's.
    """
    height, width = differences.shape[1:3]
    if height % period and width % period:
        raise errors.ArgumentError(
            f"differences are {list(differences.shape)}, but one side must be a "
            f"multiple of the period {period}"
        )
    power = np.abs(np.fft.fft2(np.asarray(differences, np.float64), axes=(1, 2))) ** 2
    power = power.sum(axis=(0, 3))
    power[0, 0] = 0.0
    at = np.zeros((height, width), bool)
    for axis, size in enumerate((height, width)):
        if size % period == 0:
            steps = np.arange(1, period) * size // period
            at[(slice(None),) * axis + (steps,)] = True
    total = power.sum()
    return float(power[at].sum() / total) if total > 0 else 0.0


def _similarity(images, others, data_range, window) -> tuple[jax.Array, jax.Array]:
    whole, contrast = _by_channel(images, others, data_range, window)
    return jnp.mean(whole, axis=-1), jnp.mean(contrast, axis=-1)


def _by_channel(images, others, data_range, window) -> tuple[jax.Array, jax.Array]:
    """Similarity, and its part without brightness, f32[B, C] each."""
    _check_alike(images, others)
    if window == "gaussian":
        distance = np.arange(11) - 5
        taps = np.exp(-0.5 * (distance / 1.5) ** 2)
        correction = 1.0
    elif window == "uniform":
        taps = np.ones(7)
        correction = 49 / 48
    else:
        raise errors.ArgumentError(
            f"window is {window!r}, but must be 'gaussian' or 'uniform'"
        )
    if min(images.shape[1:3]) < len(taps):
        raise errors.ArgumentError(
            f"images are {list(images.shape)}, smaller than the window of {len(taps)} "
            "pixels"
        )
    taps = taps / taps.sum()

    def mean(x: jax.Array) -> jax.Array:
        return _filtered(_filtered(x, taps, 1), taps, 2)

    first, second = mean(images), mean(others)
    variances = mean(images * images + others * others) - first**2 - second**2
    covariance = mean(images * others) - first * second
    small, large = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    contrast = (2 * correction * covariance + large) / (correction * variances + large)
    brightness = (2 * first * second + small) / (first**2 + second**2 + small)
    return (
        jnp.mean(brightness * contrast, axis=(1, 2)),
        jnp.mean(contrast, axis=(1, 2)),
    )


def _filtered(x: jax.Array, taps: np.ndarray, axis: int) -> jax.Array:
    """Weighted means along a dimension, as a product with a band matrix."""
    size = x.shape[axis] - len(taps) + 1
    band = np.zeros((size, x.shape[axis]))
    for start in range(size):
        band[start, start : start + len(taps)] = taps
    matrix = jnp.asarray(band, x.dtype)
    # Differences of nearly equal numbers follow, so no reduced precision.
    found = jnp.tensordot(matrix, x, ((1,), (axis,)), precision="highest")
    return jnp.moveaxis(found, 0, axis)


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels, an odd edge with its mirror image, as TensorFlow has it."""
    odd = [(0, 0), *((0, length % 2) for length in x.shape[1:3]), (0, 0)]
    x = jnp.pad(x, odd, mode="symmetric")
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, axis=(2, 4))


def _check_alike(images: jax.Array, others: jax.Array) -> None:
    if images.shape != others.shape or images.ndim != 4:
        raise errors.ArgumentError(
            f"images are {list(images.shape)} and {list(others.shape)}, but both must "
            "be the same [B, H, W, C]"
        )
