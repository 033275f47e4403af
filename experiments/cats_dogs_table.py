"""Four modes of transfer, with few and with many pictures: a table and a figure.

python -m experiments.cats_dogs table --weights squeezenet_v1_caffe.npz
"""

import dataclasses
import io
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments import cats_dogs_setup as setup
from experiments import commands
from flaxnets import console, data, machine, train, transfer
from flaxnets.report import figures, html
from flaxnets.train import losses, metrics, optimizers, progress
from flaxnets.transfer.modes import Mode


@dataclasses.dataclass(frozen=True)
class Config:
    """Transfer to photographs in four modes, with few and with many of them."""

    data: Path | None = None
    """A folder or zip with a folder of pictures a class; by default the lecture's cats
    and dogs, downloaded once."""
    backbone: str = "squeezenet_caffe"
    """The network whose body is used, as flaxnets.list_models() names it."""
    weights: str = "imagenet"
    """Its weights: a tag of python -m flaxnets.weights, or a file."""
    mode: tuple[Mode, ...] = transfer.MODES
    """Which modes."""
    per_class: tuple[int, ...] = (10, 50, 200, 1000)
    """Numbers of training pictures of each class."""
    draws: int = 5
    """Draws of pictures for feature extraction and partial fine-tuning."""
    whole_draws: int = 1
    """Draws for fine-tuning and scratch, which train the whole network."""
    least_steps: int = 150
    """As many epochs as the mode's recipe says, but at least so many steps."""
    whole_steps: int = 160
    """The most steps of those two."""
    batch_size: int = 32
    """Pictures per step, or all where there are fewer."""
    features: Path = dataclasses.field(default_factory=setup.default_features)
    """The folder in which features are kept."""
    seed: int = 0
    """Of the first draw."""
    out: Path = Path("runs/cats-dogs-table")
    """The run folder."""
    resume: bool = False
    """Go on with the table in --out."""
    overwrite: bool = False
    """Replace the table in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Trains row after row, and reports."""
    counts = ("draws", "whole_draws", "least_steps", "whole_steps", "batch_size")
    commands.at_least_one(config, counts)
    device = machine.select_device(config.device)
    folder = data.image_folder(setup.located(config.data))
    for count in config.per_class:
        setup.few(folder.train.labels, count, config.seed)
    prepare = setup.preparation(config.backbone, config.weights)
    pictures = {
        name: data.Pictures(folder, listing, prepare.cropped)
        for name, listing in (("train", folder.train), ("test", folder.validation))
    }
    described = {
        "study": "cats_dogs_table",
        **{
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name
            not in ("data", "features", "out", "resume", "overwrite", "device")
        },
        "pictures_sha256": [part.fingerprint() for part in pictures.values()],
    }
    pretrained = setup.body(config.backbone, config.weights)
    with train.RunFolder.open(
        config.out, described, resume=config.resume, overwrite=config.overwrite
    ) as run_folder:
        done = run_folder.truncate_metrics(1 << 30) if run_folder.resumed else []
        rows = list(done)
        mover = None
        for number, (mode, count, draw) in enumerate(_rows(config)):
            if number < len(done):
                continue
            if mover is None or mover.mode != mode:
                mover = Mover(mode, config, folder, prepare, pretrained, pictures)
            row = {"step": number, **mover.move(count, config.seed + draw)}
            run_folder.log(row)
            rows.append(row)
            console.say(
                f"{mode.replace('_', ' '):20} {count:>5} per class: "
                f"{row['test_accuracy']:.1%} ({row['seconds']:.0f} s)"
            )
        result = {
            "backbone": config.backbone,
            "weights": config.weights,
            "table": table(rows),
            "test_pictures": len(folder.validation),
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        run_folder.write_json("result.json", result)
        write_report(run_folder, config, result, rows)
    return 0


def _rows(config: Config) -> Sequence[tuple[Mode, int, int]]:
    """Mode, pictures a class and draw of each row, in order."""
    found = []
    for mode, count in itertools.product(config.mode, config.per_class):
        whole = mode in ("fine_tuning", "scratch")
        draws = config.whole_draws if whole else config.draws
        found += [(mode, count, draw) for draw in range(draws)]
    return found


class Mover:
    """One mode, compiled once for all draws.

    Args:
        mode: one of `transfer.MODES`.
        config: of the table.
        folder: of pictures.
        prepare: what the weights ask for.
        pretrained: variables of the body.
        pictures: `train` and `test`.
    """

    def __init__(
        self,
        mode: Mode,
        config: Config,
        folder: data.ImageFolder,
        prepare: Any,
        pretrained: Mapping[str, Any] | None,
        pictures: Mapping[str, data.Pictures],
    ) -> None:
        self.mode: Mode = mode
        self._config, self._folder = config, folder
        self._pretrained = None if mode == "scratch" else pretrained
        self._shape = setup.image_shape(prepare)
        self._model = setup.network(
            config.backbone, "linear", prepare, len(folder.class_names)
        )
        up_to = None
        if mode == "partial_fine_tuning":
            up_to = setup.last_frozen(self._model, self._shape)
        self._plan = transfer.Plan(self._model, self._shape, mode, up_to=up_to)
        self._evaluator = train.Evaluator(self._plan.apply, batch_size=100)
        began = time.perf_counter()
        variables = setup.drawn(
            self._model, self._shape, jax.random.key(config.seed), self._pretrained
        )
        if self._plan.boundary is None:
            self._seen = {
                name: setup.in_memory(part.split(), 2 << 30)
                for name, part in pictures.items()
            }
        else:
            # What is frozen is the same in every draw.
            self._seen = {
                name: self._plan.seen(variables, part.split(), folder=config.features)
                for name, part in pictures.items()
            }
        self._features_seconds = time.perf_counter() - began

    def move(self, count: int, seed: int) -> dict[str, Any]:
        """Trains on a few pictures; returns a row of the table."""
        config = self._config
        seen = self._seen["train"]
        chosen = setup.few(seen.labels, count, seed)
        few = data.Split(np.asarray(seen.images[chosen]), seen.labels[chosen])
        batch = min(config.batch_size, len(chosen))
        recipe = setup.RECIPES[self.mode]
        per_epoch = data.steps_per_epoch(len(chosen), batch)
        # With a handful of pictures an epoch is a step or two.
        epochs = max(recipe.epochs, math.ceil(config.least_steps / per_epoch))
        if self._plan.boundary is None:
            epochs = max(1, min(epochs, config.whole_steps // per_epoch))
        optimizer, schedule = optimizers.make(
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            schedule=recipe.schedule,
            total_steps=epochs * per_epoch,
            momentum=recipe.momentum,
        )
        keys = jax.random.split(jax.random.key(seed))
        variables = setup.drawn(self._model, self._shape, keys[0], self._pretrained)
        state = train.create(
            variables, optimizer, key=keys[1], frozen=self._plan.frozen
        )
        step = train.make_step(
            losses.classification(self._plan.apply),
            optimizer,
            frozen=self._plan.frozen,
        )
        test = self._seen["test"]
        # What is looked at after each epoch is of no use here, so it is one batch.
        glance = data.Split(few.images[:batch], few.labels[:batch])
        fitted = train.fit(
            state,
            step,
            data.Dataset("pictures", few, glance, self._folder.class_names, ""),
            epochs=epochs,
            batch_size=batch,
            seed=seed,
            evaluator=train.Evaluator(self._plan.apply, batch_size=batch),
            learning_rate=schedule,
            progress=progress.Progress(epochs, per_epoch, stream=io.StringIO()),
        )
        commands.whole(fitted)
        logits = self._evaluator.predict(fitted.state.variables, test.images)
        correct = int((logits.argmax(axis=1) == test.labels).sum())
        return {
            "mode": self.mode,
            "per_class": count,
            "seed": seed,
            "epochs": epochs,
            "test_accuracy": correct / len(test.labels),
            "interval": metrics.accuracy_interval(correct, len(test.labels)),
            "seconds": fitted.train_seconds,
            "features_seconds": self._features_seconds,
        }


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the draws, by mode and number of pictures."""
    found = []
    for mode, count in dict.fromkeys((row["mode"], row["per_class"]) for row in rows):
        same = [row for row in rows if (row["mode"], row["per_class"]) == (mode, count)]
        accuracies = [row["test_accuracy"] for row in same]
        found.append(
            {
                "mode": mode,
                "per_class": count,
                "draws": len(same),
                "test_accuracy": float(np.mean(accuracies)),
                "standard_deviation": float(np.std(accuracies)),
                "seconds": float(np.median([row["seconds"] for row in same])),
            }
        )
    return found


def write_report(
    folder: train.RunFolder,
    config: Config,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the learning curves, and the page that holds them."""
    accuracies = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        of_counts = [
            [
                row["test_accuracy"]
                for row in rows
                if (row["mode"], row["per_class"]) == (mode, count)
            ]
            for count in config.per_class
        ]
        accuracies[mode.replace("_", " ")] = np.array(of_counts).T
    path = folder.path("figures/learning_curves.png")
    path.parent.mkdir(exist_ok=True)
    title = f"{config.backbone} on {result['test_pictures']:,} test pictures"
    figures.save(figures.learning_curves(config.per_class, accuracies, title), path)
    heads = ("mode", "per class", "draws", "accuracy", "deviation", "seconds")
    cells = [
        (
            row["mode"].replace("_", " "),
            f"{row['per_class']:,}",
            f"{row['draws']}",
            f"{row['test_accuracy']:.2%}",
            # One draw has none.
            f"{row['standard_deviation']:.2%}" if row["draws"] > 1 else "-",
            f"{row['seconds']:.1f}",
        )
        for row in result["table"]
    ]
    text = html.table(heads, cells)
    console.say(text)
    html.write(
        folder.path("report.html"),
        "Transfer with few and with many pictures",
        summary={
            "backbone": result["backbone"],
            "weights": Path(result["weights"]).name,
        },
        sections=[
            html.Section(
                "Accuracy by the number of training pictures",
                "Means over the draws, with bands of one standard deviation.",
                path,
            ),
            html.Section(
                "The same in numbers",
                "Seconds are those of the steps; compilation and the one pass that "
                "computes stored features are left out.",
                text,
            ),
        ],
    )
    console.say(f"report: {folder.path('report.html')}")


def main(arguments: Sequence[str]) -> int:
    """The command line, after `table`."""
    prog = "python -m experiments.cats_dogs table"
    return run(tyro.cli(Config, args=arguments, prog=prog))
