"""Files of weights of any format as arrays by name; nothing in them is ever run."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flaxnets import errors
from flaxnets.data import npz
from flaxnets.weights import archives, hdf5, pytorch, safetensors

EXPECTED = (
    "a file of weights: safetensors, a PyTorch state dict, Keras's .h5 or .keras, or "
    ".npz"
)

_HEAD = 512

# How a file begins, without white space and in small letters, that is something else.
_OTHERS = (
    (b"<!doctype html", "a web page (an error page, perhaps), get the file itself"),
    (b"<html", "a web page (an error page, perhaps), get the file itself"),
    (b"<?xml", "an XML document (an error message, perhaps), get the file itself"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, which stands for a file; fetch the file (git lfs pull)",
    ),
    (b"{", "JSON text, get the file of weights itself"),
    (b"\x93numpy", "a single .npy array; save arrays by name with numpy.savez"),
    (b"\x1f\x8b", "packed with gzip; unpack it"),
    (b"pk\x05\x06", "an empty zip archive"),
)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file of weights by name.

    What the file is, its first bytes tell and not its name: safetensors; a PyTorch
    state dict in the zip format or the one before; Keras's HDF5 files and `.keras`
    archives (how their arrays are called: `flaxnets.weights.hdf5.read`); `.npz`.
    Arrays are in the file's own layout and type (bfloat16 is that of ml_dtypes) and
    read-only, since tied weights share memory. Whether they are the ones that were
    published, only a checksum can tell: a changed bit in the values may go unseen.

    Raises:
        WeightsError: no such file, no file of weights, or one that is broken or
            forged; nothing in it was run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        arrays = _read(path, head)
    except (errors.WeightsError, MemoryError):
        raise
    except errors.DataError as error:
        raise errors.WeightsError(str(error)) from error
    except FileNotFoundError:
        raise errors.WeightsError(
            f"{path}: no such file; expected {EXPECTED}"
        ) from None
    except (PermissionError, IsADirectoryError) as error:
        raise errors.WeightsError(
            f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}"
        ) from None
    except Exception as error:
        # A changed byte makes parsers of zip, pickle and HDF5 raise anything.
        raise errors.WeightsError(
            f"{path}: cannot be read ({error!r:.200}); the file is cut off, damaged or "
            "forged, get it again"
        ) from error
    if not arrays:
        raise errors.WeightsError(f"{path}: holds no arrays; expected {EXPECTED}")
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _read(path: Path, head: bytes) -> dict[str, np.ndarray]:
    if head.startswith(hdf5.SIGNATURE):
        return hdf5.read(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    if pytorch.begins_legacy(head):
        return pytorch.read_legacy(path)
    if safetensors.begins(head):
        return safetensors.read(path)
    raise errors.WeightsError(f"{path}: {_diagnosis(head)}; expected {EXPECTED}")


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    with archives.opened(path) as archive:
        names = archive.namelist()
        if pytorch.begins_zip(names):
            return pytorch.read_zip(archive, path)
        if "model.weights.h5" in names:
            entry = archives.stored(archive, path, "model.weights.h5")
            return hdf5.read(path, io.BytesIO(archive.read(entry)))
    if all(name.endswith(".npy") for name in names):
        return npz.arrays(path)
    raise errors.WeightsError(
        f"{path}: a zip archive of {_some(names)}; expected {EXPECTED}"
    )


def _diagnosis(head: bytes) -> str:
    """What a file is that begins with these bytes and is no file of weights."""
    if not head:
        return "is empty, get it again"
    begin = head.lstrip().lower()
    for other, diagnosis in _OTHERS:
        if begin.startswith(other):
            return f"is {diagnosis}"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "is a bare pickle, a program that is never run"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it"
    if len(head) < 9:
        return f"ends after {len(head)} bytes, get it again"
    return f"begins with bytes {head[:8].hex(' ')}, which no file of weights does"


def _some(names: Iterable[str]) -> str:
    return f"{', '.join(names)!s:.200}"
