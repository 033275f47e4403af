"""Variables written for other libraries."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import errors, files, params
from flaxnets.weights import loading, names


def save(
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    model: Any,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a model's variables as safetensors under torchvision's names.

    `torchvision_model.load_state_dict(safetensors.torch.load_file(path))` takes them,
    and `load` gives them back bit by bit.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of the model.
        path: the file.
        model: the module whose variables they are.
        overwrite: replace a file that exists.

    Raises:
        ArgumentError: torchvision has no such model, the variables are not the
            model's, or the file exists.
        RunFolderError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    if "torchvision" not in names.layouts(model):
        raise errors.ArgumentError(
            f"torchvision has no {type(model).__name__} like this one, so there are no "
            "names to save it under; keep it as a checkpoint"
        )
    if path.exists() and not overwrite:
        raise errors.ArgumentError(
            f"{path}: exists already; choose another name, or pass overwrite=True"
        )
    leaves = params.flatten(variables)
    expected = params.abstract(model, loading.IMAGES)
    if found := params.differences(expected, variables):
        lines = "\n".join(f"  {line}" for line in found)
        raise errors.ArgumentError(
            f"these are not the variables of this {type(model).__name__}; nothing was "
            f"saved:\n{lines}"
        )
    tensors = {
        source.name: np.ascontiguousarray(source.tensor(np.asarray(leaves[leaf])))
        for leaf, source in names.name_map(model, "torchvision", leaves).items()
    }
    with files.replacing(path) as fresh:
        try:
            save_file(tensors, fresh, metadata={"format": "pt"})
            # The library lets nobody else read what it writes.
            mask = os.umask(0)
            os.umask(mask)
            fresh.chmod(0o666 & ~mask)
        except SafetensorError as error:
            raise OSError(str(error)) from None
