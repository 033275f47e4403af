"""safetensors files, checked and read by the format's own library.

The format: the header's length, a header of JSON, then the values, which the header
must index without a hole or an overlap (github.com/huggingface/safetensors, "Format").
The library's messages name neither the file nor what to do.
"""

import json
from pathlib import Path

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by name once this is imported)
import numpy as np
import safetensors

from flaxnets import errors

# The format's names of the types that are read.
_TYPES = "F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split()


def begins(head: bytes) -> bool:
    """Whether a file that starts with these bytes may be a safetensors file."""
    # The eighth byte is the header's length divided by 2**56, in text a letter.
    return head[8:9] == b"{" and not 32 <= head[7] < 127


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name.

    Raises:
        WeightsError: the file is cut off, damaged or forged, or holds values of a type
            that numpy has no name for.
    """
    try:
        # Mapped pages would count as memory on top of the arrays, so none are.
        with safetensors.safe_open(path, framework="np", backend="pread") as file:
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                if kind not in _TYPES:
                    raise errors.WeightsError(
                        f"{path}: {name!r:.200} holds values of type {kind}, expected "
                        f"one of {', '.join(_TYPES)}; get the file in one of these"
                    )
            _check_names(path)
            return file.get_tensors()
    except safetensors.SafetensorError as error:
        raise errors.WeightsError(
            f"{path}: not a whole safetensors file ({error!s:.200}); it is cut off or "
            "damaged, get it again"
        ) from None


def _check_names(path: Path) -> None:
    """The format forbids a name twice; the library would let the last one count."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise errors.WeightsError(
                f"{path}: its header gives a name twice; the file is damaged or forged"
            )
        return members

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=unique)
