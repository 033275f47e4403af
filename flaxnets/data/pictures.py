"""Pictures from files: any format, depth or orientation, and digits as MNIST has them.

Everything here trusts no file: a picture that cannot be read, or that would need
absurd amounts of memory, is a DataError that names it.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxnets import errors

if TYPE_CHECKING:
    from PIL import Image

# Pillow also opens formats whose readers run other programs (EPS) or have a record of
# memory faults (PSD, FITS); a picture of that kind is refused unread.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture file as RGB, uint8[H, W, 3].

    The first frame is taken, turned upright as its EXIF tag says, and transparent
    parts show white. 16-bit values are divided by 257 (65535 becomes 255). Values of
    32 bits have no agreed range: floats that lie in [0, 1] are multiplied by 255, all
    others are stretched so that the smallest becomes 0 and the largest 255.

    Raises:
        DataError: the file is absent, empty, truncated, damaged, or no picture in one
            of FORMATS; or it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Anything else that Pillow warns of is either an error below or harmless.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise errors.DataError(
            f"{path}: refused before decoding, it would fill the memory "
            f"({error}); make it smaller first"
        ) from error
    except FileNotFoundError as error:
        raise errors.DataError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise errors.DataError(
            f"{path}: is a folder, but a picture file was expected"
        ) from error
    except UnidentifiedImageError as error:
        raise errors.DataError(f"{path}: {_unidentified(path)}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise errors.DataError(
            f"{path}: the picture is truncated or damaged ({error}); get it again"
        ) from error
    return _rgb(upright, path)


def _unidentified(path: Path) -> str:
    """What the file is instead of a picture, and what was expected."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    found = "is not a picture that can be read"
    if not head:
        found = "is empty"
    elif head.startswith((b"<!doctype html", b"<html")):
        found = "is a web page, not a picture (a download that failed?)"
    return f"{found}; expected one of {', '.join(FORMATS)}, undamaged"


def _rgb(image: "Image.Image", path: Path) -> np.ndarray:
    """A loaded picture of any Pillow mode as uint8[H, W, 3]."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        grey = _eight_bits(image, path)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: "Image.Image", path: Path) -> np.ndarray:
    """Grey values of 16 or 32 bits as uint8[H, W]; see `read_image`."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16"):
        scaled = values / 65535
        transparent = image.info.get("transparency")
        if transparent is not None:
            scaled = np.where(values == transparent, 1.0, scaled)
    else:
        if not np.isfinite(values).all():
            raise errors.DataError(
                f"{path}: holds values that are not finite, but a picture was expected"
            )
        low, high = values.min(), values.max()
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(255 * scaled).astype(np.uint8)


def read_digit(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture of one digit as MNIST shows digits, uint8[28, 28, 1].

    The digit may be dark on light or light on dark, anywhere in the picture, under
    uneven light. As for MNIST (LeCun, "The MNIST database"), it is scaled into 20x20
    pixels with its aspect kept and put with its centre of mass in the middle of
    28x28, white on black.

    Raises:
        DataError: see `read_image`; or the picture is blank.
    """
    from PIL import Image, ImageFilter

    image = Image.fromarray(read_image(path)).convert("L")
    image.thumbnail((400, 400), Image.Resampling.LANCZOS)
    values = np.asarray(image, np.float64)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    if np.median(border) > values.mean():
        values = 255 - values
    elif np.median(border) == values.mean():
        raise errors.DataError(f"{path}: the picture is blank; expected a digit")
    # The light is taken to be what a plane through the border's values says.
    rows, columns = np.indices(values.shape)
    edge = np.zeros(values.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    plane = np.stack([np.ones(values.shape), rows, columns], axis=-1)
    fit, *_ = np.linalg.lstsq(plane[edge], values[edge], rcond=None)
    ink = np.maximum(values - plane @ fit, 0)
    smooth = np.asarray(
        Image.fromarray(np.clip(ink, 0, 255).astype(np.uint8)).filter(
            ImageFilter.MedianFilter(3)
        )
    )
    peak = np.percentile(smooth, 99.5)
    if peak < 16:
        raise errors.DataError(
            f"{path}: nothing stands out from the background; expected a digit"
        )
    ink = np.where(smooth > 0.25 * peak, np.minimum(ink / peak, 1), 0)
    tall, wide = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[tall[0] : tall[-1] + 1, wide[0] : wide[-1] + 1]
    scale = 20 / max(box.shape)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    small = np.asarray(
        Image.fromarray((255 * box).astype(np.uint8)).resize(
            size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
        ),
        np.float64,
    )
    return _centred(small).astype(np.uint8)[..., None]


def _centred(digit: np.ndarray) -> np.ndarray:
    """A digit of at most 20x20 in 28x28, its centre of mass in the middle."""
    places = []
    for axis, length in enumerate(digit.shape):
        weights = digit.sum(axis=1 - axis)
        centre = (weights * np.arange(length)).sum() / weights.sum()
        places.append(int(np.clip(round(13.5 - centre), 0, 28 - length)))
    canvas = np.zeros((28, 28))
    top, left = places
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas
