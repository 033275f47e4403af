"""Files of weights of any format as arrays by name; nothing in them is ever run."""

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from flaxnets import errors
from flaxnets.data import npz
from flaxnets.weights import archives, hdf5, pytorch, safetensors
from flaxnets.weights.tensors import Tensor, streamed

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
    archives (how their arrays are called: `flaxnets.weights.hdf5.opened`); `.npz`.
    Arrays are in the file's own layout and type (bfloat16 is that of ml_dtypes) and
    read-only, since tied weights share memory. Whether they are the ones that were
    published, only a checksum can tell: a changed bit in the values may go unseen.

    Raises:
        WeightsError: no such file, no file of weights, or one that is broken or
            forged; nothing in it was run.
    """
    with opened(path) as tensors:
        arrays = {name: tensor.read() for name, tensor in tensors.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[dict[str, Tensor]]:
    """As `read`, but of each array no more than what it is, until it is asked for.

    Raises:
        WeightsError: as `read`, here or when an array is read.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with _explained(path):
            with path.open("rb") as file:
                head = file.read(_HEAD)
            tensors = _opened(path, head, stack)
        if not tensors:
            raise errors.WeightsError(f"{path}: holds no arrays; expected {EXPECTED}")
        yield {name: _guarded(path, tensor) for name, tensor in tensors.items()}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Says of every fault of a file which file it is and what to do."""
    try:
        yield
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


def _guarded(path: Path, tensor: Tensor) -> Tensor:
    def read() -> np.ndarray:
        with _explained(path):
            return tensor.read()

    def blocks() -> Iterator[np.ndarray]:
        with _explained(path):
            yield from tensor.blocks()

    return dataclasses.replace(tensor, read=read, blocks=blocks)


def _opened(path: Path, head: bytes, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    if head.startswith(hdf5.SIGNATURE):
        return stack.enter_context(hdf5.opened(path))
    if head.startswith(b"PK\x03\x04"):
        return _in_archive(path, stack)
    if pytorch.begins_legacy(head):
        return stack.enter_context(pytorch.opened_legacy(path))
    if safetensors.begins(head):
        return stack.enter_context(safetensors.opened(path))
    raise errors.WeightsError(f"{path}: {_diagnosis(head)}; expected {EXPECTED}")


def _in_archive(path: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    archive = stack.enter_context(archives.opened(path))
    names = archive.namelist()
    if pytorch.begins_zip(names):
        return pytorch.in_zip(archive, path)
    if "model.weights.h5" in names:
        entry = archives.stored(archive, path, "model.weights.h5")
        file = stack.enter_context(archives.window(archive, entry, path))
        return stack.enter_context(hdf5.opened(path, file))
    if all(name.endswith(".npy") for name in names):
        keys = [name.removesuffix(".npy") for name in names]
        return {key: _npy(archive, path, key) for key in keys}
    raise errors.WeightsError(
        f"{path}: a zip archive of {_some(names)}; expected {EXPECTED}"
    )


def _npy(archive: zipfile.ZipFile, path: Path, key: str) -> Tensor:
    shape, fortran_order, dtype = npz.described(archive, path, key)
    if dtype.kind not in "biuf":
        raise errors.WeightsError(
            f"{path}: {key} holds values of type {dtype}, expected real numbers; save "
            "them as float32"
        )

    def read() -> np.ndarray:
        return npz.array(archive, path, key)

    def blocks() -> Iterator[np.ndarray]:
        if fortran_order or not shape:
            yield read()
            return
        with npz.explained(path, key), archive.open(f"{key}.npy") as file:
            npz.header(file)
            yield from streamed(file, shape, dtype)

    return Tensor(shape, dtype, read, blocks)


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
