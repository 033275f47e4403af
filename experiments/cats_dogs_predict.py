"""What a network that `experiments.cats_dogs` trained sees in photographs.

python -m experiments.cats_dogs predict --run runs/cats-dogs photo.jpg
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments import cats_dogs_setup as setup
from experiments.mnist_predict import chosen_step, shown
from flaxnets import console, errors, train
from flaxnets.data import pictures, preprocessing


@dataclasses.dataclass(frozen=True)
class Predict:
    """Tell what each picture shows."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files."""
    run: Path
    """The run folder whose network is asked."""
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (in test accuracy), or a step."""
    json: bool = False
    """Print JSON instead of bar charts."""


def run(request: Predict) -> int:
    """Prints what the trained network of a run sees in each picture."""
    if not request.images:
        raise errors.ArgumentError(
            "predict got no picture; name one or more after the options"
        )
    config = train.read_config(request.run)
    if config.get("study") != "cats_dogs":
        raise errors.ArgumentError(
            f"{request.run} holds a run of {config.get('study', 'another study')}, but "
            "experiments.cats_dogs was expected"
        )
    prepare = preprocessing.from_config(config["preprocessing"])
    images = np.stack(
        [prepare.cropped(pictures.read_image(path)) for path in request.images]
    )
    with train.Checkpoints(request.run / "checkpoints") as checkpoints:
        step = chosen_step(checkpoints, request.checkpoint)
        variables = train.variables_of(checkpoints.leaves(step))
    names = tuple(config["classes"])
    model = setup.network(config["backbone"], config["head"], prepare, len(names))
    evaluator = train.Evaluator(model.apply, batch_size=min(len(images), 32))
    shares = train.probabilities(evaluator.predict(variables, images))
    console.say(shown(request.images, shares, names, as_json=request.json))
    return 0


def main(arguments: Sequence[str]) -> int:
    """The command line, after `predict`."""
    prog = "python -m experiments.cats_dogs predict"
    return run(tyro.cli(Predict, args=arguments, prog=prog))
