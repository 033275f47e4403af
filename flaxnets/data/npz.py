"""Keras-style `.npz` data sets, read without trusting them."""

import zipfile
from pathlib import Path

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
    try:
        return _array(archive, path, key)
    except errors.DataError:
        raise
    except Exception as error:
        # A changed byte makes zipfile, zlib and the parser of headers raise anything.
        raise errors.DataError(
            f"{path}: {key} cannot be read ({error!r:.200}); the file is damaged, get "
            "it again"
        ) from error


def _array(archive: zipfile.ZipFile, path: Path, key: str) -> np.ndarray:
    entry = archive.getinfo(f"{key}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        else:
            header = np.lib.format.read_array_header_2_0(file)
        shape, fortran_order, dtype = header
        if dtype.hasobject:
            raise errors.DataError(
                f"{path}: {key} holds Python objects, which are never loaded; expected "
                "numbers"
            )
        # What is stored is compared with what is declared before memory is taken.
        stored = entry.file_size - file.tell()
        declared = dtype.itemsize * int(np.prod(shape, dtype=object))
        if stored != declared:
            raise errors.DataError(
                f"{path}: {key} declares {declared:,} bytes ({dtype}{list(shape)}) but "
                f"stores {stored:,}; the file is damaged or forged"
            )
        payload = file.read()
    if len(payload) != declared:
        raise errors.DataError(
            f"{path}: {key} ends after {len(payload):,} of {declared:,} bytes; the "
            "file is damaged"
        )
    array = np.frombuffer(payload, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")
