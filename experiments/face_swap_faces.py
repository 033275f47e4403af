"""Where faces are in a picture, and how another one is put in their place."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from experiments.face_swap_model import Framing, Swapper

# The longer side in pixels of what is searched. Smaller faces are found in a larger
# picture, but so is more that is none, and the time grows with its area.
SIDE = 320
# The cascade's own window, so the smallest face that can be found.
SMALLEST = 24
# Each window is larger than the one before by this factor.
_STEP = 1.1
# Windows that must agree. So many find 383 of ORL's 400 faces in a border of two
# fifths of their size, and 55 of the 56 of Extended Yale B that are lit from the front
# (but 211 of all 512), and take something for a face in 3 of 100 photographs of cats
# and dogs.
_AGREEING = 6
# Of pictures that are a face and little else: how many are looked at, how high they are
# made for that, the border that they get as a share of it, and the share of them in
# which a face must be found.
_LOOKED_AT, _HEIGHT, _BORDER, _FOUND = 32, 128, 0.4, 0.25
# How far inside its edge the ellipse begins to fade, as a share of its half axes.
FEATHER = 0.3


class Box(NamedTuple):
    """A rectangle of a picture in pixels; it may reach beyond the picture."""

    left: int
    top: int
    width: int
    height: int


def detect(picture: np.ndarray, side: int = SIDE) -> list[Box]:
    """Finds upright faces that look at the camera, the largest first.

    By scikit-image's cascade of local binary patterns (Zhang et al. 2007, "Face
    detection based on multi-block LBP representation") with the weights that come with
    it, in the picture, made smaller if its longer side has more than `side` pixels. A
    face must be 24 of them wide, from cheek to cheek.

    Args:
        picture: uint8[H, W, 3].
        side: more of it finds smaller faces, more mistakes, and takes longer.
    """
    height, width, _ = picture.shape
    scale = min(1, side / max(height, width))
    size = [max(1, round(scale * length)) for length in (width, height)]
    if min(size) < SMALLEST:
        return []
    small = Image.fromarray(picture).convert("L")
    small = small.resize(size, Image.Resampling.BICUBIC)
    found = _cascade().detect_multi_scale(
        img=np.asarray(small),
        scale_factor=_STEP,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(min(size), min(size)),
        min_neighbor_number=_AGREEING,
    )
    boxes = [
        Box(*(round(one[name] / scale) for name in ("c", "r", "width", "height")))
        for one in found
    ]
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box.width * box.height):
        # A face may be found twice, at two sizes.
        if not any(_inside(_centre(box), larger) for larger in kept):
            kept.append(box)
    return kept


@functools.cache
def _cascade() -> Any:
    from skimage import data, feature

    return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def _centre(box: Box) -> tuple[float, float]:
    return box.left + box.width / 2, box.top + box.height / 2


def _inside(point: tuple[float, float], box: Box) -> bool:
    across, down = point[0] - box.left, point[1] - box.top
    return 0 <= across < box.width and 0 <= down < box.height


def framing(images: np.ndarray) -> Framing | None:
    """How pictures of one face each lie around it; medians over some of them.

    Args:
        images: uint8[N, H, W, C], with 3 channels or 1.

    Returns:
        None where a face is found in too few of them.
    """
    places = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT))
    found = []
    for image in images[places.round().astype(int)]:
        height, width, _ = image.shape
        size = round(_HEIGHT * width / height), _HEIGHT
        colour = Image.fromarray(np.repeat(image, 3 // image.shape[-1], axis=2))
        border = round(_BORDER * _HEIGHT)
        whole = np.pad(
            np.asarray(colour.resize(size, Image.Resampling.BICUBIC)),
            ((border, border), (border, border), (0, 0)),
            mode="edge",
        )
        boxes = detect(whole, max(whole.shape))
        if boxes:
            across, down = _centre(boxes[0])
            pixels = _HEIGHT, whole.shape[0] / 2 - down, whole.shape[1] / 2 - across
            found.append(np.array(pixels) / boxes[0].height)
    if len(found) < _FOUND * len(places):
        return None
    return Framing(*np.median(found, axis=0).tolist())


def framed(box: Box, framing: Framing, size: tuple[int, int]) -> Box:
    """The rectangle around a face that has a network's proportions.

    Args:
        box: of the face.
        framing: how the rectangle lies around it.
        size: height and width that the network takes.
    """
    height = max(1, round(framing.scale * box.height))
    width = max(1, round(height * size[1] / size[0]))
    across, down = _centre(box)
    across += framing.across * box.height
    down += framing.down * box.height
    return Box(round(across - width / 2), round(down - height / 2), width, height)


def swapped(
    picture: np.ndarray, boxes: Sequence[Box], swapper: Swapper, *, match: bool
) -> np.ndarray:
    """A picture with the faces in some boxes swapped; uint8[H, W, 3].

    What lies outside the boxes is as it was, bit for bit. A network of grey pictures
    changes how light a face is, and leaves its hues.

    Args:
        picture: uint8[H, W, 3].
        boxes: where the faces are.
        swapper: what is done to each.
        match: whether the colours are made those of the face that was there.
    """
    crops = [_crop(picture, box) for box in boxes]
    height, width = swapper.size
    mode = "RGB" if swapper.channels == 3 else "L"
    faces = [
        np.asarray(crop.resize((width, height), Image.Resampling.BICUBIC).convert(mode))
        for crop in map(Image.fromarray, crops)
    ]
    given = np.stack(faces).reshape(len(boxes), height, width, swapper.channels)
    made = swapper.swap(given)
    result = picture.copy()
    for box, crop, face in zip(boxes, crops, made, strict=True):
        new = _coloured(face, crop)
        if match:
            new = matched(new, crop)
        blend(result, box, new)
    return result


def _crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """What is in a box; beyond the picture, its edge goes on."""
    height, width, _ = picture.shape
    rows = np.clip(np.arange(box.top, box.top + box.height), 0, height - 1)
    columns = np.clip(np.arange(box.left, box.left + box.width), 0, width - 1)
    return picture[rows[:, None], columns]


def _coloured(face: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """A face [h, w, C] at a crop's size [H, W, 3], with its hues if it is grey."""
    size = crop.shape[1::-1]
    if face.shape[-1] == 3:
        large = Image.fromarray(face).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(large)
    light = Image.fromarray(face[..., 0]).resize(size, Image.Resampling.BICUBIC)
    hues = Image.fromarray(crop).convert("YCbCr").split()[1:]
    return np.asarray(Image.merge("YCbCr", (light, *hues)).convert("RGB"))


def ellipse(height: int, width: int) -> np.ndarray:
    """How much of a face is seen, float32[height, width] from 0 to 1.

    1 inside an ellipse, 0 beyond the one that touches the edges, smooth in between.
    """
    down, across = (
        (2 * np.arange(length, dtype=np.float32) + 1) / length - 1
        for length in (height, width)
    )
    radius = np.hypot(down[:, None], across[None])
    inward = np.clip((1 - radius) / FEATHER, 0, 1)
    return inward * inward * (3 - 2 * inward)


def matched(face: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """A face with a crop's mean and deviation of each channel of CIELAB.

    As Reinhard et al. 2001, "Color transfer between images", equations 10 and 11, but
    in CIELAB, and over what the ellipse shows; uint8[H, W, 3] like both arguments.
    """
    from skimage import color

    weights = ellipse(*crop.shape[:2])[..., None]
    weights = weights / weights.sum()
    new, old = color.rgb2lab(face), color.rgb2lab(crop)

    def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = np.sum(weights * values, axis=(0, 1))
        return mean, np.sqrt(np.sum(weights * (values - mean) ** 2, axis=(0, 1)))

    (mean, deviation), (wanted, spread) = moments(new), moments(old)
    # A face of one colour has nothing to be spread.
    ratio = np.where(deviation > 1e-3, spread / np.maximum(deviation, 1e-3), 1)
    values = (new - mean) * ratio + wanted
    with warnings.catch_warnings():
        # Some of the new colours are none that a screen can show.
        warnings.simplefilter("ignore", UserWarning)
        shown = np.clip(color.lab2rgb(values), 0, 1)
    return np.rint(255 * shown).astype(np.uint8)


def blend(picture: np.ndarray, box: Box, face: np.ndarray) -> None:
    """Puts a face into its box of a picture, fading towards the box's edges.

    Args:
        picture: uint8[H, W, 3]; changed in place, inside the box only.
        box: where; what lies beyond the picture is left out.
        face: uint8[h, w, 3] of the box's size.
    """
    height, width, _ = picture.shape
    top, left = max(box.top, 0), max(box.left, 0)
    bottom = min(box.top + box.height, height)
    right = min(box.left + box.width, width)
    inside = np.s_[top - box.top : bottom - box.top, left - box.left : right - box.left]
    share = ellipse(box.height, box.width)[inside][..., None]
    old = picture[top:bottom, left:right].astype(np.float32)
    new = old + share * (face[inside] - old)
    picture[top:bottom, left:right] = np.rint(new).astype(np.uint8)
