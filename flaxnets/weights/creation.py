"""A model and its variables in one call."""

import os
from typing import Any

import jax

from flaxnets import errors, params
from flaxnets.models import registry
from flaxnets.weights import loading


def create(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """An architecture, with its variables from a file or newly drawn.

    >>> model, variables = create("resnet50", weights="resnet50-0676ba61.pth")
    >>> logits, endpoints = model.apply(variables, images)

    Args:
        name: one of `models.list_models()`.
        weights: a file of torchvision, timm, Keras or Caffe; see `weights.load`.
        key: typed PRNG key that the variables are drawn with where no file is given.
        options: attributes of the module, such as num_classes, dropout or dtype.

    Raises:
        ArgumentError: no such model or option, or not exactly one of weights and key.
        WeightsError: the file is broken, or not of this model.
    """
    model = registry.build(name, **options)
    side = registry.architecture(name).side
    shape = (1, side, side, 3)
    if (weights is None) == (key is None):
        raise errors.ArgumentError(
            f"create({name!r}) takes either weights, a file to read, or key, to draw "
            "new variables with; give one of them"
        )
    if key is not None:
        return model, params.initialize(model, key, shape)
    return model, loading.load(str(weights), model, input_shape=shape)
