"""PyTorch's state dicts (`.pth`, `.pt`), read without PyTorch and without trust.

Both formats hold a pickle that says which tensors there are, and apart from it their
values: since PyTorch 1.6 in a zip archive (`data.pkl`, `data/0`, ...), before that one
after the other in a plain file (torch/serialization.py, `_save` and `_legacy_save`).
A pickle is a program. This one may use only the operations that PyTorch's own
restricted reader allows (torch/_weights_only_unpickler.py), and may ask only for the
few names in `_GLOBALS`, each of which is a harmless stand-in. What it makes is checked
afterwards, when nothing of it can change any more; memory is taken only then.
"""

import collections
import contextlib
import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxnets import errors
from flaxnets.weights import archives
from flaxnets.weights.tensors import Tensor, filled, streamed

# The first pickle of the older format is this number, whatever the pickle's protocol.
_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001

# A tensor takes about 200 bytes of pickle: enough for 20,000.
_PICKLE_LIMIT = 4 * 2**20

_OPERATIONS = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT "
    "BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINSTRING SHORT_BINSTRING EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)

# numpy's limit.
_MOST_DIMENSIONS = 64


def begins_legacy(head: bytes) -> bool:
    """Whether a file that starts with these bytes is one of before PyTorch 1.6."""
    return head[:1] == b"\x80" and head[2:].startswith(_MAGIC)


def begins_zip(names: list[str]) -> bool:
    """Whether an archive with these entries is PyTorch's."""
    return any(name.endswith("/data.pkl") for name in names)


def in_zip(archive: zipfile.ZipFile, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in the zip format by name.

    Tensors that share memory (tied weights) do so when they are read. A checkpoint that
    holds the state dict as `state_dict` or `model` gives that one; `module.` before
    every name, which data-parallel training leaves, is taken off.

    Raises:
        WeightsError: the pickle asks for what no state dict needs, tensors are not
            within what is stored, or it is no state dict.
    """
    places = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(places) > 1:
        raise errors.WeightsError(f"{path}: holds {len(places)} pickles, expected one")
    root = places[0].removesuffix("data.pkl")
    order = "little"
    if f"{root}byteorder" in archive.namelist():
        order = _small(archive, path, f"{root}byteorder", 16).decode("latin1")
    if order not in ("little", "big"):
        raise errors.WeightsError(
            f"{path}: its byte order is {order!r}, expected 'little' or 'big'"
        )
    description = _small(archive, path, places[0], _PICKLE_LIMIT)
    content, storages = _unpickled(path, description)

    def opened(storage: _Storage) -> contextlib.AbstractContextManager[IO[bytes]]:
        return archive.open(f"{root}data/{storage.key}")

    found = _tensors(path, content, opened, order)
    for storage in storages.values():
        entry = archives.stored(archive, path, f"{root}data/{storage.key}")
        if entry.file_size != storage.size:
            raise errors.WeightsError(
                f"{path}: {entry.filename} holds {entry.file_size:,} bytes, expected "
                f"{storage.size:,}; the file is damaged or forged"
            )
    return found


@contextlib.contextmanager
def opened_legacy(path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a state dict in the older format; else as `in_zip`.

    Raises:
        WeightsError: as `in_zip`.
    """
    with path.open("rb") as file:
        _next_pickle(path, file)
        protocol, _ = _next_pickle(path, file)
        if protocol != _LEGACY_PROTOCOL:
            raise errors.WeightsError(
                f"{path}: its protocol is {protocol!r:.50}, expected {_LEGACY_PROTOCOL}"
            )
        # Sizes of types on the writing machine; the values are little-endian always.
        _next_pickle(path, file)
        content, storages = _next_pickle(path, file)
        keys, _ = _next_pickle(path, file)
        positions = _positions(path, file, keys, storages)

        def opened(storage: _Storage) -> contextlib.AbstractContextManager[IO[bytes]]:
            # Each with a position of its own, since several may be read by turns.
            own = path.open("rb")
            own.seek(positions[storage.key])
            return own

        yield _tensors(path, content, opened, "little")


# What a pickle can lay hands on. Named tuples and no other classes: a pickle can set
# attributes of nearly everything else, and so change what was checked before.


class _Type(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize


class _View(NamedTuple):
    storage: _Storage
    first: int
    count: int


# Opens a storage at its first value.
_Opened = Callable[[_Storage], contextlib.AbstractContextManager[IO[bytes]]]


class _Tensor(NamedTuple):
    view: Any
    offset: Any
    shape: Any
    strides: Any


class _Function(NamedTuple):
    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Names(dict):
    """An ordered dict that forgets the attributes a pickle gives it (`_metadata`)."""

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(
    view: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> _Tensor:
    """`torch._utils._rebuild_tensor_v2`."""
    if metadata:
        # The bits "conjugate" and "negative" would change the values.
        raise ValueError("a tensor has metadata")
    return _Tensor(view, offset, shape, strides)


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    """`torch._utils._rebuild_parameter`."""
    return data


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Function(_Names),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *place: None),
    "torch.DoubleStorage": _Type(np.dtype(np.float64)),
    "torch.FloatStorage": _Type(np.dtype(np.float32)),
    "torch.HalfStorage": _Type(np.dtype(np.float16)),
    "torch.BFloat16Storage": _Type(np.dtype(ml_dtypes.bfloat16)),
    "torch.LongStorage": _Type(np.dtype(np.int64)),
    "torch.IntStorage": _Type(np.dtype(np.int32)),
    "torch.ShortStorage": _Type(np.dtype(np.int16)),
    "torch.CharStorage": _Type(np.dtype(np.int8)),
    "torch.ByteStorage": _Type(np.dtype(np.uint8)),
    "torch.BoolStorage": _Type(np.dtype(np.bool_)),
}


def _stand_in(path: Path, module: str, name: str) -> Any:
    try:
        return _GLOBALS[f"{module}.{name}"]
    except KeyError:
        raise errors.WeightsError(
            f"{path}: its pickle asks for {module}.{name}, which no state dict of "
            "numbers needs; nothing was run. Get a safetensors file, or save no more "
            "than model.state_dict()"
        ) from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, description: bytes) -> None:
        super().__init__(io.BytesIO(description), encoding="utf-8")
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(self.path, module, name)

    def persistent_load(self, pid: Any) -> _View:
        kind, (dtype,), key, _, count, *view = pid
        if kind != "storage" or not isinstance(key, str) or not _is_size(count):
            raise ValueError("a storage is described wrongly")
        storage = _Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key:.50} is described in two ways")
        # Before PyTorch 0.4 a storage could be a part of another.
        if view and view[0] is not None:
            _, first, part = view[0]
            if not (_is_size(first) and _is_size(part) and first + part <= count):
                raise ValueError(f"a part of storage {key:.50} is not within it")
            return _View(storage, first, part)
        return _View(storage, 0, count)


def _unpickled(path: Path, description: bytes) -> tuple[Any, dict[str, _Storage]]:
    """What the pickle at the beginning of `description` makes, and its storages."""
    try:
        for operation, argument, _ in pickletools.genops(description):
            if operation.name == "GLOBAL":
                # Seen before what is done with it, this says most about the file.
                _stand_in(path, *str(argument).split(" ", 1))
            if operation.name not in _OPERATIONS:
                raise ValueError(f"operation {operation.name} is not allowed")
            if (
                operation.name == "LONG_BINPUT"
                and isinstance(argument, int)
                and argument > len(description)
            ):
                # The memo is a list as long as the largest number in use.
                raise ValueError("a number in its memo is too large")
        unpickler = _Unpickler(path, description)
        return unpickler.load(), unpickler.storages
    except (errors.WeightsError, MemoryError):
        raise
    except Exception as error:
        # Damage makes the unpickler and the stand-ins raise anything.
        raise errors.WeightsError(
            f"{path}: its pickle describes no state dict ({error!r:.200}); the file is "
            "cut off, damaged or forged, get it again"
        ) from error


def _next_pickle(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, _Storage]]:
    """As `_unpickled`, for the pickle where `file` is; leaves `file` behind it."""
    start = file.tell()
    description = file.read(_PICKLE_LIMIT)
    end = 0
    try:
        for operation, _, position in pickletools.genops(description):
            if operation.name == "STOP" and position is not None:
                end = position + 1
    except Exception as error:
        raise errors.WeightsError(
            f"{path}: a pickle in it has no end within {len(description):,} bytes "
            f"({error!r:.200}); the file is cut off or damaged, get it again"
        ) from error
    file.seek(start + end)
    return _unpickled(path, description[:end])


def _positions(
    path: Path, file: IO[bytes], keys: Any, storages: dict[str, _Storage]
) -> dict[str, int]:
    """Where each storage's values begin in a file of the older format."""
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise errors.WeightsError(
            f"{path}: the storages that it lists are not those of its tensors; the "
            "file is damaged or forged"
        )
    size = path.stat().st_size
    positions = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        start = file.tell()
        if count != storage.count or start + storage.size > size:
            raise errors.WeightsError(
                f"{path}: storage {key:.50} has {count:,} values and {size - start:,} "
                f"bytes are left, expected {storage.count:,} values of "
                f"{storage.dtype}; the file is cut off or damaged, get it again"
            )
        positions[key] = start
        file.seek(start + storage.size)
    if file.tell() != size:
        raise errors.WeightsError(
            f"{path}: holds {size - file.tell():,} bytes after its last tensor; the "
            "file is damaged or forged"
        )
    return positions


def _tensors(
    path: Path, content: Any, opened: _Opened, order: str
) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise errors.WeightsError(
            f"{path}: holds a {type(content).__name__}, expected a state dict; save "
            "model.state_dict()"
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise errors.WeightsError(
                f"{path}: its state dict holds {name!r:.100} of type "
                f"{type(tensor).__name__}, expected tensors by name; save "
                "model.state_dict()"
            )
        fault = _fault(tensor)
        if fault:
            raise errors.WeightsError(
                f"{path}: {name:.200} {fault}; the file is damaged or forged"
            )
    prefix = "module."
    if not all(name.startswith(prefix) for name in content):
        prefix = ""
    uses = collections.Counter(tensor.view.storage.key for tensor in content.values())
    shared: dict[str, np.ndarray | None] = {
        key: None for key, count in uses.items() if count > 1
    }
    return {
        name.removeprefix(prefix): _readable(tensor, opened, order, shared)
        for name, tensor in content.items()
    }


def _readable(
    tensor: _Tensor,
    opened: _Opened,
    order: str,
    shared: dict[str, np.ndarray | None],
) -> Tensor:
    """A tensor whose description has been checked.

    Args:
        tensor: the description.
        opened: opens a storage's values.
        order: of the bytes.
        shared: by key, the storages of several tensors, once they are read.
    """
    view, offset, shape, strides = tensor
    storage = view.storage

    def read() -> np.ndarray:
        values = shared.get(storage.key)
        if values is None:
            with opened(storage) as file:
                values = filled(file, storage.size).view(storage.dtype)
            values = _swapped(values, order)
            if storage.key in shared:
                shared[storage.key] = values
        return _array(tensor, values)

    def blocks() -> Iterator[np.ndarray]:
        whole = view.first + offset == 0 and math.prod(shape) == storage.count
        if not shape or not whole or strides != _row_after_row(shape):
            yield read()
            return
        with opened(storage) as file:
            for rows in streamed(file, shape, storage.dtype):
                yield _swapped(rows, order)

    return Tensor(shape, storage.dtype, read, blocks)


def _row_after_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array without gaps, last axis fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _fault(tensor: _Tensor) -> str | None:
    """What is wrong with a tensor's description, seen before memory is taken."""
    view, offset, shape, strides = tensor
    numbers = isinstance(shape, tuple) and isinstance(strides, tuple)
    if (
        not isinstance(view, _View)
        or not numbers
        or not len(shape) == len(strides) <= _MOST_DIMENSIONS
        or not all(map(_is_size, (offset, *shape, *strides)))
    ):
        return "is not described by a storage, an offset, a shape and strides"
    steps = zip(shape, strides, strict=True)
    last = offset + sum((length - 1) * stride for length, stride in steps)
    count = math.prod(shape)
    # A stride of 0 would let one value stand for any number of them.
    if count > view.count or (count and last >= view.count):
        return (
            f"declares {count:,} values {list(shape)} up to position {last:,} of a "
            f"storage of {view.count:,}"
        )
    return None


def _array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, values.dtype)
    itemsize = values.dtype.itemsize
    return np.ndarray(
        tensor.shape,
        values.dtype,
        values,
        itemsize * (tensor.view.first + tensor.offset),
        tuple(itemsize * stride for stride in tensor.strides),
    )


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _small(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> bytes:
    entry = archives.stored(archive, path, name)
    if entry.file_size > limit:
        raise errors.WeightsError(
            f"{path}: {name} has {entry.file_size:,} bytes, expected at most "
            f"{limit:,}; the file is damaged or forged"
        )
    return archive.read(entry)


def _swapped(values: np.ndarray, order: str) -> np.ndarray:
    if order == sys.byteorder:
        return values
    plain = values.view(f"u{values.dtype.itemsize}").byteswap(inplace=True)
    return plain.view(values.dtype)
