"""Photos of MNIST's own digits come back as they are in MNIST."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from flaxnets import errors
from flaxnets.data import handwriting

COUNT = 6


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """White on black, made as MNIST's digits are: uint8[6, 28, 28].

    From scikit-learn's 8x8 digits, enlarged to 20 rows, as no download is needed.
    """
    from sklearn import datasets

    images = datasets.load_digits(return_X_y=True)[0].reshape(-1, 8, 8)
    made = np.zeros((COUNT, 28, 28), np.uint8)
    for place, image in zip(made, images, strict=False):
        ink = image[:, image.any(axis=0)].astype(np.float32) * (255 / 16)
        tall = Image.fromarray(ink).resize((round(2.5 * ink.shape[1]), 20))
        values = np.asarray(tall)
        # Strokes of 8x8 pixels are grey; MNIST's are white.
        values = np.clip(1.6 * values - 60, 0, 255)
        profiles = values.sum(axis=1), values.sum(axis=0)
        centres = [
            (line * np.arange(len(line))).sum() / line.sum() for line in profiles
        ]
        top, left = (
            np.clip(round(14 - c), 0, 28 - n)
            for c, n in zip(centres, values.shape, strict=True)
        )
        place[top : top + values.shape[0], left : left + values.shape[1]] = values
    return made


def enlarged(digit: np.ndarray, factor: int = 10) -> np.ndarray:
    """Ink from 0 to 1, f32[28 * factor, 28 * factor]."""
    size = (28 * factor, 28 * factor)
    return np.asarray(Image.fromarray(digit).resize(size), np.float32) / 255


def slope(shape: tuple[int, int], low: float, high: float) -> np.ndarray:
    rows, columns = (np.linspace(0, 1, length) for length in shape)
    return low + (high - low) * (0.6 * columns[None, :] + 0.4 * rows[:, None])


def dark_on_light(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - 255 * ink


def light_on_dark(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 30 + 150 * ink


def faint(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 200 - 40 * ink + rng.normal(0, 2, ink.shape)


def off_centre_in_uneven_light(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink, ((40, 160), (200, 20)))
    noise = rng.normal(0, 4, ink.shape)
    return slope(ink.shape, 90, 230) * (1 - 0.6 * ink) + noise


def in_a_vignette(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink, 80)
    line = np.linspace(-1, 1, len(ink)) ** 2
    return (230 - 60 * (line[None] + line[:, None])) * (1 - 0.7 * ink)


def under_a_shadow(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink, 100)
    step = 1 / (1 + np.exp(-(np.arange(ink.shape[1]) - 290) / 8))
    return (220 - 70 * step) * (1 - 0.7 * ink) + rng.normal(0, 3, ink.shape)


def chalk_on_a_board(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink, 60)
    return slope(ink.shape, 40, 90) + 110 * ink + rng.normal(0, 8, ink.shape)


def with_specks(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink, 60)
    for row, column in rng.integers(0, len(ink) - 5, (15, 2)):
        ink[row : row + 5, column : column + 5] = 0.8
    return 220 - 150 * ink


def beside_a_dark_table(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    photo = 220 * (1 - 0.7 * np.pad(ink, 60))
    photo[:, :25] = 60
    photo[:12] = 70
    return photo


def small_in_a_large_photo(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.pad(ink[::2, ::2], ((300, 560), (900, 560)))
    return slope(ink.shape, 150, 230) * (1 - 0.6 * ink) + rng.normal(0, 6, ink.shape)


PHOTOS = [
    dark_on_light,
    light_on_dark,
    faint,
    off_centre_in_uneven_light,
    in_a_vignette,
    under_a_shadow,
    chalk_on_a_board,
    with_specks,
    beside_a_dark_table,
    small_in_a_large_photo,
]


def likeness(found: np.ndarray, digit: np.ndarray) -> float:
    """Correlation of two digits; the best of shifts by up to a pixel.

    The centre of mass is rounded to whole pixels, so either neighbour is right.
    """
    return max(
        np.corrcoef(np.roll(found, (row, column), (0, 1)).ravel(), digit.ravel())[0, 1]
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
    )


def check(photo: Callable, digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    likenesses = []
    for digit in digits:
        values = np.clip(photo(enlarged(digit), rng), 0, 255).astype(np.uint8)
        found = handwriting.normalise(values)
        assert found.dtype == np.uint8 and found.shape == (28, 28, 1)
        likenesses.append(likeness(found[..., 0], digit))
    # What is lost: the outermost grey pixels of the digit's box, so that it comes
    # back up to a pixel larger.
    assert np.mean(likenesses) > 0.93
    assert np.min(likenesses) > 0.8


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.__name__)
def test_photos_come_back_as_the_digits_they_show(photo, digits) -> None:
    check(photo, digits)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.__name__)
def test_photos_of_mnist_come_back_as_mnist(photo, real_data) -> None:
    with np.load(real_data / "mnist.npz", allow_pickle=False) as arrays:
        check(photo, arrays["x_test"][: 2 * COUNT])


def test_mnist_itself_is_left_as_it_is(real_data) -> None:
    with np.load(real_data / "mnist.npz", allow_pickle=False) as arrays:
        images = arrays["x_test"][:50]
    for image in images:
        # Only faint pixels at the box's edge may go.
        assert likeness(handwriting.normalise(image)[..., 0], image) > 0.97


def test_made_like_mnist(digits) -> None:
    rng = np.random.default_rng(0)
    for digit in digits:
        photo = off_centre_in_uneven_light(enlarged(digit), rng)
        found = handwriting.normalise(np.clip(photo, 0, 255))[..., 0].astype(float)
        rows, columns = np.nonzero(found)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
        mass = found.sum()
        # MNIST's own centres of mass lie between 13.5 and 14.5.
        assert 13.5 <= (found.sum(axis=1) * np.arange(28)).sum() / mass <= 14.5
        assert 13.5 <= (found.sum(axis=0) * np.arange(28)).sum() / mass <= 14.5
        assert found.max() == 255 and found[0].max() == found[:, -1].max() == 0


def test_hairlines_become_strokes() -> None:
    photo = np.full((400, 300), 240, np.uint8)
    photo[50:350, 150:153] = 40
    found = handwriting.normalise(photo)[..., 0]
    # 3 of 300 pixels would be a fifth of a pixel in 20; MNIST's strokes are two.
    assert (found[5:23] > 128).sum(axis=1).min() >= 2
    assert (found > 0).sum(axis=1).max() <= 4


@pytest.mark.parametrize("size", [(8, 8), (1, 40), (40, 1), (5, 300)])
def test_pictures_of_any_size_are_read_or_refused(size) -> None:
    picture = np.full(size, 255, np.uint8)
    picture[size[0] // 2, size[1] // 2] = 0
    try:
        assert handwriting.normalise(picture).max() == 255
    except errors.DataError as error:
        assert "no digit" in str(error)


def test_blank_pictures_are_refused() -> None:
    rng = np.random.default_rng(0)
    line = np.linspace(-1, 1, 200) ** 2
    blanks = {
        "white": np.full((200, 300), 255.0),
        "black": np.zeros((200, 300)),
        "noise": rng.normal(200, 5, (200, 300)),
        "strong noise": rng.normal(128, 40, (200, 300)),
        "uneven light": slope((200, 300), 60, 230),
        "uneven light with noise": slope((200, 300), 60, 230)
        + rng.normal(0, 4, (200, 300)),
        "vignette": 230 - 60 * (line[None] + line[:, None]),
        "one pixel": np.full((1, 1), 200.0),
    }
    for name, blank in blanks.items():
        with pytest.raises(errors.DataError, match="no digit was found"):
            handwriting.normalise(np.clip(blank, 0, 255))
            pytest.fail(name)
