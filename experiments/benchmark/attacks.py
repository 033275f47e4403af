"""Attacks in flaxnets and in PyTorch by torchattacks, side by side.

    python -m experiments.benchmark attacks
    python -m experiments.benchmark attacks --run runs/mnist-001
    python -m experiments.benchmark attacks --tasks pgd-1000 --device gpu

Projected gradient ascent on pictures of MNIST's size through the lecture's network,
with the same parameters and pictures in both: those of a run, or drawn ones. Once with
all steps of every picture, once only until it is fooled, which flaxnets can do and
torchattacks cannot. That both succeed alike is shown by tests/parity. Each measurement
is a fresh process, and a round measures every contender once, in an order that
alternates.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import commands
from experiments.benchmark import side_by_side
from experiments.benchmark.job import AttackJob
from flaxnets import data, errors, params, train


@dataclasses.dataclass(frozen=True)
class Task:
    """Work that is timed: pictures that are attacked at once.

    Attributes:
        kind, epsilon, attack_steps, step_size, random_start, until_fooled, file: see
            `AttackJob`.
        batch_size: pictures.
        calls: calls in a window.
    """

    batch_size: int
    kind: Literal["pgd"] = "pgd"
    epsilon: float = 0.3
    attack_steps: int = 40
    step_size: float = 0.01
    random_start: bool = True
    until_fooled: bool = False
    file: str = ""
    calls: int = 1

    def __str__(self) -> str:
        return (
            f"PGD-{self.attack_steps} at epsilon {self.epsilon:g}, "
            f"{self.batch_size:,} pictures of 28x28"
            + (", flaxnets until fooled" if self.until_fooled else "")
        )

    def job(self, asked: side_by_side.Asked) -> AttackJob:
        """What a worker is sent."""
        return AttackJob(**dataclasses.asdict(self), **dataclasses.asdict(asked))


CPU = {
    "pgd-1000": Task(1000),
    "pgd-1000-until-fooled": Task(1000, until_fooled=True),
}
ACCELERATOR = {name: dataclasses.replace(task, calls=20) for name, task in CPU.items()}


@dataclasses.dataclass(frozen=True)
class Config(side_by_side.Config):
    """Time attacks in flaxnets against every peer that is installed."""

    tasks: tuple[str, ...] = tuple(CPU)
    """What is timed."""
    run: Path | None = None
    """A run of experiments.mnist, whose network is attacked on its test pictures; by
    default both are drawn."""


def run(config: Config) -> int:
    """Measures, and leaves result.json, table.txt and plot.png."""
    with tempfile.TemporaryDirectory() as scratch:
        file = ""
        if config.run is not None:
            file = _kept(config.run, Path(scratch) / "attacked.npz")
        cpu, accelerator = (
            {name: dataclasses.replace(task, file=file) for name, task in tasks.items()}
            for tasks in (CPU, ACCELERATOR)
        )
        return side_by_side.run("attacks", config, cpu, accelerator)


def _kept(run: Path, path: Path) -> str:
    """The network of a run and its first test pictures, in a file for the workers."""
    dataset = data.load(str(train.read_config(run).get("dataset", "auto")))
    variables = commands.network_of_run("--run", run, dataset)
    weights = params.flatten(variables["params"])
    count = max(task.batch_size for task in CPU.values())
    if len(dataset.test.labels) < count:
        raise errors.ArgumentError(
            f"--run {run}: {dataset.name} has {len(dataset.test.labels)} test "
            f"pictures, but {count} are attacked; give a run on mnist"
        )
    images = dataset.test.images[:count].astype(np.float32) / 255
    return AttackJob.saved(path, images, weights)
