"""Networks of the registry in flaxnets and in its peers, side by side.

    python -m experiments.benchmark networks
    python -m experiments.benchmark networks --device gpu --rounds 7

Logits of a batch, and steps of training, with parameters drawn at random and a batch
that is on the device. That all compute the same is shown by tests/parity. Keras's
ResNet is that of version 1, torchvision's that of version 1.5, so each is compared with
flaxnets' own of that version. Each measurement is a fresh process, and a round measures
every contender once, in an order that alternates.
"""

import dataclasses
from typing import Literal

from experiments.benchmark import side_by_side
from experiments.benchmark.job import NetworkJob


@dataclasses.dataclass(frozen=True)
class Task:
    """Work that is timed.

    Attributes:
        kind: see `NetworkJob`.
        network: the architecture.
        batch_size: images.
        side: their height and width.
        dtype: of the computation.
        calls: calls in a window.
    """

    kind: Literal["forward", "train_step"]
    network: str
    batch_size: int
    side: int
    dtype: str = "float32"
    calls: int = 4

    def __str__(self) -> str:
        work = "logits" if self.kind == "forward" else "training step"
        return (
            f"{self.network} {work}, {self.batch_size} x {self.side}x{self.side}, "
            f"{self.dtype}"
        )

    def job(self, asked: side_by_side.Asked) -> NetworkJob:
        """What a worker is sent."""
        return NetworkJob(**dataclasses.asdict(self), **dataclasses.asdict(asked))


CPU = {
    "vgg16": Task("forward", "vgg16", 32, 224, calls=1),
    "resnet50": Task("forward", "resnet50", 32, 224, calls=2),
    "resnet50_v1": Task("forward", "resnet50_v1", 32, 224, calls=2),
    "resnet18-train": Task("train_step", "resnet18", 32, 64, calls=5),
}
ACCELERATOR = {
    "vgg16": Task("forward", "vgg16", 256, 224, "bfloat16", 20),
    "resnet50": Task("forward", "resnet50", 256, 224, "bfloat16", 50),
    "resnet50_v1": Task("forward", "resnet50_v1", 256, 224, "bfloat16", 50),
    "resnet18-train": Task("train_step", "resnet18", 256, 64, "float32", 50),
}


@dataclasses.dataclass(frozen=True)
class Config(side_by_side.Config):
    """Time networks in flaxnets against every peer that is installed."""

    tasks: tuple[str, ...] = tuple(CPU)
    """What is timed."""


def run(config: Config) -> int:
    """Measures, and leaves result.json, table.txt and plot.png."""
    return side_by_side.run("networks", config, CPU, ACCELERATOR)
