"""Keras's weights in HDF5 files, read without Keras and without trust.

HDF5 lets a file point to other files, and declare far more than it holds. So every
link and array of the file is looked at first, and only plain arrays of numbers that
are stored in this very file are read (keras/src/saving/saving_lib.py,
`safe_get_h5_group` and `safe_get_h5_dataset`, have the same in mind).
"""

import collections
import contextlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flaxnets import errors
from flaxnets.weights.tensors import Tensor, spans

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# deflate cannot compress below about 1/1032 of the size (the format's limit).
_DEFLATE_LIMIT = 1032

# Deflate, shuffle, checksum and LZF; any other is a plug-in or unknown to Keras.
_FILTERS = (1, 2, 3, 32000)

# Chunks may be larger than a small array.
_CHUNK_LIMIT = 2**20

# What Keras 1 called the weights of a layer, and what Keras calls them since.
_OLD_NAMES = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    # A variance in spite of its name.
    "running_std": "moving_variance",
}


@contextlib.contextmanager
def opened(path: Path, file: io.RawIOBase | None = None) -> Iterator[dict[str, Tensor]]:
    """The arrays of a Keras file by name, without the optimizer's.

    The names:

    - `.h5` of Keras 1 and 2, or saved as HDF5 by Keras 3: `layer/weight`, such as
      `block1_conv1/kernel`. Of `block1_conv1/kernel:0` and
      `sequential/block1_conv1/kernel` in the layer `block1_conv1` the part after the
      layer's name is kept. Keras 1 wrote `block1_conv1_W_1:0` and
      `block1_conv1_b_1:0`: these are `kernel` and `bias`. A model within a model has
      its layers' names between: `vgg16/block1_conv1/kernel`.
    - `.weights.h5` and `.keras` of Keras 3: `layers/conv2d/vars/0` is `conv2d/0`.
      Keras gives the layer by its class and the weight by its number.

    Args:
        path: the file, or the archive that `file` comes from.
        file: the HDF5 file where it is not at `path` itself.

    Raises:
        WeightsError: the file is damaged, links to something, declares more than it
            stores, holds anything but numbers, or is not laid out as Keras's are.
    """
    import h5py

    size = path.stat().st_size
    with h5py.File(path if file is None else file, "r") as root:
        datasets = _datasets(root, path, size)
        top = "model_weights/" if "model_weights" in root else ""
        # What layer_names lists is not read: a text's length is believed by HDF5.
        if {"layer_names", "layer_names0"} & set(root[top or "/"].attrs):
            places = _layer_places(datasets, top)
        else:
            places = _variable_places(datasets)
        if not places:
            raise errors.WeightsError(
                f"{path}: an HDF5 file without layer_names and without vars groups, "
                f"holding {', '.join(datasets) or 'no arrays'!s:.200}; expected "
                "weights as Keras saves them"
            )
        found = {}
        for name, place in places:
            if name in found:
                raise errors.WeightsError(
                    f"{path}: holds two arrays that are {name!r:.200}, expected one; "
                    "the file is damaged or forged"
                )
            found[name] = _tensor(datasets[place])
        yield found


def _tensor(dataset: Any) -> Tensor:
    opaque = dataset.dtype.kind == "V"
    dtype = np.dtype(ml_dtypes.bfloat16) if opaque else dataset.dtype

    def read(rows: Any = ()) -> np.ndarray:
        array = np.asarray(dataset[rows])
        return array.view(dtype) if opaque else array

    def blocks() -> Iterator[np.ndarray]:
        if not dataset.shape:
            yield read()
            return
        for rows in spans(dataset.shape, dtype):
            yield read(rows)

    return Tensor(dataset.shape, dtype, read, blocks)


def _datasets(root: Any, path: Path, size: int) -> dict[str, Any]:
    """All arrays by place, each group and array reached once and by a plain link."""
    import h5py

    found: dict[str, Any] = {}
    # h5py's objects are equal where they are the same one of the file.
    seen = {root}
    groups = collections.deque([("", root)])
    stored = 0
    while groups:
        prefix, group = groups.popleft()
        for name in group:
            place = f"{prefix}{name}"
            fault = None
            # A slash in the name itself would be followed as a path.
            link = None if "/" in name else group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                fault = f"is a link ({type(link).__name__}), which is never followed"
            else:
                item = group[name]
                if item in seen:
                    fault = "is something that is already there under another name"
                elif isinstance(item, h5py.Group):
                    groups.append((f"{place}/", item))
                elif isinstance(item, h5py.Dataset):
                    fault = _fault(item)
                    found[place] = item
                    stored += 0 if fault else item.id.get_storage_size()
                else:
                    fault = "is neither a group nor an array"
                seen.add(item)
            if stored > size:
                fault = f"makes {stored:,} bytes of values in a file of {size:,}"
            if fault:
                raise errors.WeightsError(
                    f"{path}: {place!r:.200} {fault}; the file is damaged or forged, "
                    "get it from its publisher"
                )
    return found


def _fault(dataset: Any) -> str | None:
    """What is wrong with an array, seen before anything of it is read."""
    if dataset.is_virtual:
        return "takes its values from other arrays (a virtual dataset)"
    if dataset.external:
        return f"takes its values from the file {dataset.external[0][0]!r:.100}"
    kind = dataset.dtype
    if kind.kind not in "biuf" and not _is_bfloat16(dataset):
        return f"holds values of type {kind}, expected numbers"
    if dataset.shape is None:
        return "has no shape"
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if not set(filters) <= set(_FILTERS) or len(set(filters)) < len(filters):
        return (
            f"is packed with filters {filters}, expected none but {_FILTERS}, each once"
        )
    declared = math.prod(dataset.shape) * kind.itemsize
    # A chunk is unpacked whole, however little of it belongs to the array.
    chunk = math.prod(dataset.chunks or (0,)) * kind.itemsize
    if chunk > max(declared, _CHUNK_LIMIT):
        return f"comes in chunks of {chunk:,} bytes, but is {declared:,} bytes long"
    stored = dataset.id.get_storage_size()
    if declared > stored * (_DEFLATE_LIMIT if filters else 1):
        return (
            f"declares {declared:,} bytes ({kind}{list(dataset.shape)}) but stores "
            f"{stored:,}"
        )
    return None


def _is_bfloat16(dataset: Any) -> bool:
    """Whether these are two opaque bytes each, of which Keras tells the type."""
    return (
        dataset.dtype.kind == "V"
        and dataset.dtype.itemsize == 2
        and dataset.dtype.names is None
        and "dtype" in dataset.attrs
    )


def _layer_places(datasets: dict[str, Any], top: str) -> list[tuple[str, str]]:
    places = []
    for place in datasets:
        if place.startswith(top):
            layer, _, weight = place.removeprefix(top).partition("/")
            places.append((f"{layer}/{_plain_name(layer, weight)}", place))
    return places


def _plain_name(layer: str, weight: str) -> str:
    parts = re.sub(r":\d+$", "", weight).split("/")
    if layer in parts[:-1]:
        parts = parts[parts.index(layer) + 1 :]
    old = re.fullmatch(rf"{re.escape(layer)}_([A-Za-z_]+?)(_\d+)?", parts[-1])
    if old and old[1] in _OLD_NAMES:
        parts[-1] = _OLD_NAMES[old[1]]
    return "/".join(parts)


def _variable_places(datasets: dict[str, Any]) -> list[tuple[str, str]]:
    places = []
    for place in datasets:
        *layer, group, number = ["", *place.split("/")]
        if group == "vars" and layer[1:2] != ["optimizer"]:
            name = "/".join([*layer[1:], number])
            places.append((name.removeprefix("layers/"), place))
    return places
