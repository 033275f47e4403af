"""What spoils images: by its own statistics, and against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from flaxnets import errors
from flaxnets.data import corruption

IMAGES = jax.random.uniform(jax.random.key(0), (40, 30, 25, 3))


def test_gaussian_noise_has_its_deviation() -> None:
    noise = corruption.gaussian(0.5)(jax.random.key(1), IMAGES) - IMAGES
    # 90,000 draws: the mean is known to 0.0017, the deviation to 0.0012.
    assert abs(float(noise.mean())) < 0.006
    assert float(noise.std()) == pytest.approx(0.5, abs=0.005)
    clipped = corruption.gaussian(0.5, clip=True)(jax.random.key(1), IMAGES)
    np.testing.assert_array_equal(clipped, jnp.clip(IMAGES + noise, 0, 1))


def test_salt_and_pepper_are_whole_pixels_in_equal_parts() -> None:
    grey = jnp.full_like(IMAGES, 0.5)
    found = np.asarray(corruption.salt_and_pepper(0.3)(jax.random.key(1), grey))
    assert (found == found[..., :1]).all()
    # 30,000 pixels: shares are known to 0.002.
    for value, share in ((0.0, 0.15), (1.0, 0.15), (0.5, 0.7)):
        assert (found[..., 0] == value).mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (7, 1), (25, 1), (6, 3)])
def test_squares_lie_inside(size: int, count: int) -> None:
    white = jnp.ones_like(IMAGES)
    spoil = corruption.squares(size, count)
    black = np.asarray(spoil(jax.random.key(1), white))[..., 0] == 0
    for image in black:
        area = image.sum()
        assert size**2 <= area <= count * size**2
        if count == 1:
            rows, columns = np.nonzero(image)
            assert np.ptp(rows) == np.ptp(columns) == size - 1
    if size < 25:
        assert len({image.tobytes() for image in black}) > 20
    # Every place can be hit, the corners too.
    many = corruption.squares(7, 200)(jax.random.key(1), white)
    assert not np.asarray(many.min(axis=0)).any()
    kept = spoil(jax.random.key(1), IMAGES)
    np.testing.assert_array_equal(kept, jnp.where(black[..., None], 0, IMAGES))


@pytest.mark.parametrize("sigma", [0.6, 2.0, 9.0])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    """Also where the kernel is wider than the image."""
    found = corruption.blur(sigma)(jax.random.key(0), IMAGES)
    expected = ndimage.gaussian_filter(
        np.asarray(IMAGES, float), sigma, axes=(1, 2), mode="reflect"
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_key_spoils_the_same_way() -> None:
    for spoil in (
        corruption.gaussian(0.2),
        corruption.salt_and_pepper(0.2),
        corruption.squares(5),
    ):
        first = spoil(jax.random.key(1), IMAGES)
        assert first.shape == IMAGES.shape and first.dtype == IMAGES.dtype
        # XLA may fuse the sum of picture and noise: one rounding less.
        compiled = jax.jit(spoil)(jax.random.key(1), IMAGES)
        np.testing.assert_allclose(first, compiled, atol=1e-6)
        assert not np.array_equal(first, spoil(jax.random.key(2), IMAGES))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: corruption.gaussian(-1.0), "sigma is -1.0"),
        (lambda: corruption.salt_and_pepper(1.5), "share is 1.5"),
        (lambda: corruption.squares(0), "size is 0"),
        (lambda: corruption.squares(5, 0), "count is 0"),
        (lambda: corruption.blur(0.0), "sigma is 0.0"),
        (
            lambda: corruption.squares(26)(jax.random.key(0), IMAGES),
            "squares of 26 pixels do not fit images of 30x25",
        ),
    ],
)
def test_what_cannot_be(make, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make()
