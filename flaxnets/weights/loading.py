"""From the tensors of a file to a model's variables, whole or not at all."""

import difflib
import math
import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from flaxnets import errors, params
from flaxnets.weights import files, names
from flaxnets.weights.names import Layout
from flaxnets.weights.tensors import Tensor

# Images that every network takes; parameters do not depend on the size.
IMAGES = (1, 224, 224, 3)
# Lines of a difference that a message shows.
_SHOWN = 12
# Of XLA's buffers on a CPU, in bytes.
_ALIGNMENT = 64


def load(
    path: str | os.PathLike[str],
    model: Any,
    *,
    layout: Layout | None = None,
    skip_head: bool = False,
    input_shape: Sequence[int] = IMAGES,
) -> dict[str, Any]:
    """A model's variables from a file of another library.

    The head is left out where the model has none (`num_classes` 0 or None), and so are
    auxiliary classifiers that it has not.

    Args:
        path: a file that `read` takes.
        model: one of the library's models.
        layout: whose names the file has; by default, those that fit it best.
        skip_head: leave out the layers that are as wide as there are classes, so that
            the file may have another number of them; the result lacks them.
        input_shape: images that the model takes, batch included.

    Returns:
        `{"params": ..., "batch_stats": ...}` as float32 arrays.

    Raises:
        WeightsError: the file is broken, or not of this model: tensors are missing,
            unexpected or of other shapes. Nothing is loaded then.
    """
    with files.opened(path) as tensors:
        return convert(
            tensors,
            model,
            layout=layout,
            skip_head=skip_head,
            input_shape=input_shape,
            path=path,
        )


def convert(
    tensors: Mapping[str, np.ndarray | Tensor],
    model: Any,
    *,
    layout: Layout | None = None,
    skip_head: bool = False,
    input_shape: Sequence[int] = IMAGES,
    path: str | os.PathLike[str] = "these tensors",
) -> dict[str, Any]:
    """A model's variables from the tensors of another library; see `load`."""
    leaves = params.flatten(params.abstract(model, input_shape))
    known = names.layouts(model)
    if layout and layout not in known:
        raise errors.ArgumentError(
            f"layout is {layout!r}, but {type(model).__name__} is known from: "
            f"{', '.join(known)}"
        )
    chosen = layout or _best_layout(tensors, model, leaves)
    sources = names.name_map(model, chosen, leaves)
    skipped = {leaf for leaf in sources if skip_head and names.is_head(leaf)}
    left = {sources.pop(leaf).name for leaf in skipped}
    if found := _differences(tensors, sources, leaves, model, left):
        lines = "\n".join(f"  {line}" for line in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise errors.WeightsError(
            f"{path}: not the weights of this {type(model).__name__} as {chosen} names "
            f"them; nothing was loaded:\n{lines}{more}\n"
            "Choose the model, its version and num_classes as the file has them; a new "
            "head over the rest of the file: skip_head=True"
        )
    device = {
        leaf: jax.device_put(
            _converted(tensors[source.name], source, leaves[leaf].shape)
        )
        for leaf, source in sources.items()
    }
    return jax.block_until_ready(params.unflatten(device))


def _converted(
    tensor: np.ndarray | Tensor, source: names.Source, shape: tuple[int, ...]
) -> np.ndarray:
    """A leaf's values: read a block at a time, so that they are in memory only once."""
    values = _aligned(shape)
    start = 0
    for rows in [tensor] if isinstance(tensor, np.ndarray) else tensor.blocks():
        source.fill(values, start, rows)
        start += len(rows)
    return values


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An array that XLA takes over without a copy on a CPU."""
    size = 4 * math.prod(shape)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(np.float32).reshape(shape)


def layout_of(
    tensors: Mapping[str, np.ndarray | Tensor],
    model: Any,
    *,
    input_shape: Sequence[int] = IMAGES,
) -> Layout:
    """The layout whose names are most often those of the tensors.

    Raises:
        ArgumentError: no name maps are known for such a model.
    """
    leaves = params.flatten(params.abstract(model, input_shape))
    return _best_layout(tensors, model, leaves)


def _best_layout(
    tensors: Mapping[str, np.ndarray | Tensor], model: Any, leaves: Mapping[str, Any]
) -> Layout:
    known = names.layouts(model)
    if not known:
        raise errors.ArgumentError(
            f"no name maps are known for {type(model).__name__}; load its variables "
            "with params.unflatten"
        )

    def found(layout: Layout) -> int:
        sources = names.name_map(model, layout, leaves).values()
        return sum(source.name in tensors for source in sources)

    return max(known, key=found)


def _differences(
    tensors: Mapping[str, np.ndarray | Tensor],
    sources: Mapping[str, names.Source],
    leaves: Mapping[str, Any],
    model: Any,
    left: Set[str],
) -> list[str]:
    """One line for each tensor that is missing, unexpected or of another shape.

    Those of `left` may be there or not.
    """
    used = {source.name for source in sources.values()} | left
    extra = [
        name
        for name in tensors
        if name not in used and not names.ignored(name) and not _unwanted(name, model)
    ]
    lines = []
    for leaf, source in sources.items():
        shape = source.shape(leaves[leaf].shape)
        if source.name not in tensors:
            close = difflib.get_close_matches(source.name, extra, n=1, cutoff=0.8)
            hint = f" (is it {close[0]}?)" if close else ""
            lines.append(f"missing: {source.name} {list(shape)}, for {leaf}{hint}")
        elif tensors[source.name].shape != shape:
            lines.append(
                f"of other shape: {source.name} is "
                f"{list(tensors[source.name].shape)}, but {list(shape)} is expected, "
                f"for {leaf}"
            )
    return lines + [f"unexpected: {name} {list(tensors[name].shape)}" for name in extra]


# First parts of names of heads, in any layout.
_HEADS = (
    *("classifier", "fc"),  # torchvision
    *("pre_logits", "head"),  # timm
    *("fc1", "fc2", "predictions"),  # Keras
    *("dense", "dense_1", "dense_2"),  # Keras 3
    "conv_final",  # Caffe
)


def _unwanted(name: str, model: Any) -> bool:
    """Whether a tensor belongs to a head or classifier that the model has not."""
    first = name.split("/")[0].split(".")[0]
    if first in ("aux1", "aux2"):
        return not (model.auxiliary and model.num_classes)
    return not model.num_classes and first in _HEADS
