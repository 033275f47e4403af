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
from experiments import mnist_predict
from flaxnets import console, errors, train
from flaxnets.data import pictures, preprocessing


@dataclasses.dataclass(frozen=True)
class Predict(mnist_predict.Predict):
    """Tell what each picture shows."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files."""


def run(request: Predict) -> int:
    """Prints what the trained network of a run sees in each picture."""
    config = mnist_predict.config_of(request)
    if config.get("study") != "cats_dogs":
        raise errors.ArgumentError(
            f"{request.run} holds a run of {config.get('study', 'another study')}, but "
            "experiments.cats_dogs was expected"
        )
    prepare = preprocessing.from_config(config["preprocessing"])
    images = np.stack(
        [prepare.cropped(pictures.read_image(path)) for path in request.images]
    )
    variables = mnist_predict.variables_of(request)
    names = tuple(config["classes"])
    model = setup.network(config["backbone"], config["head"], prepare, len(names))
    evaluator = train.Evaluator(model.apply, batch_size=min(len(images), 32))
    shares = train.probabilities(evaluator.predict(variables, images))
    console.say(
        mnist_predict.shown(request.images, shares, names, as_json=request.json)
    )
    return 0


def main(arguments: Sequence[str]) -> int:
    """The command line, after `predict`."""
    prog = "python -m experiments.cats_dogs predict"
    return run(tyro.cli(Predict, args=arguments, prog=prog))
