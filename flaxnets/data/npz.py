"""Keras-style `.npz` data sets, read without trusting them."""

import zipfile
from pathlib import Path

import numpy as np

from flaxnets import errors
from flaxnets.data.arrays import Dataset, checked_split

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path) -> Dataset:
    """Reads `x_train`, `y_train`, `x_test`, `y_test` as a data set.

    Raises:
        DataError: no such file, not an `.npz`, arrays missing, holding objects, or
            declaring more than they store.
    """
    if not path.is_file():
        raise errors.DataError(f"{path}: no such file; give the path of an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [_read(archive, path, key) for key in KEYS]
    except zipfile.BadZipFile as error:
        raise errors.DataError(
            f"{path}: not a readable .npz file ({error}); expected a zip of .npy "
            f"arrays called {', '.join(KEYS)}"
        ) from None
    train_labels = arrays[1]
    names = np.unique(train_labels)
    train = checked_split(f"{path} (train)", arrays[0], train_labels)
    classes = int(train.labels.max()) + 1
    test = checked_split(f"{path} (test)", arrays[2], arrays[3], classes)
    if len(names) < 2:
        raise errors.DataError(
            f"{path}: all training labels are {names[0]}, expected 2 classes or more"
        )
    class_names = tuple(str(number) for number in range(classes))
    return Dataset(path.stem, train, test, class_names, f"read from {path}")


def _read(archive: zipfile.ZipFile, path: Path, key: str) -> np.ndarray:
    member = f"{key}.npy"
    try:
        entry = archive.getinfo(member)
    except KeyError:
        found = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
        raise errors.DataError(
            f"{path}: array {key} is missing; found {found or 'no arrays'}, expected "
            f"{', '.join(KEYS)}"
        ) from None
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(file)
            else:
                header = np.lib.format.read_array_header_2_0(file)
        except ValueError as error:
            raise errors.DataError(f"{path}: {key} is not an array: {error}") from None
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
