"""Records sent on to TensorBoard or Weights & Biases, when a run asks for it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxnets import errors

Track = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Track]:
    """Writes the numbers of each record as TensorBoard events below `folder`.

    Raises:
        ArgumentError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise _missing("--tensorboard", "tensorboardX", "tensorboard") from None
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
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise _missing("--wandb", "wandb", "wandb") from None
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


def _missing(option: str, package: str, extra: str) -> errors.ArgumentError:
    return errors.ArgumentError(
        f"{option} needs the package {package}, which is not installed; run: "
        f'pip install -e ".[{extra}]"'
    )
