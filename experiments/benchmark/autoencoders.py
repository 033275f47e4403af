"""Autoencoders and un-pooling in flaxnets and in its peers, side by side.

    python -m experiments.benchmark autoencoders
    python -m experiments.benchmark autoencoders --tasks nearest-28 max_unpool-28

Steps of training one autoencoder, the same in all libraries that have its un-pooling,
and un-pooling alone, forwards and backwards. That all compute the same is shown by
tests/parity. Each measurement is a fresh process, and a round measures every contender
once, in an order that alternates.
"""

import dataclasses
from typing import Literal

from experiments.benchmark import side_by_side
from experiments.benchmark.job import UnpoolingJob


@dataclasses.dataclass(frozen=True)
class Task:
    """Work that is timed.

    Attributes:
        kind, unpooling, widths: see `UnpoolingJob`.
        batch_size: images.
        side: their height and width.
        channels: theirs.
        calls: calls in a window.
    """

    kind: Literal["train_step", "operator"]
    unpooling: str
    batch_size: int
    side: int
    channels: int
    widths: tuple[int, ...] = ()
    calls: int = 10

    def __str__(self) -> str:
        size = f"{self.batch_size} x {self.side}x{self.side}x{self.channels}"
        name = self.unpooling.replace("_", " ")
        if self.kind == "operator":
            return f"{name}, with its gradient, {size}"
        return f"autoencoder with {name}, training step, {size}"

    def job(self, asked: side_by_side.Asked) -> UnpoolingJob:
        """What a worker is sent."""
        return UnpoolingJob(**dataclasses.asdict(self), **dataclasses.asdict(asked))


def _tasks(scale: int, calls: int) -> dict[str, Task]:
    """The tasks at so many times the batch."""
    found = {}
    for name in ("nearest", "max_unpool", "transposed"):
        for batch, side, channels, widths in (
            (128, 28, 1, (32, 64)),
            (32, 64, 3, (32, 64, 128)),
        ):
            found[f"{name}-{side}"] = Task(
                "train_step", name, batch * scale, side, channels, widths, calls
            )
    for name in ("nearest", "bed_of_nails", "max_unpool", "transposed", "subpixel"):
        found[name] = Task("operator", name, 32 * scale, 32, 64, calls=2 * calls)
    return found


CPU = _tasks(1, 10)
ACCELERATOR = _tasks(8, 50)


@dataclasses.dataclass(frozen=True)
class Config(side_by_side.Config):
    """Time autoencoders and un-pooling against every peer that is installed."""

    tasks: tuple[str, ...] = tuple(CPU)
    """What is timed."""


def run(config: Config) -> int:
    """Measures, and leaves result.json, table.txt and plot.png."""
    return side_by_side.run("autoencoders", config, CPU, ACCELERATOR)
