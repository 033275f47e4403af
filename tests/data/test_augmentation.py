"""Augmentations against loops and scipy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, optimize

from flaxnets import errors
from flaxnets.data import augmentation

IMAGES = jax.random.uniform(jax.random.key(9), (64, 9, 8, 2), minval=0.1)
KEY = jax.random.key(0)

ALL = {
    "shift": augmentation.shift(2),
    "crop": augmentation.crop(6),
    "flip": augmentation.flip(),
    "cutout": augmentation.cutout(3),
    "rotation": augmentation.rotation(20.0),
    "both": augmentation.compose(augmentation.shift(1), augmentation.flip()),
}


@pytest.mark.parametrize("name", ALL)
def test_same_key_same_images_and_each_image_its_own_draw(name: str) -> None:
    augment = jax.jit(ALL[name])
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    one, again, other = (
        augment(KEY, same),
        augment(KEY, same),
        augment(jax.random.key(1), same),
    )
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
    assert len({image.tobytes() for image in np.asarray(one)}) > 1


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """An image moved by whole pixels, with loops."""
    result = np.zeros_like(image)
    for row, column in np.ndindex(image.shape[:2]):
        if 0 <= row + down < image.shape[0] and 0 <= column + right < image.shape[1]:
            result[row + down, column + right] = image[row, column]
    return result


def test_shift_moves_by_whole_pixels_and_reaches_every_offset() -> None:
    found = set()
    shifted = np.asarray(ALL["shift"](KEY, IMAGES))
    for before, after in zip(np.asarray(IMAGES), shifted, strict=True):
        (offset,) = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if np.array_equal(moved(before, down, right), after)
        ]
        found.add(offset)
    assert (
        {down for down, _ in found}
        == {right for _, right in found}
        == set(range(-2, 3))
    )


def test_crops_are_windows_of_the_image() -> None:
    crops = np.asarray(ALL["crop"](KEY, IMAGES))
    assert crops.shape == (64, 6, 6, 2)
    places = set()
    for image, crop in zip(np.asarray(IMAGES), crops, strict=True):
        windows = [
            (top, left)
            for top in range(4)
            for left in range(3)
            if np.array_equal(image[top : top + 6, left : left + 6], crop)
        ]
        assert len(windows) == 1
        places |= set(windows)
    assert len(places) > 6


def test_crop_after_padding_is_a_shift_of_zero_filled_images() -> None:
    found = set()
    crops = np.asarray(augmentation.crop(8, padding=1)(KEY, IMAGES))
    assert crops.shape == (64, 8, 8, 2)
    for image, crop in zip(np.asarray(IMAGES), crops, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        (place,) = [
            (top, left)
            for top in range(4)
            for left in range(3)
            if np.array_equal(padded[top : top + 8, left : left + 8], crop)
        ]
        found.add(place)
    assert {top for top, _ in found} == {0, 1, 2, 3}
    assert {left for _, left in found} == {0, 1, 2}


def test_shifts_are_uniform() -> None:
    image = jnp.zeros((2500, 5, 5, 1)).at[:, 2, 2].set(1)
    counts = np.asarray(augmentation.shift(2)(KEY, image)).sum(axis=0)[..., 0]
    # 100 expected for each of 25 offsets; 24 degrees of freedom pass 51 once in 1,000.
    assert counts.sum() == 2500
    assert np.sum((counts - 100) ** 2 / 100) < 51


def test_flip_mirrors_about_half_of_the_images() -> None:
    flipped = np.asarray(ALL["flip"](KEY, IMAGES))
    images = np.asarray(IMAGES)
    kept = [np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)]
    mirrored = images[:, :, ::-1]
    for index, same in enumerate(kept):
        assert same or np.array_equal(mirrored[index], flipped[index])
    assert 16 < sum(kept) < 48


def test_cutout_blanks_one_square_and_nothing_else() -> None:
    cut = np.asarray(ALL["cutout"](KEY, IMAGES))
    for before, after in zip(np.asarray(IMAGES), cut, strict=True):
        hole = np.all(after == 0, axis=-1)
        np.testing.assert_array_equal(after[~hole], before[~hole])
        rows, columns = np.nonzero(hole)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 1 <= height <= 3 and 1 <= width <= 3
        assert hole.sum() == height * width


def test_rotation_is_scipys_bilinear_one() -> None:
    """The angle is drawn inside, so the nearest of many scipy angles must agree."""
    image = np.zeros((1, 15, 15, 1), np.float32)
    image[0, 4:11, 6:9] = 1
    rotated = np.asarray(augmentation.rotation(30.0)(KEY, jnp.asarray(image)))[
        0, ..., 0
    ]
    angles = np.linspace(-30, 30, 1201)
    gaps = [
        np.abs(
            ndimage.rotate(image[0, ..., 0], angle, reshape=False, order=1) - rotated
        ).max()
        for angle in angles
    ]
    # Angles are 0.05 degrees apart, which moves a pixel at the rim by 0.006.
    assert min(gaps) < 0.02


def test_rotation_fades_into_zeros_at_the_rim() -> None:
    """Every pixel, once scipy's angle is found: about a centre, rim included."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.random((14, 11)), 1.5).astype(np.float32)
    augment = augmentation.rotation(40.0)
    rotated = np.asarray(augment(KEY, jnp.asarray(image)[None, ..., None]))[0, ..., 0]

    def turned(angle: float) -> np.ndarray:
        cosine, sine = np.cos(angle), np.sin(angle)
        matrix = np.array([[cosine, sine], [-sine, cosine]])
        centre = (np.array(image.shape) - 1) / 2
        offset: Any = centre - matrix @ centre
        return ndimage.affine_transform(
            image, matrix, offset, order=1, mode="grid-constant"
        )

    def gap(angle: float) -> float:
        return float(np.abs(turned(angle) - rotated).sum())

    start = min(np.linspace(-0.7, 0.7, 141), key=gap)
    bounds = (start - 0.01, start + 0.01)
    nearest: Any = optimize.minimize_scalar(
        gap, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    angle = nearest.x
    assert abs(angle) > 0.05, "a rotation that can be told from none"
    # The rest of the search moves a rim pixel by 1e-7; float32 places it to 1e-6.
    np.testing.assert_allclose(rotated, turned(angle), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augmentation.shift(-1), "shift is -1"),
        (lambda: augmentation.crop(0), "crop is 0 pixels"),
        (lambda: augmentation.crop(4, padding=-1), "padding is -1"),
        (lambda: augmentation.cutout(0), "cutout is 0 pixels"),
        (lambda: augmentation.flip(1.5), "probability is 1.5"),
        (lambda: augmentation.crop(20)(KEY, IMAGES), "crop of 20.*9x8"),
    ],
)
def test_bad_options_are_named(make, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make()
