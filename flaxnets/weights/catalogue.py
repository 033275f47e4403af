"""Where pretrained weights are published, what they must be, and how good they are.

Names of files, beginnings of their SHA-256, sizes and accuracies of torchvision's are
those of its own weight enumerations (torchvision 0.29, models/*.py); MD5 of Keras's
those of keras/src/applications, its accuracies those of keras.io's table, and the
sizes what its downloads print. timm's accuracies are its results-imagenet.csv; its
revisions, sizes and SHA-256 were read from projects that have pinned them, so a wrong
one would fail a download, not let a forged file pass.
"""

import dataclasses
import fnmatch
from collections.abc import Sequence

from flaxnets import errors
from flaxnets.data.download import Expected
from flaxnets.data.preprocessing import (
    KERAS_CAFFE,
    SQUEEZENET_CAFFE,
    TORCHVISION,
    TORCHVISION_V2,
    Preprocessing,
)

# The tag that means a model's first entry.
DEFAULT = "imagenet"

TORCHVISION_URL = "https://download.pytorch.org/models/"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
HUB_URL = "https://huggingface.co/"

_CC_BY = "CC BY 4.0"
_BSD = "BSD-3-Clause"
_MIT = "MIT"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published file of weights.

    Attributes:
        model: the architecture, as `models.list_models()` names it.
        tag: which of the model's weights they are: whose and which version.
        file: its name in the cache.
        url: where it is; None if it must be put in the cache by hand.
        expected: its published digest and size; None where the Hub is asked for them
            at the first download, and its answer is kept.
        megabytes: its size in 10^6 bytes, where that is published.
        licence: of the weights.
        preprocessing: what makes a picture the network's input.
        top1, top5: published accuracies on ImageNet's validation images, in percent.
        head: whether it holds the classifier.
    """

    model: str
    tag: str
    file: str
    url: str | None
    expected: Expected | None
    megabytes: float | None
    licence: str
    preprocessing: Preprocessing
    top1: float | None = None
    top5: float | None = None
    head: bool = True

    def __str__(self) -> str:
        return f"{self.model} {self.tag}"


def entries(model: str = "*", tag: str = "*") -> tuple[Entry, ...]:
    """The entries whose model and tag two globs match, each model's default first."""
    return tuple(
        entry
        for entry in _ENTRIES
        if fnmatch.fnmatchcase(entry.model, model)
        and fnmatch.fnmatchcase(entry.tag, tag)
    )


def find(model: str, tag: str = DEFAULT) -> Entry:
    """The entry of a model.

    Args:
        model: one of `models.list_models()`.
        tag: "imagenet" for the model's default, else one of its tags.

    Raises:
        ArgumentError: there is none.
    """
    for entry in _of(model):
        if tag in (DEFAULT, entry.tag):
            return entry
    raise errors.ArgumentError(
        f"no weights {tag!r} of {model} are in the catalogue; there are: "
        f"{_listed(tags(model)) or 'none'}"
    )


def tags(model: str) -> tuple[str, ...]:
    """What `find` takes for a model."""
    own = tuple(entry.tag for entry in _of(model))
    return (DEFAULT, *own) if own else ()


def _of(model: str) -> list[Entry]:
    return [entry for entry in _ENTRIES if entry.model == model]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


# Model: file, size in MiB as torchvision rounds it, top-1, top-5.
_TORCHVISION_V1 = {
    "alexnet": ("alexnet-owt-7be5be79.pth", 233.087, 56.522, 79.066),
    "googlenet": ("googlenet-1378be20.pth", 49.731, 69.778, 89.530),
    "resnet18": ("resnet18-f37072fd.pth", 44.661, 69.758, 89.078),
    "resnet34": ("resnet34-b627a593.pth", 83.275, 73.314, 91.420),
    "resnet50": ("resnet50-0676ba61.pth", 97.781, 76.130, 92.862),
    "resnet101": ("resnet101-63fe2227.pth", 170.511, 77.374, 93.546),
    "resnet152": ("resnet152-394f9c45.pth", 230.434, 78.312, 94.046),
    "squeezenet1_0": ("squeezenet1_0-b66bff10.pth", 4.778, 58.092, 80.420),
    "squeezenet1_1": ("squeezenet1_1-b8a52dc0.pth", 4.729, 58.178, 80.624),
    "vgg11": ("vgg11-8a719046.pth", 506.84, 69.020, 88.628),
    "vgg11_bn": ("vgg11_bn-6002323d.pth", 506.881, 70.370, 89.810),
    "vgg13": ("vgg13-19584684.pth", 507.545, 69.928, 89.246),
    "vgg13_bn": ("vgg13_bn-abd245e5.pth", 507.59, 71.586, 90.374),
    "vgg16": ("vgg16-397923af.pth", 527.796, 71.592, 90.382),
    "vgg16_bn": ("vgg16_bn-6c64b313.pth", 527.866, 73.360, 91.516),
    "vgg19": ("vgg19-dcbb9e9d.pth", 548.051, 72.376, 90.876),
    "vgg19_bn": ("vgg19_bn-c79401a0.pth", 548.143, 74.218, 91.842),
}
_TORCHVISION_V2 = {
    "resnet50": ("resnet50-11ad3fa6.pth", 97.79, 80.858, 95.434),
    "resnet101": ("resnet101-cd907fc2.pth", 170.53, 81.886, 95.780),
    "resnet152": ("resnet152-f82ba261.pth", 230.474, 82.284, 96.002),
}

# Model: Keras's name, MD5 and bytes with and without the head, top-1, top-5.
_Keras = tuple[str, tuple[str, int | None], tuple[str, int | None], float, float]
_KERAS: dict[str, _Keras] = {
    "vgg16": (
        "vgg16/vgg16",
        ("64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
        ("6d6bbae143d832006294945121d1f1fc", 58_889_256),
        *(71.3, 90.1),
    ),
    "vgg19": (
        "vgg19/vgg19",
        ("cbe5617147190e668d6c5d5026f83318", 574_710_816),
        ("253f8cb515780f3b799900260a226db6", 80_134_624),
        *(71.3, 90.0),
    ),
    "resnet50_v1": (
        "resnet/resnet50",
        ("2cb95161c43110f7111970584f804107", 102_967_424),
        ("4d473c1dd8becc155b73f8504c6f6626", 94_765_736),
        *(74.9, 92.1),
    ),
    "resnet101_v1": (
        "resnet/resnet101",
        ("f1aeb4b969a6efcfb50fad2f0c20cfc5", 179_648_224),
        ("88cf7a10940856eca736dc7b7e228a21", 171_446_536),
        *(76.4, 92.8),
    ),
    "resnet152_v1": (
        "resnet/resnet152",
        ("100835be76be38e30d865e96f2aaae62", None),
        ("ee4c566cf9a93f14d82f913c2dc6dd0c", 234_698_864),
        *(76.6, 93.1),
    ),
}

# Model: revision and digest, where they are known; top-1, top-5.
_TIMM: dict[str, tuple[str, Expected | None, float | None, float | None]] = {
    "vgg16": (
        "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f",
        Expected("57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"),
        *(71.594, 90.398),
    ),
    "vgg19": ("main", None, 72.400, 90.878),
    "vgg11": (
        "main",
        Expected("682c023808812148d4e60c76d80ad83dbeaf5d50eb1a952a0b836895003151e5"),
        *(None, None),
    ),
    "vgg13": ("main", None, None, None),
    "vgg11_bn": ("main", None, None, None),
    "vgg13_bn": ("main", None, None, None),
    "vgg16_bn": ("main", None, None, None),
    "vgg19_bn": ("main", None, None, None),
    "resnet18": (
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        Expected(
            "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
            46_807_446,
        ),
        *(None, None),
    ),
    "resnet34": (
        "1b7b21cca82ff974d341713f777bf740c2db38c4",
        Expected(
            "0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235",
            87_278_522,
        ),
        *(None, None),
    ),
    "resnet50": (
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        Expected(
            "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
            102_469_840,
        ),
        *(76.156, 92.866),
    ),
    "resnet101": ("main", None, 77.404, 93.552),
    "resnet152": ("main", None, 78.330, 94.046),
}


def _torchvision(
    tag: str,
    preprocessing: Preprocessing,
    files: dict[str, tuple[str, float, float, float]],
) -> list[Entry]:
    return [
        Entry(
            model,
            tag,
            file,
            TORCHVISION_URL + file,
            # The file's name ends with the beginning of its SHA-256.
            Expected(file.removesuffix(".pth").split("-")[-1]),
            mebibytes * 2**20 / 1e6,
            _BSD,
            preprocessing,
            top1,
            top5,
        )
        for model, (file, mebibytes, top1, top5) in files.items()
    ]


def _keras() -> list[Entry]:
    found = []
    for model, (name, whole, trunk, top1, top5) in _KERAS.items():
        for (md5, size), head in ((whole, True), (trunk, False)):
            ending = "" if head else "_notop"
            url = f"{KERAS_URL}{name}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
            found.append(
                Entry(
                    model,
                    "keras" if head else "keras-notop",
                    url.rpartition("/")[2],
                    url,
                    Expected(md5, size, "md5"),
                    size and size / 1e6,
                    # Keras's were converted from those of the papers' authors.
                    _CC_BY if model.startswith("vgg") else _MIT,
                    KERAS_CAFFE,
                    top1 if head else None,
                    top5 if head else None,
                    head,
                )
            )
    return found


def _timm() -> list[Entry]:
    return [
        Entry(
            model,
            "timm",
            f"{model}.tv_in1k.safetensors",
            f"{HUB_URL}timm/{model}.tv_in1k/resolve/{revision}/model.safetensors",
            expected,
            expected.size / 1e6 if expected and expected.size else None,
            _BSD,
            TORCHVISION,
            top1,
            top5,
        )
        for model, (revision, expected, top1, top5) in _TIMM.items()
    ]


_CAFFE = Entry(
    "squeezenet_caffe",
    "caffe",
    "squeezenet_v1_caffe.npz",
    None,
    Expected(
        "ea3a60daafedd8d606a7a7e7b68d11649d7f121a1ecaba9639a128c07fc409d9", 5_007_490
    ),
    5.00749,
    "BSD",
    SQUEEZENET_CAFFE,
    # The paper's, table 2 (arXiv 1602.07360).
    57.5,
    80.3,
)

# By model; within one in this order, so that its default comes first.
_ENTRIES: tuple[Entry, ...] = tuple(
    sorted(
        [
            *_torchvision("torchvision", TORCHVISION, _TORCHVISION_V1),
            *_torchvision("torchvision-v2", TORCHVISION_V2, _TORCHVISION_V2),
            *_keras(),
            *_timm(),
            _CAFFE,
        ],
        key=lambda entry: entry.model,
    )
)
