"""What a pretrained network sees in pictures.

    python -m experiments.classify cat.jpg --model vgg16 --weights vgg16-397923af.pth
    python -m experiments.classify *.jpg --model resnet50 --weights model.safetensors \
        --top 3 --json

    python -m experiments.classify cat.jpg --model resnet50 --weights torchvision-v2

The weights are published ones, downloaded once and verified, or a file of torchvision,
timm, Keras or Caffe; pictures are prepared as that library prepares them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import flaxnets
from flaxnets import console, errors, machine, ops, weights
from flaxnets.data import pictures, preprocessing
from flaxnets.models import registry
from flaxnets.report import terminal
from flaxnets.train.evaluation import probabilities


@dataclasses.dataclass(frozen=True)
class Config:
    """Classify pictures with a pretrained network."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files."""
    model: str
    """The architecture, as `flaxnets.list_models()` names it: vgg16, resnet50, ..."""
    weights: str = "imagenet"
    """A tag of the catalogue (python -m flaxnets.weights prints it), downloaded once,
    or a file: .pth, safetensors, .h5, .weights.h5, .keras or .npz."""
    top: int = 5
    """How many of the likeliest classes to show."""
    json: bool = False
    """Print JSON instead of bar charts."""
    device: str = "auto"
    """Where to compute: auto, cpu, gpu or tpu."""


def run(config: Config) -> int:
    """Prints the likeliest classes of each picture."""
    if not config.images:
        raise errors.ArgumentError("no picture was given; name one or more")
    if config.top < 1:
        raise errors.ArgumentError(f"--top is {config.top}, but must be at least 1")
    # A name that nobody knows is the first thing to say.
    registry.architecture(config.model)
    machine.select_device(config.device)
    photographs = [pictures.read_image(path) for path in config.images]
    model, variables = flaxnets.create(config.model, weights=config.weights)
    prepare = weights.preprocessing(config.model, config.weights)
    images = np.stack([prepare(picture) for picture in photographs])
    logits, _ = jax.jit(ops.in_parts(model.apply))(variables, images)
    shares = probabilities(np.asarray(logits))
    names = preprocessing.imagenet_classes()
    found = [
        {"image": str(path), "classes": likeliest(share, names, config.top)}
        for path, share in zip(config.images, shares, strict=True)
    ]
    if config.json:
        console.say(json.dumps(found, indent=1))
        return 0
    for answer in found:
        console.say(f"{answer['image']}:")
        console.say(
            terminal.bars(
                np.array([row["probability"] for row in answer["classes"]]),
                [row["name"] for row in answer["classes"]],
                ascii=terminal.plain_only(),
            )
        )
    return 0


def likeliest(
    shares: np.ndarray, names: tuple[str, ...], count: int
) -> list[dict[str, Any]]:
    """The `count` largest of the shares [K], with their classes, largest first."""
    ranked = np.argsort(-shares, kind="stable")[:count]
    return [
        {
            "class": int(index),
            "name": names[index],
            "probability": float(shares[index]),
        }
        for index in ranked
    ]


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.classify"))


if __name__ == "__main__":
    console.run(main)
