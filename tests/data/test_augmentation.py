"""Augmentations against loops, formulas and scipy."""

import colorsys
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, optimize, stats

from flaxnets import errors
from flaxnets.data import augmentation

IMAGES = jax.random.uniform(jax.random.key(9), (64, 9, 8, 3), minval=0.1)
KEY = jax.random.key(0)

ALL = {
    "shift": augmentation.shift(2),
    "crop": augmentation.crop(6),
    "random_resized_crop": augmentation.random_resized_crop(5),
    "flip": augmentation.flip(),
    "cutout": augmentation.cutout(3),
    "rotation": augmentation.rotation(20.0),
    "color_jitter": augmentation.color_jitter(
        brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
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


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 7, 9, 1), (3, 9, 7, 3)])
def test_any_batch_in_a_scan_as_alone_and_between_0_and_1(
    name: str, shape: tuple[int, ...]
) -> None:
    images = jax.random.uniform(jax.random.key(1), shape)
    keys = jax.random.split(KEY, 4)
    _, scanned = jax.lax.scan(lambda _, key: (None, ALL[name](key, images)), None, keys)
    augment = jax.jit(ALL[name])
    alone = jnp.stack([augment(key, images) for key in keys])
    assert scanned.shape[:2] == (4, shape[0]) and scanned.shape[-1] == shape[-1]
    # Compiled together or alone, float32 rounds differently.
    np.testing.assert_allclose(scanned, alone, atol=1e-5)
    assert alone.min() >= 0 and alone.max() <= 1 + 1e-6


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
    assert crops.shape == (64, 6, 6, 3)
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
    assert crops.shape == (64, 8, 8, 3)
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


def resized(image: np.ndarray, length: int, size: int) -> np.ndarray:
    """The first axis of an image resampled by a triangle, with loops."""
    scale = length / size
    reach = max(scale, 1.0)
    rows = []
    for index in range(size):
        centre = (index + 0.5) * scale
        weights = [
            max(0.0, 1 - abs(place + 0.5 - centre) / reach) for place in range(length)
        ]
        total = sum(w * row for w, row in zip(weights, image, strict=True))
        rows.append(total / sum(weights))
    return np.stack(rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 6, 30])
def test_boxes_are_resized_by_a_triangle_as_wide_as_they_shrink(
    channels: int, size: int
) -> None:
    images = np.random.default_rng(0).random((5, 23, 31, channels))
    boxes = [(0, 0, 23, 31), (3, 5, 1, 1), (22, 0, 1, 31), (4, 20, 17, 6), (1, 2, 6, 6)]
    found = augmentation.resized_crop(
        jnp.asarray(images, jnp.float32), jnp.asarray(boxes), size
    )
    assert found.shape == (5, size, size, channels)
    for image, (top, left, height, width), crop in zip(
        images, boxes, found, strict=True
    ):
        box = image[top : top + height, left : left + width]
        expected = resized(box, height, size).swapaxes(0, 1)
        expected = resized(expected, width, size).swapaxes(0, 1)
        np.testing.assert_allclose(crop, expected, atol=1e-5)


def test_a_box_of_the_wanted_size_is_a_crop() -> None:
    boxes = jnp.array([[2, 1, 5, 5]] * 64)
    found = augmentation.resized_crop(IMAGES, boxes, 5)
    np.testing.assert_allclose(found, IMAGES[:, 2:7, 1:6], atol=1e-6)


def inception_box(
    rng: np.random.Generator, height: int, width: int, scale, ratio
) -> tuple[int, ...]:
    """One box of Inception's training, tried up to ten times."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns = round(math.sqrt(area * aspect))
        rows = round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            corner = rng.integers(0, [height - rows + 1, width - columns + 1])
            return *corner, rows, columns
    if width / height < ratio[0]:
        rows, columns = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        rows, columns = height, round(height * ratio[1])
    else:
        rows, columns = height, width
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (224, 224, (0.08, 1.0), (3 / 4, 4 / 3)),
        # Most boxes do not fit, and some images are left without one.
        (60, 100, (0.75, 1.0), (1 / 2, 4 / 3)),
        (90, 40, (0.5, 0.5), (1.0, 3.0)),
    ],
)
def test_random_boxes_have_inceptions_distribution(
    height: int, width: int, scale, ratio
) -> None:
    count = 20_000
    shape = (count, height, width, 3)
    boxes = np.asarray(augmentation.random_boxes(KEY, shape, scale=scale, ratio=ratio))
    rng = np.random.default_rng(0)
    expected = np.array(
        [inception_box(rng, height, width, scale, ratio) for _ in range(count)]
    )
    top, left, rows, columns = boxes.T
    assert boxes.shape == (count, 4) and boxes.min() >= 0 and rows.min() > 0
    assert (top + rows).max() <= height and (left + columns).max() <= width

    def described(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        """What is drawn, and a sum that knows whether draws depend on each other."""
        top, left, rows, columns = boxes.T
        down, right = top / (height - rows + 1), left / (width - columns + 1)
        area, aspect = rows * columns, columns / rows
        return top, left, rows, columns, area, aspect, down, right, down + right

    for found, other in zip(described(boxes), described(expected), strict=True):
        result: Any = stats.ks_2samp(found, other)
        assert result.pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (10, 10, (0, 0, 10, 10))],
)
def test_where_no_box_fits_it_is_the_middle(height: int, width: int, box) -> None:
    """As large as the image, a box fits only if it is the image."""
    shape = (50, height, width, 1)
    scale, ratio = (1.0, 1.0), (3 / 4, 4 / 3)
    boxes = augmentation.random_boxes(KEY, shape, scale=scale, ratio=ratio)
    assert {tuple(found) for found in boxes.tolist()} == {box}


def test_every_resized_crop_is_a_box_of_its_image() -> None:
    """On a ramp, which stays one where boxes grow, slopes say how large they were."""
    rows, columns = jnp.meshgrid(jnp.arange(40.0), jnp.arange(30.0), indexing="ij")
    ramp = jnp.stack([rows, columns], axis=-1)
    images = jnp.broadcast_to(ramp, (200, *ramp.shape))
    augment = augmentation.random_resized_crop(48, scale=(0.2, 0.5), ratio=(0.5, 1.0))
    crops = np.asarray(jax.jit(augment)(KEY, images))
    assert crops.shape == (200, 48, 48, 2)
    heights = 48 * (crops[:, 32, 0, 0] - crops[:, 16, 0, 0]) / 16
    widths = 48 * (crops[:, 0, 32, 1] - crops[:, 0, 16, 1]) / 16
    np.testing.assert_allclose(heights, np.round(heights), atol=1e-3)
    np.testing.assert_allclose(widths, np.round(widths), atol=1e-3)
    # Sides of at least 15 and 10 pixels are rounded by half a pixel.
    areas, ratios = heights * widths / 1200, widths / heights
    assert 0.18 < areas.min() < 0.25 and 0.45 < areas.max() < 0.55
    assert 0.45 < ratios.min() < 0.6 and 0.9 < ratios.max() < 1.1


def factors_of(*values: float) -> jax.Array:
    return jnp.array(values, jnp.float32)


def test_brightness_contrast_and_saturation_are_their_formulas() -> None:
    images = np.asarray(IMAGES[:4], np.float64)
    factors = np.array([0.0, 0.4, 1.0, 1.7])[:, None, None, None]
    grey = images @ np.array([0.2989, 0.587, 0.114])
    means = grey.mean(axis=(1, 2))[:, None, None, None]
    for change, other in (
        (augmentation.adjust_brightness, 0.0),
        (augmentation.adjust_contrast, means),
        (augmentation.adjust_saturation, grey[..., None]),
    ):
        expected = np.clip(other + factors * (images - other), 0, 1)
        found = change(IMAGES[:4], factors_of(*factors.ravel()))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hue_turns_the_wheel_of_hsv() -> None:
    shades = np.stack(np.meshgrid(*[[0.0, 0.3, 0.7, 1.0]] * 3), axis=-1)
    shades = shades.reshape(1, 8, 8, 3).astype(np.float32)
    shifts = np.array([-0.5, -0.2, 0.0, 0.1, 0.5])
    images = jnp.asarray(shades.repeat(len(shifts), axis=0))
    found = augmentation.adjust_hue(images, factors_of(*shifts))
    for shift, changed in zip(shifts, np.asarray(found), strict=True):
        for before, after in zip(
            shades.reshape(-1, 3).tolist(), changed.reshape(-1, 3), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            np.testing.assert_allclose(after, expected, atol=1e-6)


def test_grey_images_have_no_colour_to_change() -> None:
    images = IMAGES[..., :1]
    for change in (augmentation.adjust_saturation, augmentation.adjust_hue):
        np.testing.assert_array_equal(change(images, jnp.full(64, 0.3)), images)
    found = augmentation.adjust_contrast(images, jnp.zeros(64))
    means = np.asarray(images).mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, np.broadcast_to(means, found.shape), atol=1e-6)


@pytest.mark.parametrize(
    ("brightness", "low", "high"), [(0.3, 0.7, 1.3), (1.5, 0.0, 2.5)]
)
def test_factors_are_uniform(brightness: float, low: float, high: float) -> None:
    images = jnp.full((4000, 1, 2, 3), 0.25)
    augment = augmentation.color_jitter(brightness=brightness)
    changed = np.asarray(augment(KEY, images))
    factors = changed[:, 0, 0, 0] / 0.25
    np.testing.assert_array_equal(changed, changed[:, :1, :1, :1] + 0 * changed)
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_shifts_of_the_hue_are_uniform() -> None:
    images = jnp.broadcast_to(jnp.array([1.0, 0.5, 0.0]), (4000, 1, 1, 3))
    changed = np.asarray(augmentation.color_jitter(hue=0.25)(KEY, images))[:, 0, 0]
    turned = [colorsys.rgb_to_hsv(*color)[0] for color in changed.tolist()]
    # The orange of the image is a twelfth of a turn from red.
    shifts = (np.array(turned) - 1 / 12 + 0.5) % 1 - 0.5
    assert stats.kstest(shifts, stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3


def test_each_image_has_factors_and_an_order_of_its_own() -> None:
    """Values of many images as those of a loop that draws an order for each."""
    count, spread = 10_000, 0.8
    weights = np.array([0.2989, 0.587, 0.114])
    image = np.array([[[0.1, 0.5, 0.9], [1.0, 0.8, 0.2], [0.0, 0.3, 0.4]]])
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(count):
        values = image
        for kind in rng.permutation(3):
            grey = values @ weights
            other = (0.0, grey.mean(), grey[..., None])[kind]
            factor = rng.uniform(1 - spread, 1 + spread)
            values = np.clip(other + factor * (values - other), 0, 1)
        expected.append(values)
    augment = augmentation.color_jitter(
        brightness=spread, contrast=spread, saturation=spread
    )
    images = jnp.broadcast_to(jnp.asarray(image, jnp.float32), (count, 1, 3, 3))
    found = np.asarray(augment(KEY, images)).reshape(count, 9)
    for one, other in zip(found.T, np.reshape(expected, (count, 9)).T, strict=True):
        result: Any = stats.ks_2samp(one.round(5), other.round(5))
        assert result.pvalue > 1e-3


def test_jitter_of_nothing_changes_nothing() -> None:
    np.testing.assert_array_equal(augmentation.color_jitter()(KEY, IMAGES), IMAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augmentation.shift(-1), "shift is -1"),
        (lambda: augmentation.crop(0), "crop is 0 pixels"),
        (lambda: augmentation.crop(4, padding=-1), "padding is -1"),
        (lambda: augmentation.cutout(0), "cutout is 0 pixels"),
        (lambda: augmentation.flip(1.5), "probability is 1.5"),
        (lambda: augmentation.crop(20)(KEY, IMAGES), "crop of 20.*9x8"),
        (lambda: augmentation.random_resized_crop(0), "random_resized_crop is 0"),
        (
            lambda: augmentation.random_resized_crop(8, scale=(0.5, 1.5)),
            r"scale is \(0.5, 1.5\).*0 < low <= high <= 1",
        ),
        (
            lambda: augmentation.random_resized_crop(8, scale=(0.0, 1.0)),
            r"scale is \(0.0, 1.0\)",
        ),
        (
            lambda: augmentation.random_resized_crop(8, ratio=(2.0, 1.0)),
            r"ratio is \(2.0, 1.0\).*0 < low <= high",
        ),
        (
            lambda: augmentation.color_jitter(brightness=-0.1),
            "brightness is -0.1, but must be at least 0",
        ),
        (
            lambda: augmentation.color_jitter(contrast=math.inf),
            "contrast is inf, but must be at least 0",
        ),
        (
            lambda: augmentation.color_jitter(saturation=math.nan),
            "saturation is nan, but must be at least 0",
        ),
        (
            lambda: augmentation.color_jitter(hue=0.6),
            "hue is 0.6, but must be at least 0 and at most 0.5",
        ),
        (
            lambda: augmentation.color_jitter(hue=0.1)(KEY, IMAGES[..., :2]),
            "1 or 3 channels, but these have 2",
        ),
    ],
)
def test_bad_options_are_named(make, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        make()
