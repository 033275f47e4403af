"""Rendered faces against what geometry and light say of them."""

import numpy as np
import pytest

from flaxnets import errors
from flaxnets.data import faces

PERSON = faces.identity(3)
SIZE = 32


def _views(**changed) -> faces.Views:
    """One neutral view, or several, with some fields changed."""
    neutral = {
        "yaw": 0.0,
        "pitch": 0.0,
        "smile": 0.0,
        "mouth_open": 0.0,
        "eyes_open": 1.0,
        "brows_raised": 0.0,
        "light_azimuth": 0.0,
        "light_elevation": 0.0,
        "light": 0.6,
        "ambient": 0.3,
    }
    columns = np.broadcast_arrays(
        *(np.atleast_1d(v) for v in {**neutral, **changed}.values())
    )
    return faces.Views(*(column.astype(np.float32) for column in columns))


def test_the_same_parameters_give_the_same_pictures_in_any_company() -> None:
    seen = faces.views(5, 6)
    together = faces.render(PERSON, seen, SIZE)
    assert together.shape == (6, SIZE, SIZE, 3) and together.dtype == np.float32
    assert 0 <= together.min() and together.max() <= 1
    last = faces.Views(*(field[4:5] for field in seen))
    np.testing.assert_allclose(
        faces.render(PERSON, last, SIZE)[0], together[4], atol=1e-6
    )
    more = faces.views(5, 9)
    for one, two in zip(seen, more, strict=True):
        np.testing.assert_array_equal(one, two[:6])


def test_a_head_turned_the_other_way_is_the_mirror_image() -> None:
    turned = _views(
        yaw=[25.0, -25.0], light_azimuth=[40.0, -40.0], pitch=10.0, smile=0.7
    )
    one, other = faces.render(PERSON, turned, SIZE)
    # Rays and their mirror images are rounded differently; a point at an edge may fall
    # to either side of it, and is a ninth of a pixel.
    different = np.abs(one - other[:, ::-1]).max(axis=-1)
    assert (different > 1e-3).mean() < 0.01
    assert np.abs(one - other).max(axis=-1).mean() > 0.02


def test_light_adds_up() -> None:
    lights = _views(
        light_azimuth=[-50.0, 30.0, 30.0],
        light_elevation=[0.0, 40.0, 40.0],
        light=[0.4, 0.3, 0.6],
        ambient=[0.1, 0.0, 0.0],
        yaw=15.0,
    )
    first, second, double = faces.render(PERSON, lights, SIZE)
    np.testing.assert_allclose(double, 2 * second, atol=1e-5)
    # What comes from everywhere and what comes from one side, each alone.
    side = {"light_azimuth": -50.0, "light": 0.4, "yaw": 15.0}
    dark = faces.render(PERSON, _views(light=0.0, ambient=0.1, yaw=15.0), SIZE)[0]
    lit = faces.render(PERSON, _views(ambient=0.0, **side), SIZE)[0]
    assert dark.max() > 0.02 and lit.max() > 0.02
    np.testing.assert_allclose(first, dark + lit, atol=1e-5)
    assert faces.render(PERSON, _views(light=0.0, ambient=0.0), SIZE).max() == 0


def test_a_sphere_is_as_bright_as_lambert_says() -> None:
    """Against the formula, on a bald head of one radius without any features."""
    plain = PERSON._replace(
        head=np.full(3, 0.8),
        skin=np.ones(3),
        hair_volume=-0.5,
        beard=0.0,
        nose=np.full(3, 0.01),
        ear_size=0.01,
    )
    size = SIZE
    seen = _views(light_azimuth=30.0, light_elevation=20.0, yaw=90.0)
    found = faces.render(plain, seen, size)[0]
    azimuth, elevation = np.deg2rad(30.0), np.deg2rad(20.0)
    light = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    # The back of the head: turned by 90 degrees it is the picture's left half.
    for row, column in [(16, 7), (8, 11), (23, 9), (20, 13)]:
        x = (column + 0.5) / size * 2 - 1
        y = 1 - (row + 0.5) / size * 2
        normal = np.array([x, y, np.sqrt(0.64 - x * x - y * y)]) / 0.8
        expected = 0.3 + 0.6 * max(0.0, normal @ light)
        # The mean over a pixel differs from its middle by the curvature.
        np.testing.assert_allclose(found[row, column], expected, atol=5e-3)


def test_the_mouth_moves_with_the_head() -> None:
    """Against the rotation of a point in the middle of the surface."""
    painted = PERSON._replace(
        skin=np.array([0.9, 0.1, 0.1]), lips=np.array([0.0, 1.0, 0.0])
    )
    angles = np.array([-30.0, 0.0, 30.0])
    size = SIZE
    seen = _views(yaw=angles, light=0.0, ambient=0.9)
    pictures = faces.render(painted, seen, size)
    # The wall is a little green too.
    green = np.maximum(pictures[..., 1] - pictures[..., 0] - 0.1, 0)
    across = (np.arange(size) + 0.5) / size * 2 - 1
    middle = (green.sum(axis=1) * across).sum(axis=1) / green.sum(axis=(1, 2))
    depth = float(painted.head[2]) * np.sqrt(1 - float(painted.mouth_height) ** 2)
    # The mouth is not a point: its farther half is foreshortened.
    np.testing.assert_allclose(middle, depth * np.sin(np.deg2rad(angles)), atol=0.05)


@pytest.mark.parametrize(
    ("field", "value"),
    [("smile", 1.0), ("mouth_open", 1.0), ("eyes_open", 0.2), ("brows_raised", 1.0)],
)
def test_each_mood_changes_the_face_and_not_its_outline(field: str, value) -> None:
    plain, changed = faces.render(PERSON, _views(**{field: [_of(field), value]}), SIZE)
    different = np.abs(plain - changed).max(axis=-1) > 0.02
    assert 0.003 < different.mean() < 0.2
    inner = slice(SIZE // 6, -SIZE // 6)
    assert different[:, inner].sum() == different.sum()


def _of(field: str) -> float:
    return float(getattr(_views(), field)[0])


def test_people_differ_and_one_batch_holds_several() -> None:
    people = [faces.identity(seed) for seed in range(4)]
    seen = _views(yaw=[10.0] * 4)
    apart = [faces.render(one, _views(yaw=10.0), SIZE)[0] for one in people]
    for place, one in enumerate(apart):
        for other in apart[:place]:
            assert np.abs(one - other).mean() > 0.02
    everyone = faces.Identity(*(np.stack(field) for field in zip(*people, strict=True)))
    np.testing.assert_allclose(faces.render(everyone, seen, SIZE), apart, atol=1e-6)


def test_what_cannot_be_rendered() -> None:
    seen = faces.views(0, 3)
    with pytest.raises(errors.ArgumentError, match="all must be"):
        faces.render(PERSON, seen._replace(yaw=np.zeros(2)))
    with pytest.raises(errors.ArgumentError, match="at least one view"):
        faces.render(PERSON, faces.Views(*(field[:0] for field in seen)))
    with pytest.raises(errors.ArgumentError, match="size is 4"):
        faces.render(PERSON, seen, 4)
