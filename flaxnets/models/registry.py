"""The architectures by the names under which people know them."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from flaxnets import errors
from flaxnets.models.alexnet import AlexNet
from flaxnets.models.googlenet import GoogLeNet
from flaxnets.models.resnet import ResNet
from flaxnets.models.squeezenet import SqueezeNet
from flaxnets.models.vgg import VGG


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of the registry.

    Attributes:
        kind: the module.
        options: what makes it this one.
        paper: where it comes from.
        parameters: their number with 1000 classes.
        side: height and width in pixels of the images that its weights were made for.
        pretrained: options that its published weights were made with.
    """

    kind: Callable[..., Any]
    options: dict[str, Any]
    paper: str
    parameters: int
    side: int = 224
    pretrained: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_SQUEEZENET = "arXiv 1602.07360"
_VGG = "arXiv 1409.1556"
_RESNET = "arXiv 1512.03385"

ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(AlexNet, {}, "arXiv 1404.5997", 61_100_840),
    "googlenet": Architecture(
        GoogLeNet,
        {},
        "arXiv 1409.4842",
        13_004_888,
        pretrained={"transform_input": True},
    ),
    "squeezenet_caffe": Architecture(
        SqueezeNet, {"version": "caffe"}, _SQUEEZENET, 1_248_424, 227
    ),
    "squeezenet1_0": Architecture(
        SqueezeNet, {"version": "1.0"}, _SQUEEZENET, 1_248_424
    ),
    "squeezenet1_1": Architecture(
        SqueezeNet, {"version": "1.1"}, _SQUEEZENET, 1_235_496
    ),
    **{
        f"vgg{depth}{'_bn' if batch_norm else ''}": Architecture(
            VGG, {"depth": depth, "batch_norm": batch_norm}, _VGG, parameters
        )
        for depth, batch_norm, parameters in (
            (11, False, 132_863_336),
            (11, True, 132_868_840),
            (13, False, 133_047_848),
            (13, True, 133_053_736),
            (16, False, 138_357_544),
            (16, True, 138_365_992),
            (19, False, 143_667_240),
            (19, True, 143_678_248),
        )
    },
    **{
        f"resnet{depth}": Architecture(ResNet, {"depth": depth}, _RESNET, parameters)
        for depth, parameters in (
            (18, 11_689_512),
            (34, 21_797_672),
            (50, 25_557_032),
            (101, 44_549_160),
            (152, 60_192_808),
        )
    },
    **{
        # Keras's, which counts its moving statistics as parameters too.
        f"resnet{depth}_v1": Architecture(
            ResNet, {"depth": depth, "version": "1"}, _RESNET, parameters
        )
        for depth, parameters in (
            (50, 25_583_592),
            (101, 44_601_832),
            (152, 60_268_520),
        )
    },
}


def list_models(pattern: str = "*") -> tuple[str, ...]:
    """Names of the architectures that a glob matches, in alphabetical order.

    >>> list_models("vgg1[69]")
    ('vgg16', 'vgg19')
    """
    return tuple(sorted(fnmatch.filter(ARCHITECTURES, pattern)))


def architecture(name: str) -> Architecture:
    """The registry's row of a name.

    Raises:
        ArgumentError: no architecture is called that.
    """
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"; did you mean {close[0]!r}" if close else ""
        raise errors.ArgumentError(
            f"no model is called {name!r}{hint}; there are: {', '.join(list_models())}"
        )
    return ARCHITECTURES[name]


def build(name: str, **options: Any) -> Any:
    """The module of an architecture.

    Args:
        name: one of `list_models()`.
        options: attributes of the module, such as num_classes, dropout or dtype.

    Raises:
        ArgumentError: no architecture is called that, or it has no such option.
    """
    row = architecture(name)
    known = set(getattr(row.kind, "__dataclass_fields__", {})) - {"parent", "name"}
    if unknown := sorted(set(options) - known):
        raise errors.ArgumentError(
            f"{name} has no option {', '.join(unknown)}; it has: "
            f"{', '.join(sorted(known))}"
        )
    return row.kind(**{**row.options, **options})
