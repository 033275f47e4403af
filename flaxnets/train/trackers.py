"""Records sent on to TensorBoard or Weights & Biases, when a run asks for it."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxnets import errors

Track = Callable[[Mapping[str, Any]], None]

# Each package's option on the command line, and the extra that installs it.
_OPTIONS = {
    "tensorboardX": ("--tensorboard", "tensorboard"),
    "wandb": ("--wandb", "wandb"),
}


def require(package: str) -> None:
    """Raises ArgumentError where `tensorboardX` or `wandb` is not installed."""
    if importlib.util.find_spec(package) is None:
        option, extra = _OPTIONS[package]
        raise errors.ArgumentError(
            f"{option} needs the package {package}, which is not installed; run: "
            f'pip install -e ".[{extra}]"'
        )


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Track]:
    """Writes the numbers of each record as TensorBoard events below `folder`.

    Raises:
        ArgumentError: tensorboardX is not installed.
    """
    require("tensorboardX")
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def track(record: Mapping[str, Any]) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, record["step"])
        writer.flush()

    try:
        yield track
    finally:
        writer.close()


@contextlib.contextmanager
def weights_and_biases(folder: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    """Logs the numbers of each record to a Weights & Biases run, project `flaxnets`.

    Account and mode come from the environment (`WANDB_MODE=offline` needs neither).

    Raises:
        ArgumentError: wandb is not installed.
    """
    require("wandb")
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(project="flaxnets", dir=str(folder), config=dict(config))

    def track(record: Mapping[str, Any]) -> None:
        run.log(_numbers(record), step=record["step"])

    try:
        yield track
    finally:
        run.finish()


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name != "step"
    }
