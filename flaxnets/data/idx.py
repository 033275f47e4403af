"""IDX files (the format that MNIST is published in), plain or gzipped.

The format: two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian 32-bit number, then the values (LeCun, "The MNIST database").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from flaxnets import errors
from flaxnets.data.arrays import Dataset, assembled

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_MAGICS = tuple(bytes([0, 0, 0x08, dimensions]) for dimensions in range(1, 5))

# gzip cannot compress below about 1/1032 of the size (deflate's format).
_GZIP_LIMIT = 1032


def is_folder(folder: Path) -> bool:
    """Whether a folder holds the four files, each plain or gzipped."""
    return all(_find(folder, name) is not None for name in FILES)


def load_folder(
    folder: Path, name: str, class_names: tuple[str, ...] | None = None
) -> Dataset:
    """The data set of a folder with the four IDX files.

    Raises:
        DataError: a file is missing or damaged.
    """
    arrays = []
    for file in FILES:
        path = _find(folder, file)
        if path is None:
            raise errors.DataError(
                f"{folder}: {file} (or {file}.gz) is missing; an IDX data set is the "
                f"four files {', '.join(FILES)}"
            )
        arrays.append(read(path))
    return assembled(name, str(folder), arrays, class_names, f"read from {folder}")


def read(path: Path) -> np.ndarray:
    """The array of one IDX file of unsigned bytes.

    Raises:
        DataError: the file cannot be read, the header is none, or the values are
            fewer or more than it says.
    """
    try:
        size = path.stat().st_size
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return _parse(path, file, size * _GZIP_LIMIT)
        with path.open("rb") as file:
            return _parse(path, file, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise errors.DataError(
            f"{path}: the gzip data are damaged or cut off ({error}); fetch the file "
            "again"
        ) from None
    except OSError as error:
        raise errors.DataError(
            f"{path}: cannot be read ({error.strerror}); expected an IDX file"
        ) from None


def _parse(path: Path, file: IO[bytes] | gzip.GzipFile, limit: int) -> np.ndarray:
    magic = file.read(4)
    if magic not in _MAGICS:
        raise errors.DataError(
            f"{path}: begins with bytes {magic.hex() or '(none)'}, expected an IDX "
            "file of unsigned bytes (0000 08 and the number of dimensions, 1 to 4)"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise errors.DataError(f"{path}: ends within its header; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    count = math.prod(shape)
    if count > limit:
        raise errors.DataError(
            f"{path}: declares {count:,} bytes of values {list(shape)}, more than its "
            "size allows; the file is damaged or forged"
        )
    values = file.read(count + 1)
    if len(values) != count:
        more = "more" if len(values) > count else f"{len(values):,}"
        raise errors.DataError(
            f"{path}: holds {more} bytes of values, expected {count:,} for shape "
            f"{list(shape)}; the file is damaged, fetch it again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None
