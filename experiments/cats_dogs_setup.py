"""What the cats-and-dogs studies share: pictures, network, and a way to transfer it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import flaxnets
from experiments import commands
from flaxnets import data, errors, models, params, train, transfer, weights
from flaxnets.data import augmentation, preprocessing, pretext
from flaxnets.models import registry
from flaxnets.train import losses, optimizers
from flaxnets.transfer import modes

HeadName = Literal["linear", "lecture"]
AugmentName = Literal["none", "flip", "crop"]

# The lecture's head: flatten, 50 hidden units, one logit a class. The linear one is
# what a body's features are usually judged by.
HEADS: dict[HeadName, dict[str, Any]] = {
    "linear": {"pooling": "mean", "hidden": (), "normalize": True},
    "lecture": {"pooling": "flatten", "hidden": (50,), "normalize": True},
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How long and how fast a mode trains."""

    epochs: int
    optimizer: str
    learning_rate: float
    schedule: str
    momentum: float | None


# Momentum with a falling rate finds what logistic regression finds on frozen features;
# Adam, whose steps are equally long for every feature, does worse with few pictures.
# From scratch a network without batch normalisation dies at a rate of 1e-3: SqueezeNet
# on 2,000 photographs answered the same for all of them after 40 epochs.
RECIPES: dict[modes.Mode, Recipe] = {
    "feature_extraction": Recipe(50, "sgd", 1e-2, "cosine", 0.9),
    "partial_fine_tuning": Recipe(6, "sgd", 3e-3, "cosine", 0.9),
    "fine_tuning": Recipe(5, "sgd", 3e-3, "cosine", 0.9),
    "scratch": Recipe(20, "adamw", 2e-4, "onecycle", None),
}


def located(path: Path | None) -> Path:
    """The folder or zip asked for, else the lecture's own set."""
    return path if path is not None else data.cats_and_dogs()


def preparation(
    backbone: str, file: str, size: int | None = None
) -> preprocessing.Preprocessing:
    """Resizing, cropping and scaling as the backbone's weights ask for it.

    Args:
        backbone: name of the architecture.
        file: its weights, or none.
        size: pixels of a side, if others than the weights were made with.
    """
    if file == "none":
        found = preprocessing.TORCHVISION
        size = registry.architecture(backbone).side if size is None else size
    else:
        found = weights.preprocessing(backbone, file)
    if size is None:
        return found
    if size < 32:
        raise errors.ArgumentError(f"--size is {size}, but must be at least 32 pixels")
    # The margin that ImageNet's pictures usually have: 256 for 224.
    return dataclasses.replace(found, resize=round(size * 256 / 224), crop=size)


def network(
    backbone: str, head: HeadName, prepare: preprocessing.Preprocessing, classes: int
) -> models.WithHead:
    """A backbone without its own head, and a new one."""
    return models.WithHead(
        models.build(backbone, num_classes=None),
        models.Head(classes, **HEADS[head]),
        prepare=prepare.scaled,
    )


def image_shape(prepare: preprocessing.Preprocessing) -> tuple[int, int, int]:
    """[H, W, 3] of prepared pictures."""
    if prepare.crop is not None:
        return prepare.crop, prepare.crop, 3
    height, width = np.broadcast_to(prepare.resize, 2)
    return int(height), int(width), 3


def body(backbone: str, file: str) -> Mapping[str, Any] | None:
    """Variables of the backbone alone from published weights or a file."""
    if file == "none":
        return None
    return flaxnets.create(backbone, weights=file, num_classes=None)[1]


def rotation_pretrained(
    backbone: str,
    prepare: preprocessing.Preprocessing,
    dataset: data.Dataset,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A body that learned to tell how pictures were turned; it sees no labels.

    Args:
        backbone: name of the architecture.
        prepare: how its pictures are prepared.
        dataset: whose pictures are used.
        epochs, batch_size, seed: of that training.

    Returns:
        Variables of the body, and how well it tells turns apart.
    """
    model = network(backbone, "linear", prepare, 4)
    shape = image_shape(prepare)
    keys = jax.random.split(jax.random.key(seed))
    train_images, test_images = dataset.train.images, np.asarray(dataset.test.images)
    turns = np.arange(len(test_images), dtype=np.int32) % 4
    turned = [
        np.rot90(image, int(turn))
        for image, turn in zip(test_images, turns, strict=True)
    ]
    turning = data.Dataset(
        "quarter turns",
        data.Split(train_images, np.zeros(len(train_images), np.int32)),
        data.Split(np.stack(turned), turns),
        ("0", "90", "180", "270"),
        dataset.source,
    )
    steps = data.steps_per_epoch(len(train_images), batch_size)
    recipe = RECIPES["scratch"]
    optimizer, schedule = optimizers.make(
        recipe.optimizer,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        total_steps=epochs * steps,
    )
    loss = losses.classification(model.apply, mix=pretext.quarter_turns)
    fitted = train.fit(
        train.create(
            params.initialize(model, keys[0], (1, *shape)), optimizer, key=keys[1]
        ),
        train.make_step(loss, optimizer),
        turning,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        evaluator=train.Evaluator(model.apply, batch_size=100),
        learning_rate=schedule,
    )
    commands.whole(fitted)
    body = {
        name: tree["backbone"]
        for name, tree in fitted.state.variables.items()
        if "backbone" in tree
    }
    return jax.device_get(body), {
        "epochs": epochs,
        "turns_accuracy": fitted.records[-1]["test_accuracy"],
        "seconds": fitted.train_seconds,
    }


def drawn(
    model: models.WithHead,
    shape: Sequence[int],
    key: jax.Array,
    pretrained: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """New variables, with those of a trained body where there is one."""
    variables = params.initialize(model, key, (1, *shape))
    if pretrained is None:
        return variables
    return transfer.transplanted(variables, pretrained)


def last_frozen(model: models.WithHead, shape: Sequence[int]) -> str:
    """Where partial fine-tuning freezes up to: the first four fifths of the layers."""
    found = transfer.layers(model, (1, *shape))
    return found[max(1, 4 * len(found) // 5) - 1]


def augmenting(name: AugmentName, size: int) -> augmentation.Augmentation | None:
    """The augmentation of that name, for pictures of a size."""
    if name == "none":
        return None
    if name == "flip":
        return augmentation.flip()
    return augmentation.compose(
        augmentation.random_resized_crop(size, scale=(0.5, 1.0)), augmentation.flip()
    )


def few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of `count` examples of each class; a smaller count's are among them.

    Raises:
        ArgumentError: a class has fewer.
    """
    least = int(np.bincount(labels).min())
    if not 1 <= count <= least:
        raise errors.ArgumentError(
            f"--per-class asks for {count} pictures, but must be between 1 and "
            f"{least}, as many as the smallest class has"
        )
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label in range(int(labels.max()) + 1)
    ]
    return np.concatenate(chosen)


def in_memory(split: data.Split, limit: int) -> data.Split:
    """The pictures as an array where they fit, else as they are, to be streamed."""
    if split.images.nbytes > limit:
        return split
    return split._replace(images=np.asarray(split.images))


def default_features() -> Path:
    """Where features are kept from run to run."""
    return Path(os.environ.get("FLAXNETS_CACHE", "runs")) / "features"
