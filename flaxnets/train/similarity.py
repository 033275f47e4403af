"""How like two images are: peak signal-to-noise ratio and structural similarity."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

Window = Literal["gaussian", "uniform"]

# Pixels of a side that an image has at least: the Gaussian window's.
SMALLEST = 11

# Wang, Simoncelli and Bovik 2003, section 3.2: the weights of the five scales.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(
    images: jax.Array, others: jax.Array, *, data_range: float | None = None
) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, of each pair of images.

    10 log10(data_range^2 / mean squared error); infinite for equal images. Equal to
    scikit-image's `peak_signal_noise_ratio`.

    Args:
        images, others: [B, H, W, C], computed in float32 where they are less.
        data_range: the largest value possible less the smallest; by default 1, and of
            integers what their type holds.

    Returns:
        f32[B].
    """
    images, others, full = _as_floats(images, others, data_range)
    error = jnp.mean(jnp.square(images - others), axis=(1, 2, 3))
    return 10 * jnp.log10(full**2 / error)


def ssim(
    images: jax.Array,
    others: jax.Array,
    *,
    data_range: float | None = None,
    window: Window = "gaussian",
) -> jax.Array:
    """Structural similarity of each pair of images: 1 where they are equal.

    Wang, Bovik, Sheikh and Simoncelli 2004, with their constants, averaged over places
    and channels. Differentiable, so that `1 - ssim` is a loss.

    Args:
        images, others: [B, H, W, C], computed in float32 where they are less.
        data_range: the largest value possible less the smallest; by default 1, and of
            integers what their type holds.
        window: `gaussian`, the paper's, 11 pixels wide with a deviation of 1.5, as
            TensorFlow's `tf.image.ssim` and scikit-image's with `gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False` have it; or `uniform`, 7 pixels
            wide with sample covariances, scikit-image's default.

    Returns:
        f32[B].

    Raises:
        ArgumentError: images of other shapes, or smaller than the window.
    """
    similarity, _ = _by_channel(*_as_floats(images, others, data_range), window)
    return jnp.mean(similarity, axis=-1)


def ms_ssim(
    images: jax.Array,
    others: jax.Array,
    *,
    data_range: float | None = None,
    weights: Sequence[float] = SCALE_WEIGHTS,
) -> jax.Array:
    """Structural similarity over several scales, of each pair of images.

    Wang, Simoncelli and Bovik 2003; the values of TensorFlow's
    `tf.image.ssim_multiscale`, which counts what is negatively correlated as 0.

    Args:
        images, others: [B, H, W, C], computed in float32 where they are less; sides of
            at least 176 pixels for five scales.
        data_range: the largest value possible less the smallest; by default 1, and of
            integers what their type holds.
        weights: of the scales, the finest first; their number is that of the scales.

    Returns:
        f32[B].

    Raises:
        ArgumentError: images of other shapes, or too small for so many scales.
    """
    if not weights:
        raise errors.ArgumentError("weights are empty; give one for each scale")
    least = SMALLEST * 2 ** (len(weights) - 1)
    images, others, full = _as_floats(images, others, data_range)
    if min(images.shape[1:3]) < least:
        raise errors.ArgumentError(
            f"images are {list(images.shape)}, but {len(weights)} scales need sides of "
            f"at least {least} pixels; give fewer weights"
        )
    factors = []
    for number, weight in enumerate(weights):
        whole, contrast = _by_channel(images, others, full, "gaussian")
        last = number == len(weights) - 1
        value = whole if last else contrast
        # A root's derivative is infinite at 0, and would be NaN behind a plain maximum.
        positive = jnp.where(value > 0, value, 1.0)
        factors.append(jnp.where(value > 0, positive**weight, 0.0))
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


def _by_channel(images, others, data_range, window) -> tuple[jax.Array, jax.Array]:
    """Similarity, and its part without brightness, f32[B, C] each."""
    if window == "gaussian":
        distance = np.arange(SMALLEST) - SMALLEST // 2
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


def _as_floats(
    images: jax.Array, others: jax.Array, data_range: float | None
) -> tuple[jax.Array, jax.Array, float]:
    """Images of at least float32, and the range of their values."""
    if images.shape != others.shape or images.ndim != 4:
        raise errors.ArgumentError(
            f"images are {list(images.shape)} and {list(others.shape)}, but both must "
            "be the same [B, H, W, C]"
        )
    given = jnp.result_type(images, others)
    if data_range is None:
        data_range = 1.0
        if jnp.issubdtype(given, jnp.integer):
            held = jnp.iinfo(given)
            data_range = float(int(held.max) - int(held.min))
    dtype = jnp.promote_types(given, jnp.float32)
    return jnp.asarray(images, dtype), jnp.asarray(others, dtype), data_range
