"""Keras-style `.npz` data sets, read without trusting them."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from flaxnets import errors
from flaxnets.data.arrays import Dataset, assembled

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path, class_names: tuple[str, ...] | None = None) -> Dataset:
    """Reads `x_train`, `y_train`, `x_test`, `y_test` as a data set.

    Args:
        path: the file; its name becomes the data set's.
        class_names: by default the numbers from 0 to the largest training label.

    Raises:
        DataError: no such file, not an `.npz`, damaged, arrays missing, holding
            objects, declaring more than they store, or not fit to train on.
    """
    held = arrays(path, KEYS)
    parts = [held[key] for key in KEYS]
    return assembled(path.stem, str(path), parts, class_names, f"read from {path}")


def arrays(path: Path, keys: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name, no more memory taken than they fill.

    Args:
        path: the file.
        keys: the arrays to read; by default all.

    Raises:
        DataError: no such file, not an `.npz`, damaged, arrays missing, holding
            objects, or declaring more than they store.
    """
    if not path.is_file():
        raise errors.DataError(f"{path}: no such file; give the path of an .npz file")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        called = f" called {', '.join(keys)}" if keys else ""
        raise errors.DataError(
            f"{path}: not a readable .npz file ({error!r:.200}); expected a zip of "
            f".npy arrays{called}"
        ) from error
    with archive:
        if keys is None:
            keys = tuple(name.removesuffix(".npy") for name in archive.namelist())
        return {key: _read(archive, path, key, keys) for key in keys}


def _read(
    archive: zipfile.ZipFile, path: Path, key: str, keys: tuple[str, ...]
) -> np.ndarray:
    if f"{key}.npy" not in archive.namelist():
        found = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
        raise errors.DataError(
            f"{path}: array {key} is missing; found {found or 'no arrays'}, expected "
            f"{', '.join(keys)}"
        )
    return array(archive, path, key)


@contextlib.contextmanager
def explained(path: Path, key: str) -> Iterator[None]:
    """Says of a fault which array of which file it is in."""
    try:
        yield
    except errors.DataError:
        raise
    except Exception as error:
        # A changed byte makes zipfile, zlib and the parser of headers raise anything.
        raise errors.DataError(
            f"{path}: {key} cannot be read ({error!r:.200}); the file is damaged, get "
            "it again"
        ) from error


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether its first axis is the fastest, and type of an `.npy` file.

    Leaves the file where the values begin; allocates nothing.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def described(
    archive: zipfile.ZipFile, path: Path, key: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The header of an archive's array, compared with what is stored.

    Raises:
        DataError: it holds objects, or declares more or less than is stored.
    """
    entry = archive.getinfo(f"{key}.npy")
    with explained(path, key), archive.open(entry) as file:
        shape, fortran_order, dtype = header(file)
        stored = entry.file_size - file.tell()
    if dtype.hasobject:
        raise errors.DataError(
            f"{path}: {key} holds Python objects, which are never loaded; expected "
            "numbers"
        )
    declared = dtype.itemsize * int(np.prod(shape, dtype=object))
    if stored != declared or any(length < 0 for length in shape):
        raise errors.DataError(
            f"{path}: {key} declares {declared:,} bytes ({dtype}{list(shape)}) but "
            f"stores {stored:,}; the file is damaged or forged"
        )
    return shape, fortran_order, dtype


def array(archive: zipfile.ZipFile, path: Path, key: str) -> np.ndarray:
    """An archive's array; see `described`."""
    # What is stored is compared with what is declared before memory is taken.
    shape, fortran_order, dtype = described(archive, path, key)
    with explained(path, key), archive.open(f"{key}.npy") as file:
        header(file)
        payload = file.read()
    declared = dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(payload) != declared:
        raise errors.DataError(
            f"{path}: {key} ends after {len(payload):,} of {declared:,} bytes; the "
            "file is damaged"
        )
    order = "F" if fortran_order else "C"
    with explained(path, key):
        return np.frombuffer(payload, dtype).reshape(shape, order=order)
