"""Faces found in pictures, and others put in their place."""

import types

import numpy as np
import pytest
from PIL import Image
from skimage import color, data

from experiments import face_swap_faces as faces
from experiments.face_swap_faces import Box
from experiments.face_swap_model import Framing

RANDOM = np.random.default_rng(0)
# Measured in the photograph by hand: the face from brow to chin.
ASTRONAUT = Box(178, 68, 92, 110)


def _swapper(swap, size=(32, 24), channels=3) -> types.SimpleNamespace:
    return types.SimpleNamespace(swap=swap, size=size, channels=channels)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    masks = np.zeros((2, 1200, 1200), bool)
    for mask, box in zip(masks, (one, other), strict=True):
        mask[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_a_face_is_found_where_it_is(scale: float) -> None:
    image = Image.fromarray(data.astronaut())
    side = int(512 * scale)
    picture = np.asarray(image.resize((side, side)))
    found = faces.detect(picture)[0]
    assert _overlap(Box(*(round(one / scale) for one in found)), ASTRONAUT) > 0.6


@pytest.mark.parametrize(
    "picture",
    [
        data.coffee(),
        data.chelsea(),
        RANDOM.integers(0, 256, (300, 200, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 900, 3), np.uint8),
    ],
    ids=["coffee", "cat", "noise", "black", "strip"],
)
def test_none_is_found_where_there_is_none(picture: np.ndarray) -> None:
    assert faces.detect(picture) == []


def test_all_faces_are_found_the_largest_first_each_once() -> None:
    image = Image.fromarray(data.astronaut()).crop((130, 0, 330, 200))
    picture = np.full((260, 420, 3), 128, np.uint8)
    picture[:120, :120] = np.asarray(image.resize((120, 120)))
    picture[20:220, 180:380] = np.asarray(image)
    large, small = faces.detect(picture)
    assert _overlap(large, Box(180 + 48, 20 + 68, 92, 110)) > 0.6
    assert _overlap(small, Box(29, 41, 55, 66)) > 0.6


def test_a_face_that_is_found_at_two_sizes_is_one(monkeypatch) -> None:
    # As the cascade answers for some sizes of the photograph;
    answers = [(114, 43, 54), (106, 42, 67), (200, 60, 40)]
    found = [
        {"c": left, "r": top, "width": side, "height": side}
        for left, top, side in answers
    ]
    cascade = types.SimpleNamespace(detect_multi_scale=lambda **options: found)
    monkeypatch.setattr(faces, "_cascade", lambda: cascade)
    assert faces.detect(np.zeros((640, 640, 3), np.uint8)) == [
        Box(212, 84, 134, 134),
        Box(400, 120, 80, 80),
    ]


def test_real_faces_of_many_people_are_found(real_data) -> None:
    images = np.load(real_data / "orl_faces.npz")["images"][::16]
    # They fill their pictures, and the cascade looks for what is around a face too.
    framed = np.pad(images, ((0, 0), (20, 20), (20, 20)), mode="edge")
    found = [faces.detect(np.repeat(one[..., None], 3, axis=2)) for one in framed]
    assert np.mean([len(one) > 0 for one in found]) >= 0.95


def test_a_frame_has_the_proportions_of_the_network_around_the_same_middle() -> None:
    box = faces.framed(Box(100, 50, 80, 80), Framing(1.25), (96, 84))
    assert box == Box(round(140 - 43.75), round(90 - 50), 88, 100)
    assert faces.framed(Box(3, 4, 1, 1), Framing(0.01), (9, 1)).width == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(1.1, 1.0), (1.6, 1.3)])
def test_a_face_is_framed_as_in_the_pictures_that_were_learned(
    rows: float, columns: float, channels: int
) -> None:
    # A crop around the face that is not in its middle, at three sizes, and as small
    # as a network takes it.
    photograph = Image.fromarray(data.astronaut())
    top, left = ASTRONAUT.top - 20, ASTRONAUT.left - 15
    crop = Box(left, top, round(columns * 110), round(rows * 110))
    small = photograph.crop((left, top, left + crop.width, top + crop.height)).resize(
        (round(64 * columns / rows), 64), Image.Resampling.BICUBIC
    )
    images = np.asarray(small.convert("RGB" if channels == 3 else "L"))
    images = images.reshape(1, *images.shape[:2], channels)
    framing = faces.framing(np.repeat(images, 5, axis=0))
    assert framing is not None
    for scale in (0.6, 1.0, 1.7):
        side = round(512 * scale)
        found = faces.detect(np.asarray(photograph.resize((side, side))))[0]
        box = faces.framed(found, framing, images.shape[1:3])
        # The cascade's windows grow by a tenth, so a height may be wrong by as much.
        assert _overlap(Box(*(round(one / scale) for one in box)), crop) > 0.7


def test_pictures_without_faces_say_nothing_of_framing() -> None:
    nothing = np.full((40, 32, 28, 1), 128, np.uint8)
    assert faces.framing(nothing) is None


def test_the_ellipse_is_what_its_formula_says() -> None:
    mask = faces.ellipse(21, 30)
    for row in range(21):
        for column in range(30):
            down, across = (row - 10) / 10.5, (column - 14.5) / 15
            inward = min(max((1 - (down**2 + across**2) ** 0.5) / 0.3, 0), 1)
            expected = 3 * inward**2 - 2 * inward**3
            assert mask[row, column] == pytest.approx(expected, abs=1e-5)
    assert mask[10, 15] == 1 and mask[0, 0] == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("match", [True, False])
def test_outside_the_boxes_nothing_changes(channels: int, match: bool) -> None:
    picture = RANDOM.integers(0, 256, (60, 80, 3), np.uint8)
    boxes = [Box(5, 6, 24, 32), Box(60, 40, 30, 40), Box(-10, 45, 24, 30)]
    swapper = _swapper(lambda given: 255 - given, channels=channels)
    given = picture.copy()
    made = faces.swapped(given, boxes, swapper, match=match)
    np.testing.assert_array_equal(given, picture)
    outside = np.ones((60, 80), bool)
    for box in boxes:
        rows = slice(max(box.top, 0), box.top + box.height)
        outside[rows, max(box.left, 0) : box.left + box.width] = False
        middle = min(box.top + box.height // 2, 59), max(box.left + 12, 0)
        assert (made[middle] != picture[middle]).any()
    np.testing.assert_array_equal(made[outside], picture[outside])


def test_the_middle_is_the_new_face_and_a_swap_of_nothing_changes_nothing() -> None:
    picture = RANDOM.integers(0, 256, (60, 80, 3), np.uint8)
    box = Box(20, 10, 24, 32)
    same = faces.swapped(picture, [box], _swapper(lambda given: given), match=False)
    np.testing.assert_array_equal(same, picture)
    red = np.array([250, 5, 10], np.uint8)
    painted = faces.swapped(
        picture,
        [box],
        _swapper(lambda given: np.broadcast_to(red, given.shape)),
        match=False,
    )
    shown = faces.ellipse(32, 24)
    inside = painted[10:42, 20:44]
    np.testing.assert_array_equal(
        inside[shown == 1], np.tile(red, ((shown == 1).sum(), 1))
    )
    np.testing.assert_array_equal(inside[shown == 0], picture[10:42, 20:44][shown == 0])


def test_the_network_gets_the_box_and_beyond_the_picture_its_edge() -> None:
    picture = RANDOM.integers(0, 256, (40, 50, 3), np.uint8)
    seen = []
    swapper = _swapper(lambda given: (seen.append(given), given)[1])
    faces.swapped(
        picture, [Box(-8, 20, 24, 32), Box(4, 2, 24, 32)], swapper, match=True
    )
    padded = np.pad(picture, ((0, 20), (8, 0), (0, 0)), mode="edge")
    ((first, second),) = seen
    np.testing.assert_array_equal(first, padded[20:52, :24])
    np.testing.assert_array_equal(second, picture[2:34, 4:28])


def test_a_matched_face_has_the_mean_and_deviation_of_the_old_one() -> None:
    # Colours in the middle of what a screen shows, so that none has to be cut off.
    old = RANDOM.integers(120, 160, (50, 40, 3), np.uint8)
    new = RANDOM.integers((30, 60, 40), (90, 100, 200), (50, 40, 3), np.uint8)
    made = faces.matched(new, old)
    weights = faces.ellipse(50, 40).ravel()

    def moments(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = color.rgb2lab(picture).reshape(-1, 3)
        mean = np.average(values, axis=0, weights=weights)
        covariance = np.cov(values.T, aweights=weights, ddof=0)
        return mean, np.sqrt(np.diag(covariance))

    for found, wanted in zip(moments(made), moments(old), strict=True):
        # Rounding to whole values moves a colour by up to half a unit or so.
        np.testing.assert_allclose(found, wanted, atol=0.15)
    swapper = _swapper(lambda given: new[None], size=(50, 40))
    whole = Box(0, 0, 40, 50)
    for match, face in ((True, made), (False, new)):
        blended = faces.swapped(old, [whole], swapper, match=match)
        np.testing.assert_array_equal(blended[25, 20], face[25, 20])
    # A face of one colour becomes the old one's mean colour.
    flat = faces.matched(np.full_like(new, 77), old)
    np.testing.assert_allclose(
        color.rgb2lab(flat).mean(axis=(0, 1)), moments(old)[0], atol=0.7
    )


def test_a_network_of_grey_pictures_changes_the_light_and_not_the_hue() -> None:
    box = Box(10, 10, 24, 32)
    swapper = _swapper(lambda given: given // 2 + 60, channels=1)
    grey = np.repeat(RANDOM.integers(40, 200, (60, 60, 1), np.uint8), 3, axis=2)
    made = faces.swapped(grey, [box], swapper, match=False)
    assert (made == made[..., :1]).all() and (made[26, 22] != grey[26, 22]).any()
    orange = np.full((60, 60, 3), (200, 120, 60), np.uint8)
    made = faces.swapped(orange, [box], swapper, match=False)
    before, after = (
        np.asarray(Image.fromarray(picture).convert("YCbCr"))[26, 22].astype(int)
        for picture in (orange, made)
    )
    assert after[0] == pytest.approx(before[0] // 2 + 60, abs=1)
    np.testing.assert_allclose(after[1:], before[1:], atol=1)
