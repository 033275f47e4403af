"""How other libraries name and lay out the parameters of the library's models.

A name map gives, for every leaf of a model's variables, the tensor of a file that holds
it, and how that tensor is turned. It is a bijection: every tensor is used exactly once.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from flaxnets import models

# `keras` are the names of Keras's layers, as in its `.h5` files; `keras3` the numbers
# that its `.weights.h5` and `.keras` files have instead.
Layout = Literal["torchvision", "timm", "keras", "keras3", "caffe"]

# torchvision's and timm's counters of batches, which no network computes with.
_COUNTERS = re.compile(r"(.*\.)?num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a leaf's values come from.

    Attributes:
        name: of the tensor in the file.
        order: its axes in our order.
        grid: channels, height and width that a first axis of ours was flattened from,
            channels first, where that is to be put in channels-last order.
    """

    name: str
    order: tuple[int, ...]
    grid: tuple[int, int, int] | None = None

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The tensor's shape in the file, of a leaf of shape `ours`."""
        if len(self.order) == 4 and len(ours) == 2 and self.grid:
            channels, height, width = self.grid
            return (ours[1], channels, height, width)
        theirs = [0] * len(self.order)
        for place, axis in enumerate(self.order):
            theirs[axis] = ours[place]
        return tuple(theirs)

    def fill(self, ours: np.ndarray, start: int, rows: np.ndarray) -> None:
        """Puts rows of the tensor, from row `start` on, where they belong in the leaf.

        Args:
            ours: the leaf's values, without gaps; those that are not of the rows stay.
            start: number of the first row, along the tensor's first axis.
            rows: some consecutive rows of the tensor.
        """
        if self.grid:
            channels, height, width = self.grid
            theirs = ours.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
            rows = rows.reshape(-1, *self.grid)
        else:
            theirs = ours.transpose(np.argsort(self.order))
        theirs[start : start + len(rows)] = rows

    def tensor(self, ours: np.ndarray) -> np.ndarray:
        """The tensor of a leaf's values; a view of them where that is possible."""
        if not self.grid:
            return ours.transpose(np.argsort(self.order))
        channels, height, width = self.grid
        theirs = ours.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        return theirs.reshape(self.shape(ours.shape))


def is_head(leaf: str) -> bool:
    """Whether a leaf's size depends on the number of classes."""
    return leaf.split("/")[-2] == "logits"


def name_map(
    model: Any, layout: Layout, leaves: Mapping[str, Any]
) -> dict[str, Source]:
    """The source of every leaf of a model's variables.

    Args:
        model: one of the library's models.
        layout: whose names the file has.
        leaves: the model's variables by name, of anything that has a shape.

    Raises:
        KeyError: that library has no such model.
    """
    rename = _RENAMES[type(model), layout]
    found = {}
    for leaf, array in leaves.items():
        collection, *modules, kind = leaf.split("/")
        del collection
        module = rename(model, "/".join(modules))
        found[leaf] = _source(model, layout, "/".join(modules), module, kind, array)
    return found


def layouts(model: Any) -> tuple[Layout, ...]:
    """The layouts of the libraries that have this very model."""
    possible: list[Layout] = [
        layout for kind, layout in _RENAMES if isinstance(model, kind)
    ]
    if isinstance(model, models.VGG) and model.batch_norm:
        return tuple(layout for layout in possible if not layout.startswith("keras"))
    if isinstance(model, models.ResNet):
        keras = model.version == "1"
        return tuple(
            layout for layout in possible if layout.startswith("keras") == keras
        )
    if isinstance(model, models.SqueezeNet):
        caffe = model.version == "caffe"
        return tuple(layout for layout in possible if (layout == "caffe") == caffe)
    return tuple(possible)


def ignored(name: str) -> bool:
    """Whether a file's tensor is no part of the network's computation."""
    return _COUNTERS.fullmatch(name) is not None


_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_KERAS = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "mean": "moving_mean",
    "var": "moving_variance",
}


_NORM = ("scale", "bias", "mean", "var")


def _source(
    model: Any, layout: str, ours: str, theirs: str, kind: str, array: Any
) -> Source:
    """The source of one leaf, given its module's name in the file."""
    rank = len(array.shape)
    if layout == "keras3":
        # The order in which Keras makes a layer's variables.
        order = _NORM if theirs.startswith("batch") else ("kernel", "bias")
        place = order.index(kind)
        return Source(f"{theirs}/{place}", tuple(range(rank)))
    if layout == "keras":
        norm = kind == "bias" and theirs.endswith("_bn")
        name = "beta" if norm else _KERAS[kind]
        return Source(f"{theirs}/{name}", tuple(range(rank)))
    if layout == "caffe":
        return Source(
            f"{theirs}/{'w' if kind == 'kernel' else 'b'}",
            (2, 3, 1, 0) if rank == 4 else (0,),
        )
    name = f"{theirs}.{_TORCH[kind]}"
    if rank == 4:
        return Source(name, (2, 3, 1, 0))
    if rank == 1:
        return Source(name, (0,))
    grid = _GRIDS.get((type(model), ours))
    convolution = layout == "timm" and isinstance(model, models.VGG)
    if convolution and ours == "dense2":
        grid = (4096, 1, 1)
    if convolution and grid:
        return Source(name, (2, 3, 1, 0), grid)
    return Source(name, (1, 0), grid)


# Dense layers that follow a flattened map: its channels, height and width.
_GRIDS: dict[tuple[type, str], tuple[int, int, int]] = {
    (models.AlexNet, "dense1"): (256, 6, 6),
    (models.VGG, "dense1"): (512, 7, 7),
    (models.GoogLeNet, "auxiliary1/dense"): (128, 4, 4),
    (models.GoogLeNet, "auxiliary2/dense"): (128, 4, 4),
}


def flattened(model: Any) -> dict[str, tuple[int, int, int]]:
    """Kernels of dense layers after a flattened map: its channels, height, width."""
    return {
        f"params/{module}/kernel": grid
        for (kind, module), grid in _GRIDS.items()
        if isinstance(model, kind)
    }


_ALEXNET = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "dense1": "classifier.1",
    "dense2": "classifier.4",
    "logits": "classifier.6",
}


def _alexnet(model: models.AlexNet, module: str) -> str:
    return _ALEXNET[module]


_VGG_DENSE = {
    "torchvision": {
        "dense1": "classifier.0",
        "dense2": "classifier.3",
        "logits": "classifier.6",
    },
    "timm": {
        "dense1": "pre_logits.fc1",
        "dense2": "pre_logits.fc2",
        "logits": "head.fc",
    },
    "keras": {"dense1": "fc1", "dense2": "fc2", "logits": "predictions"},
}


def _vgg_torch(layout: str) -> Callable[[models.VGG, str], str]:
    def rename(model: models.VGG, module: str) -> str:
        if module in _VGG_DENSE[layout]:
            return _VGG_DENSE[layout][module]
        match = re.fullmatch(r"block(\d)/(conv|norm)(\d)", module)
        assert match, module
        block, kind, index = int(match[1]), match[2], int(match[3])
        # A convolution, its normalisation and its ReLU each have a number, and so
        # does the pooling after a block.
        each = 3 if model.batch_norm else 2
        before = sum(model.convolutions[: block - 1])
        place = each * (before + index - 1) + block - 1 + (kind == "norm")
        return f"features.{place}"

    return rename


def _vgg_keras(model: models.VGG, module: str) -> str:
    return _VGG_DENSE["keras"].get(module, module.replace("/", "_"))


_FIRES = {
    "1.0": (3, 4, 5, 7, 8, 9, 10, 12),
    "1.1": (3, 4, 6, 7, 9, 10, 11, 12),
}


def _squeezenet(model: models.SqueezeNet, module: str) -> str:
    if module == "conv1":
        return "features.0"
    if module == "logits":
        return "classifier.1"
    fire, layer = module.split("/")
    index = _FIRES["1.1" if model.version == "1.1" else "1.0"][int(fire[-1]) - 2]
    return f"features.{index}.{layer}"


_CAFFE = {
    "squeeze": "conv1x1_1",
    "expand1x1": "conv1x1_2",
    "expand3x3": "conv3x3_2",
}


def _squeezenet_caffe(model: models.SqueezeNet, module: str) -> str:
    if module == "logits":
        return "conv_final"
    fire, *layer = module.split("/")
    return "/".join([fire, *(_CAFFE[name] for name in layer)])


_WAYS = {
    "way1": "branch1",
    "way2_reduce": "branch2.0",
    "way2": "branch2.1",
    "way3_reduce": "branch3.0",
    "way3": "branch3.1",
    "way4": "branch4.1",
    "norm": "bn",
    "logits": "fc",
    "auxiliary1": "aux1",
    "auxiliary2": "aux2",
    "dense": "fc1",
}


def _googlenet(model: models.GoogLeNet, module: str) -> str:
    if module.startswith("auxiliary"):
        module = module.replace("/logits", "/fc2")
    return ".".join(_WAYS.get(part, part) for part in module.split("/"))


def _resnet_torch(model: models.ResNet, module: str) -> str:
    first, *rest = module.split("/")
    if first == "logits":
        return "fc"
    if first == "stem":
        return {"conv": "conv1", "norm": "bn1"}[rest[0]]
    unit, layer, kind = rest
    prefix = f"layer{first[-1]}.{int(unit.removeprefix('unit')) - 1}"
    if layer == "shortcut":
        return f"{prefix}.downsample.{0 if kind == 'conv' else 1}"
    return f"{prefix}.{'conv' if kind == 'conv' else 'bn'}{layer[-1]}"


def _resnet_keras(model: models.ResNet, module: str) -> str:
    first, *rest = module.split("/")
    if first == "logits":
        return "predictions"
    if first == "stem":
        return {"conv": "conv1_conv", "norm": "conv1_bn"}[rest[0]]
    unit, layer, kind = rest
    place = 0 if layer == "shortcut" else int(layer[-1])
    block = f"conv{int(first[-1]) + 1}_block{unit.removeprefix('unit')}"
    return f"{block}_{place}_{'conv' if kind == 'conv' else 'bn'}"


def _numbered(order: Callable[[Any], Sequence[str]]) -> Callable[[Any, str], str]:
    """Keras's class of a layer, and which of that class it is in Keras's order."""

    def kind(module: str) -> str:
        last = module.split("/")[-1]
        if last.startswith("norm"):
            return "batch_normalization"
        return "conv2d" if last.startswith("conv") else "dense"

    def rename(model: Any, module: str) -> str:
        same = [other for other in order(model) if kind(other) == kind(module)]
        number = same.index(module)
        return f"{kind(module)}_{number}" if number else kind(module)

    return rename


def _vgg_order(model: models.VGG) -> list[str]:
    return [
        *(
            f"block{block}/conv{index}"
            for block, depth in enumerate(model.convolutions, start=1)
            for index in range(1, depth + 1)
        ),
        *("dense1", "dense2", "logits"),
    ]


def _resnet_order(model: models.ResNet) -> list[str]:
    """Keras's order: by distance from the output, a shortcut before what it passes."""
    found = ["stem"]
    for block, depth in enumerate(model.units, start=1):
        for unit in range(1, depth + 1):
            layers = ["conv1", "conv2", "conv3"]
            if unit == 1:
                layers.insert(2, "shortcut")
            found += [f"block{block}/unit{unit}/{layer}" for layer in layers]
    pairs = [f"{place}/{kind}" for place in found for kind in ("conv", "norm")]
    return [*pairs, "logits"]


_RENAMES: dict[tuple[type, Layout], Callable[[Any, str], str]] = {
    (models.AlexNet, "torchvision"): _alexnet,
    (models.VGG, "torchvision"): _vgg_torch("torchvision"),
    (models.VGG, "timm"): _vgg_torch("timm"),
    (models.VGG, "keras"): _vgg_keras,
    (models.VGG, "keras3"): _numbered(_vgg_order),
    (models.SqueezeNet, "torchvision"): _squeezenet,
    (models.SqueezeNet, "caffe"): _squeezenet_caffe,
    (models.GoogLeNet, "torchvision"): _googlenet,
    (models.ResNet, "torchvision"): _resnet_torch,
    # timm keeps torchvision's names for its plain ResNets.
    (models.ResNet, "timm"): _resnet_torch,
    (models.ResNet, "keras"): _resnet_keras,
    (models.ResNet, "keras3"): _numbered(_resnet_order),
}
