"""What the studies' command lines share."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import console, data, errors, train
from flaxnets.train import similarity


def options(config: Any, *, without: Collection[str]) -> list[str]:
    """The options of a command line that make a study's config, defaults left out.

    Args:
        config: a dataclass.
        without: names of fields that are left out.
    """
    words = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name in without or value == default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


def at_least_one(config: Any, names: Collection[str]) -> None:
    """Raises ArgumentError where one of these fields of a config is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}, but must be "
                "at least 1"
            )


def positive(config: Any, names: Collection[str]) -> None:
    """Raises ArgumentError where one of these fields of a config is not above 0."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {value}, but must be a positive number"
            )


def seeded(config: Any) -> None:
    """Raises ArgumentError where a config's seed is none."""
    if not 0 <= config.seed < 2**32:
        raise errors.ArgumentError(
            f"--seed is {config.seed}, but must be from 0 to {2**32 - 1}"
        )


def large_enough(dataset: data.Dataset) -> None:
    """Raises ArgumentError where SSIM cannot be taken of a data set's pictures."""
    height, width = dataset.train.images.shape[1:3]
    if min(height, width) < similarity.SMALLEST:
        raise errors.ArgumentError(
            f"{dataset.name} has pictures of {height}x{width} pixels, but SSIM, by "
            f"which they are compared, needs {similarity.SMALLEST} a side; give larger "
            "ones"
        )


def drawn(count: int, limit: int, seed: int) -> np.ndarray:
    """Places of at most `limit` of `count` pictures, which may lie class by class."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.permutation(count)[:limit]


def bytes_of(megabytes: int | None) -> int | None:
    """A limit in bytes, where there is one."""
    return None if megabytes is None else megabytes << 20


def whole(fitted: train.Fitted) -> None:
    """Ends a study whose training was stopped by a signal."""
    if fitted.stopped.startswith("SIG"):
        console.say(f"stopped by {fitted.stopped} after step {int(fitted.state.step)}")
    if fitted.stopped == "SIGINT":
        raise KeyboardInterrupt
    if fitted.stopped == "SIGTERM":
        raise SystemExit(143)


def network_of_run(
    option: str, run: Path, dataset: data.Dataset, *, otherwise: str = ""
) -> dict[str, Any]:
    """The variables of the network that a run of `experiments.mnist` trained.

    Args:
        option: that names the run, with its dashes.
        run: the run folder.
        dataset: the pictures that the network is to be shown.
        otherwise: what else the option takes, for a message.

    Raises:
        ArgumentError: there is no such run, or it was trained on other data.
    """
    if not run.is_dir():
        raise errors.ArgumentError(
            f"{option} {run}: there is no such folder; give that of a run of "
            f"experiments.mnist{otherwise}"
        )
    config = train.read_config(run)
    if config.get("study") != "mnist":
        raise errors.ArgumentError(
            f"{option} {run}: a run of {config.get('study', 'another study')}, but one "
            "of experiments.mnist is needed"
        )
    if config.get("dataset_sha256") != data.fingerprint(dataset):
        raise errors.ArgumentError(
            f"{option} {run}: its network was trained on {config.get('dataset')!r} and "
            f"not on these pictures of {dataset.name}; give a run on the same data"
        )
    with train.Checkpoints(run / "checkpoints") as checkpoints:
        return train.variables_of(checkpoints.leaves(checkpoints.latest()))
