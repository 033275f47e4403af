"""flaxnets: deep convolutional networks as pure functions in JAX and Flax.

>>> from flaxnets import data, models, params, train
>>> model, variables = flaxnets.create("vgg16", weights="vgg16-397923af.pth")
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxnets.models.registry import list_models as list_models
    from flaxnets.weights.creation import create as create

__version__ = metadata.version("flaxnets")

# Found when they are first asked for, so that the import stays light.
_LAZY = {
    "create": "flaxnets.weights.creation",
    "list_models": "flaxnets.models.registry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
