"""Arrays of a file that are described, and not read yet.

Weights are turned into another layout while they are read, a few rows at a time: the
file's values and the result are never in memory both.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np

# Bytes of a block of rows; a single row may be more.
_BLOCK = 2**24
_PIECE = 2**20


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array in an open file.

    Attributes:
        shape: in the file's own layout.
        dtype: of its values.
        read: gives the whole array; those of tied weights share memory.
        blocks: gives its rows (along the first axis) in order, some at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    blocks: Callable[[], Iterator[np.ndarray]]


def spans(shape: Sequence[int], dtype: np.dtype) -> Iterator[slice]:
    """Consecutive rows of such an array, each time about as many as fill a block."""
    size = math.prod(shape[1:]) * dtype.itemsize
    step = max(1, _BLOCK // max(1, size))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def streamed(
    file: IO[bytes], shape: Sequence[int], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The rows of an array that is stored row after row where `file` is."""
    size = math.prod(shape[1:]) * dtype.itemsize
    for rows in spans(shape, dtype):
        count = rows.stop - rows.start
        yield filled(file, count * size).view(dtype).reshape(count, *shape[1:])


def filled(file: IO[bytes], size: int) -> np.ndarray:
    """The next `size` bytes, read in pieces: a zip's entry copies what it reads.

    Raises:
        EOFError: there are fewer.
    """
    values = np.empty(size, np.uint8)
    rest = values.data
    while rest:
        piece = file.read(min(_PIECE, len(rest)))
        if not piece:
            raise EOFError("ends within its values")
        rest[: len(piece)] = piece
        rest = rest[len(piece) :]
    return values
