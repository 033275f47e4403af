"""safetensors files, checked and read by the format's own library.

The format: the header's length, a header of JSON, then the values, which the header
must index without a hole or an overlap (github.com/huggingface/safetensors, "Format").
The library's messages name neither the file nor what to do.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from flaxnets import errors
from flaxnets.weights.tensors import Tensor, streamed

# The format's names of the types that are read, and numpy's.
_TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def begins(head: bytes) -> bool:
    """Whether a file that starts with these bytes may be a safetensors file."""
    # The eighth byte is the header's length divided by 2**56, in text a letter.
    return head[8:9] == b"{" and not 32 <= head[7] < 127


@contextlib.contextmanager
def opened(path: Path) -> Iterator[dict[str, Tensor]]:
    """The arrays of a safetensors file by name.

    Raises:
        WeightsError: the file is cut off, damaged or forged, or holds values of a type
            that numpy has no name for.
    """
    try:
        # Mapped pages would count as memory on top of the arrays, so none are.
        file = safetensors.safe_open(path, framework="np", backend="pread")
    except safetensors.SafetensorError as error:
        raise errors.WeightsError(
            f"{path}: not a whole safetensors file ({error!s:.200}); it is cut off or "
            "damaged, get it again"
        ) from None
    with file:
        with path.open("rb") as begin:
            length = int.from_bytes(begin.read(8), "little")
            header = _header(path, begin.read(length))
        yield {
            name: _tensor(path, file, name, 8 + length + row["data_offsets"][0])
            for name, row in header.items()
            if name != "__metadata__"
        }


def _tensor(path: Path, file: Any, name: str, start: int) -> Tensor:
    part = file.get_slice(name)
    kind, shape = part.get_dtype(), tuple(part.get_shape())
    if kind not in _TYPES:
        raise errors.WeightsError(
            f"{path}: {name!r:.200} holds values of type {kind}, expected one of "
            f"{', '.join(_TYPES)}; get the file in one of these"
        )
    dtype = np.dtype(_TYPES[kind])

    def read() -> np.ndarray:
        return file.get_tensor(name)

    def blocks() -> Iterator[np.ndarray]:
        if not shape:
            yield read()
            return
        # Slices of the library's are read some bytes at a time.
        with path.open("rb") as values:
            values.seek(start)
            yield from streamed(values, shape, dtype)

    return Tensor(shape, dtype, read, blocks)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    """The rows of a header that the library has checked.

    The format forbids a name twice; the library would let the last one count.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise errors.WeightsError(
                f"{path}: its header gives a name twice; the file is damaged or forged"
            )
        return members

    return json.loads(text, object_pairs_hook=unique)
