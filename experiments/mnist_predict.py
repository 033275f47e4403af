"""What a network that `experiments.mnist` trained sees in pictures of digits.

python -m experiments.mnist predict --run runs/mnist-001 photo.jpg
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from flaxnets import console, errors, models, train
from flaxnets.data import pictures
from flaxnets.report import terminal


@dataclasses.dataclass(frozen=True)
class Predict:
    """Tell which digit each picture shows."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures of one digit each: photo or drawing, dark on light or light on dark."""
    run: Path
    """The run folder whose network is asked."""
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (in test accuracy), or a step."""
    json: bool = False
    """Print JSON instead of bar charts."""


def run(request: Predict) -> int:
    """Prints what the trained network of a run sees in each picture."""
    config = config_of(request)
    names = tuple(config["classes"])
    if config["image_shape"] != [28, 28, 1]:
        raise errors.ArgumentError(
            f"{request.run}: its network takes pictures of {config['image_shape']}, "
            "but predict reads digits of 28x28x1"
        )
    images = np.stack([pictures.read_digit(path) for path in request.images])
    variables = variables_of(request)
    model = models.CNN(num_classes=len(names))
    logits = train.Evaluator(model.apply, batch_size=len(images)).predict(
        variables, images
    )
    shares = train.probabilities(logits)
    console.say(shown(request.images, shares, names, as_json=request.json))
    return 0


def config_of(request: Predict) -> dict[str, Any]:
    """The config of the run that is asked, once there is something to ask."""
    if not request.images:
        raise errors.ArgumentError(
            "predict got no picture; name one or more after the options"
        )
    return train.read_config(request.run)


def variables_of(request: Predict) -> dict[str, Any]:
    """The variables of the checkpoint that is asked."""
    with train.Checkpoints(request.run / "checkpoints") as checkpoints:
        step = chosen_step(checkpoints, request.checkpoint)
        return train.variables_of(checkpoints.leaves(step))


def shown(
    images: Sequence[Path], shares: np.ndarray, names: Sequence[str], *, as_json: bool
) -> str:
    """Probabilities f[N, K] of pictures as bar charts, or as JSON."""
    if as_json:
        found = [
            {
                "image": str(path),
                "class": names[int(share.argmax())],
                "probabilities": dict(zip(names, share.tolist(), strict=True)),
            }
            for path, share in zip(images, shares, strict=True)
        ]
        return json.dumps(found, indent=1)
    lines = []
    for path, share in zip(images, shares, strict=True):
        lines.append(f"{path}: {names[int(share.argmax())]}")
        lines.append(terminal.bars(share, names, ascii=terminal.plain_only()))
    return "\n".join(lines)


def chosen_step(checkpoints: train.Checkpoints, name: str) -> int | None:
    """The step that `latest`, `best` or a number names."""
    if name in ("latest", "best"):
        return checkpoints.latest() if name == "latest" else checkpoints.best()
    if not name.isdecimal():
        raise errors.ArgumentError(
            f"--checkpoint is {name!r}, but must be latest, best or a step's number"
        )
    return int(name)


def main(arguments: Sequence[str]) -> int:
    """The command line, after `predict`."""
    prog = "python -m experiments.mnist predict"
    return run(tyro.cli(Predict, args=arguments, prog=prog))
