"""What is left of a picture at each depth of a network.

    python -m experiments.invert --backbone vgg16 --endpoint block3
    python -m experiments.invert --backbone squeezenet_caffe \
        --weights squeezenet_v1_caffe.npz
    python -m experiments.invert --backbone cnn --weights runs/mnist-001 --data mnist

A network that tells classes apart is frozen, and its mirror learns to give pictures
back from what the network holds of them: one mirror for each of its levels, as
Dosovitskiy and Brox inverted networks (2016, arXiv 1506.02753). What a mirror cannot
give back, the network has forgotten, or holds in a form that this mirror cannot read.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from experiments import cats_dogs_setup as setup
from experiments import commands
from experiments import invert_report as report
from experiments import invert_setup as inversion
from flaxnets import console, data, errors, machine, models, params, train
from flaxnets.data import preprocessing
from flaxnets.models.autoencoder import Unpooling
from flaxnets.train import optimizers, reconstruction

# What `data.load` knows by name; anything else is a folder or zip of photographs.
NAMED = ("auto", "mnist", "fashion_mnist", "digits")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train decoders that give pictures back from a frozen network's activations."""

    data: str | None = None
    """A folder or zip of photographs with a folder a class, by default the lecture's
    cats and dogs; or mnist, fashion_mnist, digits, auto, tfds:NAME or an .npz file, for
    a CNN."""
    backbone: str = "vgg16"
    """The network that is inverted: cnn, or a VGG or SqueezeNet as
    flaxnets.list_models() names it."""
    weights: str = "imagenet"
    """Its weights: a tag of python -m flaxnets.weights, a file, for a cnn the folder of
    a run of experiments.mnist, or none for random ones."""
    endpoint: tuple[str, ...] = ()
    """The activations that are inverted; by default each map that is pooled next, and
    the last one."""
    unpooling: Unpooling = "subpixel"
    """How the decoders enlarge."""
    size: int = 96
    """Pixels of a side of photographs."""
    pictures: int = 2000
    """Pictures to train with, at most."""
    test_pictures: int = 500
    """Held-out pictures to measure with, at most."""
    epochs: int = 20
    """Passes over the pictures, for each decoder."""
    batch_size: int = 16
    """Pictures per step."""
    learning_rate: float = 1e-3
    """The peak of Adam's one-cycle schedule."""
    seed: int = 0
    """Of the decoders, of random weights, and of the choice and order of pictures."""
    out: Path = Path("runs/invert")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out, with the endpoints that are missing."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Trains a decoder for each endpoint, and reports."""
    endpoints = _checked(config)
    device = machine.select_device(config.device)
    dataset, whole, prepare = pictures_of(config)
    shape = dataset.train.images.shape[1:]
    commands.large_enough(dataset)
    data.steps_per_epoch(len(dataset.train.labels), config.batch_size)
    encoder = inversion.encoder_of(
        config.backbone, config.weights, whole, prepare, config.seed
    )
    console.say(
        f"data: {dataset.name}, {len(dataset.train.labels):,} pictures of "
        f"{shape[0]}x{shape[1]} to train with and {len(dataset.test.labels):,} to "
        f"measure with; on {device}"
    )
    before = encoder.fingerprint()
    with train.RunFolder.open(
        config.out,
        described(config, endpoints, dataset, before),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        rows = folder.truncate_metrics() if folder.resumed else []
        for place, name in enumerate(endpoints[len(rows) :], start=len(rows)):
            found, rebuilt = inverted(config, encoder, name, dataset)
            if encoder.fingerprint() != before:
                raise AssertionError(f"the decoder of {name} changed the network")
            report.keep(folder, name, rebuilt)
            row = {"step": place, **found}
            folder.log(row)
            rows.append(row)
            console.say(report.line(row))
        result = {
            "dataset": dataset.name,
            "backbone": config.backbone,
            "weights": config.weights,
            "encoder_sha256": before,
            "image_shape": list(shape),
            "train_pictures": len(dataset.train.labels),
            "test_pictures": len(dataset.test.labels),
            "unpooling": config.unpooling,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "mean_picture": inversion.mean_picture(dataset),
            "table": rows,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        report.write(folder, result, dataset.test.images)
        console.say(f"report: {folder.path('report.html')}")
    return 0


def _checked(config: Config) -> tuple[str, ...]:
    """The endpoints, once what was asked for can be done."""
    commands.at_least_one(config, ("pictures", "test_pictures", "epochs", "batch_size"))
    commands.positive(config, ("learning_rate",))
    commands.seeded(config)
    module = inversion.module_of(config.backbone)
    endpoints = config.endpoint or models.pooling_levels(module)
    if len(set(endpoints)) < len(endpoints):
        raise errors.ArgumentError(
            f"--endpoint names one twice: {' '.join(endpoints)}; name each once"
        )
    for name in endpoints:
        models.decoder_for(module, name, unpooling=config.unpooling)
    return endpoints


class Pictures(NamedTuple):
    """What decoders are trained and measured with.

    Attributes:
        dataset: as many pictures as are asked for.
        whole: the data set that they were drawn from, by which a run is known; of
            photographs only those that were read.
        prepare: what the weights ask for.
    """

    dataset: data.Dataset
    whole: data.Dataset
    prepare: preprocessing.Preprocessing


def pictures_of(config: Config) -> Pictures:
    """Draws the pictures."""
    cnn = config.backbone == inversion.CNN
    name = config.data or ("auto" if cnn else None)
    prepare = setup.preparation(
        config.backbone, "none" if cnn else config.weights, config.size
    )
    limits = config.pictures, config.test_pictures
    parts = []
    if name and (name in NAMED or name.startswith("tfds:") or name.endswith(".npz")):
        whole = data.load(name)
        splits = whole.train, whole.test
        for split, limit in zip(splits, limits, strict=True):
            chosen = commands.drawn(len(split.labels), limit, config.seed)
            parts.append(data.Split(split.images[chosen], split.labels[chosen]))
        dataset = whole._replace(train=parts[0], test=parts[1])
    else:
        path = setup.located(Path(name) if name else None)
        folder = data.image_folder(path, seed=config.seed)
        listings = folder.train, folder.validation
        for listing, limit in zip(listings, limits, strict=True):
            chosen = commands.drawn(len(listing), limit, config.seed)
            some = data.Listing(listing[place] for place in chosen.tolist())
            parts.append(folder.read(some, prepare.cropped).split)
        dataset = data.Dataset(
            path.stem, parts[0], parts[1], folder.class_names, str(path)
        )
        whole = dataset
    channels = dataset.train.images.shape[-1]
    if not cnn and channels != 3:
        raise errors.ArgumentError(
            f"--data {name} has pictures of {channels} channel, but {config.backbone} "
            "takes 3; give photographs, or --backbone cnn"
        )
    return Pictures(dataset, whole, prepare)


def described(
    config: Config, endpoints: tuple[str, ...], dataset: data.Dataset, encoder: str
) -> dict[str, Any]:
    """The stored config."""
    fields = dataclasses.asdict(config)
    for name in ("data", "weights", "out", "resume", "overwrite", "device"):
        del fields[name]
    return {
        "study": "invert",
        **fields,
        "endpoint": list(endpoints),
        "dataset": dataset.name,
        "pictures_sha256": data.fingerprint(dataset),
        "encoder_sha256": encoder,
    }


def inverted(
    config: Config, encoder: inversion.Encoder, endpoint: str, dataset: data.Dataset
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains a decoder; returns a row of the table, and the pictures to be shown."""
    began = time.perf_counter()
    made = inversion.Inversion(
        encoder, endpoint, dataset.train.images, config.unpooling
    )
    seen, held_out = made.seen(dataset.train, dataset.test)
    computed = time.perf_counter() - began
    steps = data.steps_per_epoch(len(seen.labels), config.batch_size)
    optimizer, schedule = optimizers.make(
        "adam",
        learning_rate=config.learning_rate,
        schedule="onecycle",
        total_steps=config.epochs * steps,
    )
    keys = jax.random.split(jax.random.key(config.seed))
    variables = made.drawn(keys[0])
    restorer = train.Restorer(made.apply, batch_size=100, target="original")
    fitted = train.fit(
        train.create(variables, optimizer, key=keys[1]),
        train.make_step(
            reconstruction.reconstruction(made.apply, target="original"), optimizer
        ),
        dataset._replace(train=seen, test=held_out),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        evaluator=restorer,
        learning_rate=schedule,
    )
    commands.whole(fitted)
    _, rebuilt = restorer.predict(
        fitted.state.variables, held_out.images[: report.SHOWN]
    )
    tested = fitted.records[-1]
    return {
        "endpoint": endpoint,
        "code_shape": list(made.code_shape),
        "code_values": int(np.prod(made.code_shape)),
        "parameters": params.count(variables["params"]),
        "psnr": tested["test_psnr"],
        "ssim": tested["test_ssim"],
        "resized": inversion.resized(dataset.test.images, made.map_size),
        "seconds": fitted.train_seconds + computed,
    }, rebuilt


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.invert"))


if __name__ == "__main__":
    console.run(main)
