"""A model and its variables in one call."""

import os
from pathlib import Path
from typing import Any

import jax

from flaxnets import errors, params
from flaxnets.data.preprocessing import OF_LAYOUT, Preprocessing
from flaxnets.models import registry
from flaxnets.weights import cache, catalogue, files, loading


def create(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    key: jax.Array | None = None,
    skip_head: bool = False,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """An architecture, with published weights, those of a file, or newly drawn ones.

    >>> model, variables = create("vgg16", weights="imagenet")
    >>> logits, endpoints = model.apply(variables, images)

    With `skip_head=True` and a key, the weights may have another number of classes:
    the layers that are as wide as there are classes are drawn anew.

    >>> create("vgg16", weights="imagenet", num_classes=2, skip_head=True, key=key)

    Args:
        name: one of `models.list_models()`.
        weights: "imagenet" or another tag of the catalogue (`weights.tags(name)`),
            which is downloaded once; or a file of torchvision, timm, Keras or Caffe,
            see `weights.load`.
        key: typed PRNG key that the variables are drawn with where no weights are
            given, or the head with `skip_head`.
        skip_head: draw the head instead of taking the one of the weights.
        options: attributes of the module, such as num_classes, dropout or dtype; with
            weights of the catalogue by default those that these were made with.

    Raises:
        ArgumentError: no such model, option or weights; not one of weights and key, or
            not both with `skip_head`.
        DownloadError: published weights cannot be had.
        WeightsError: the file is broken, or not of this model.
    """
    row = registry.architecture(name)
    model = registry.build(name, **options)
    shape = (1, row.side, row.side, 3)
    given = (weights is not None, key is not None)
    if skip_head and given != (True, True):
        raise errors.ArgumentError(
            f"create({name!r}, skip_head=True) takes weights for the body and a key to "
            "draw the head with; give both"
        )
    if not skip_head and sum(given) != 1:
        raise errors.ArgumentError(
            f"create({name!r}) takes either weights, a tag or a file to read, or key, "
            "to draw new variables with; give one of them (or both, and "
            "skip_head=True, for a new head)"
        )
    if weights is None:
        assert key is not None
        return model, params.initialize(model, key, shape)
    path = located(name, weights)
    if row.pretrained and (_is_tag(name, weights) or cache.identified(path)):
        model = registry.build(name, **{**row.pretrained, **options})
    variables = loading.load(path, model, skip_head=skip_head, input_shape=shape)
    if key is None:
        return model, variables
    there = params.flatten(variables)
    every = params.flatten(params.abstract(model, shape))
    head = params.initialize(model, key, shape, every.keys() - there.keys())
    return model, params.merge(variables, head)


def located(name: str, weights: str | os.PathLike[str]) -> Path:
    """The file that `weights` means for an architecture, fetched where necessary.

    Raises:
        ArgumentError: it is no tag, and no such file exists.
        DownloadError: published weights cannot be had.
    """
    tags = catalogue.tags(name)
    if _is_tag(name, weights):
        return cache.fetch(catalogue.find(name, str(weights)))
    path = Path(weights)
    if not path.exists():
        known = ", ".join(tags) or "none"
        raise errors.ArgumentError(
            f"weights {str(weights)!r}: no such file, and no weights of {name} in the "
            f"catalogue, which has: {known}"
        )
    return path


def preprocessing(name: str, weights: str | os.PathLike[str]) -> Preprocessing:
    """What makes a picture the input of a network with these weights.

    >>> prepare = preprocessing("resnet50", "torchvision-v2")
    >>> images = np.stack([prepare(picture) for picture in pictures])

    A file that the catalogue does not know is taken for one of those that most files
    with its names are: torchvision's first weights, Keras's, Caffe's.

    Args:
        name: one of `models.list_models()`.
        weights: as `create` takes them.

    Raises:
        ArgumentError, DownloadError, WeightsError: as `create`.
    """
    if _is_tag(name, weights):
        return catalogue.find(name, str(weights)).preprocessing
    path = located(name, weights)
    with files.opened(path) as tensors:
        layout = loading.layout_of(tensors, registry.build(name))
    entry = cache.identified(path)
    return entry.preprocessing if entry else OF_LAYOUT[layout]


def _is_tag(name: str, weights: str | os.PathLike[str]) -> bool:
    return weights in (catalogue.DEFAULT, *catalogue.tags(name))
