"""From pictures to network inputs, by arithmetic and by Pillow's own filters."""

import numpy as np
import pytest

from flaxnets.data import preprocessing
from flaxnets.data.preprocessing import Preprocessing


def picture(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "shape"), [((300, 400), (224, 224)), ((256, 256), (224, 224))]
)
def test_normalises_channels(size, shape) -> None:
    chosen = preprocessing.TORCHVISION
    found = chosen(picture(*size))
    assert (found.shape, found.dtype) == ((*shape, 3), np.float32)
    seen = chosen.cropped(picture(*size)) / 255
    expected = (seen - np.array(chosen.mean)) / np.array(chosen.deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_keras_wants_blue_first_and_means_only() -> None:
    image = picture(224, 224)
    found = preprocessing.KERAS_CAFFE(image)
    expected = image[..., ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((100, 150), 50, (50, 75)),
        ((150, 100), 50, (75, 50)),
        # The longer side is rounded down: 50 * 149 / 100 is 74.5.
        ((100, 149), 50, (50, 74)),
        ((100, 150), (30, 20), (30, 20)),
    ],
)
def test_resizes_the_shorter_side_or_both(size, resize, expected) -> None:
    chosen = Preprocessing(resize=resize, crop=None)
    assert chosen.cropped(picture(*size)).shape[:2] == expected


def test_crops_the_middle_and_pads_what_is_too_small() -> None:
    image = picture(10, 7)
    crop = Preprocessing(resize=(10, 7), crop=4).cropped(image)
    # (7 - 4) / 2 is rounded to even.
    np.testing.assert_array_equal(crop, image[3:7, 2:6])
    padded = Preprocessing(resize=(10, 7), crop=9).cropped(image)
    assert padded.shape == (9, 9, 3)
    assert not padded[:, 0].any() and not padded[:, 8].any()
    np.testing.assert_array_equal(padded[:, 1:8], image[0:9])
