"""Pictures from files: any format, depth or orientation, and digits as MNIST has them.

Everything here trusts no file: a picture that cannot be read, or that would need
absurd amounts of memory, is a DataError that names it.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from flaxnets import errors
from flaxnets.data import handwriting

if TYPE_CHECKING:
    from PIL import Image, ImageFile

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
    path = Path(path)
    try:
        # Given a path, Pillow maps uncompressed TIFFs into memory, and scrambles those
        # whose orientation swaps rows and columns; given a file, it reads.
        with path.open("rb") as file:
            return decode(file, str(path))
    except FileNotFoundError as error:
        raise errors.DataError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise errors.DataError(
            f"{path}: is a folder, but a picture file was expected"
        ) from error
    except OSError as error:
        raise errors.DataError(f"{path}: cannot be read ({error.strerror})") from error


def decode(file: BinaryIO, name: str) -> np.ndarray:
    """Decodes an open picture file as `read_image` does; `name` is for messages."""
    from PIL import ImageOps

    with opened(file, name) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    return rgb(upright, name)


def rgb_profile(file: BinaryIO, name: str) -> bytes | None:
    """The ICC profile of an open picture file, if `decode` keeps the values it is of.

    That is, of a colour picture that is not CMYK: a profile of another kind would not
    fit the RGB values that it becomes. `name` is for messages.
    """
    with opened(file, name) as image:
        return image.info.get("icc_profile") if image.mode[:3] == "RGB" else None


def dropped(file: BinaryIO, name: str) -> list[str]:
    """What an open picture file has that `decode` does not keep, a few words for each.

    `name` is for messages.
    """
    with opened(file, name) as image:
        # Pillow says of a colour PNG of 16 bits only here that it reads 8 of them.
        deep = image.mode[0] in "IF" or ";16" in str(image.tile)
        frames = getattr(image, "n_frames", 1)
        found = {
            "transparency (white instead)": image.has_transparency_data,
            "values of more than 8 bits": deep,
            f"{frames - 1} of its {frames} frames": frames > 1,
        }
    return [what for what, there in found.items() if there]


@contextlib.contextmanager
def opened(file: BinaryIO, name: str) -> "Iterator[ImageFile.ImageFile]":
    """A picture whose header was read; what fails in the block names the file.

    Raises:
        DataError: as `read_image`; the cause of one that was refused for its size is
            one of Pillow's two decompression bombs.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with strict_warnings(), Image.open(file, formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise errors.DataError(
            f"{name}: refused before decoding, it would fill the memory "
            f"({error}); make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        file.seek(0)
        raise errors.DataError(f"{name}: {_unidentified(file.read(512))}") from error
    except Exception as error:
        # Damage makes Pillow raise anything: struct.error of EXIF, TypeError of TIFF.
        raise errors.DataError(
            f"{name}: the picture is truncated or damaged ({error}); get it again"
        ) from error


_strict_lock = threading.Lock()
_strict = 0
_restored: warnings.catch_warnings | None = None


@contextlib.contextmanager
def strict_warnings() -> Iterator[None]:
    """Makes Pillow's warning of a decompression bomb an error, and mutes its others.

    Python's filters are those of the process, and threads decode: the first of them
    to come changes the filters, the last to leave puts them back.
    """
    from PIL import Image

    global _strict, _restored
    with _strict_lock:
        if _strict == 0:
            _restored = warnings.catch_warnings()
            _restored.__enter__()
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Anything else that Pillow warns of is either an error here or harmless.
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        _strict += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict -= 1
            if _strict == 0 and _restored is not None:
                _restored.__exit__(None, None, None)


def _unidentified(head: bytes) -> str:
    """What a file that begins so is instead of a picture, and what was expected."""
    head = head.lstrip().lower()
    found = "is not a picture that can be read"
    if not head:
        found = "is empty"
    elif head.startswith((b"<!doctype html", b"<html")):
        found = "is a web page, not a picture (a download that failed?)"
    return f"{found}; expected one of {', '.join(FORMATS)}, undamaged"


def rgb(image: "Image.Image", name: str) -> np.ndarray:
    """A loaded picture of any Pillow mode as uint8[H, W, 3], as `read_image` says."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        grey = _eight_bits(image, name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: "Image.Image", name: str) -> np.ndarray:
    """Grey values of 16 or 32 bits as uint8[H, W]; see `read_image`."""
    stored = np.asarray(image)
    if not np.isfinite(stored).all():
        raise errors.DataError(
            f"{name}: holds values that are not finite, but a picture was expected"
        )
    values = stored.astype(np.float64)
    if image.mode.startswith("I;16"):
        scaled = values / 65535
        transparent = image.info.get("transparency")
        if transparent is not None:
            scaled = np.where(values == transparent, 1.0, scaled)
    else:
        low, high = values.min(), values.max()
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(255 * scaled).astype(np.uint8)


def read_digit(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture of one digit as MNIST would hold it, uint8[28, 28, 1].

    White on black, whatever the picture's own colours; see `handwriting.normalise`.

    Raises:
        DataError: the file is not a readable picture (see `read_image`), or nothing
            in it stands out from the background.
    """
    from PIL import Image

    grey = np.asarray(Image.fromarray(read_image(path)).convert("L"))
    try:
        return handwriting.normalise(grey)
    except errors.DataError as error:
        raise errors.DataError(f"{path}: {error}") from error
