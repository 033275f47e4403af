"""Transfer learning, whole, on data that anyone has: from digits 0-4 to digits 5-9.

    python -m experiments.transfer_digits
    python -m experiments.transfer_digits --per-class 10 100 --seeds 3

The lecture's network learns to tell five digits apart. Then it is to tell the other
five apart, from few or many labelled pictures, in four ways: its body frozen, its
first two convolutions frozen, nothing frozen, and from scratch.
"""

import dataclasses
import io
import itertools
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments import commands
from flaxnets import console, data, errors, machine, models, params, train, transfer
from flaxnets.report import figures, html
from flaxnets.train import losses, optimizers, progress
from flaxnets.transfer import modes

# The last layer that `partial_fine_tuning` freezes.
UP_TO = "conv2"
CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """Move a network from digits 0-4 to digits 5-9, with few and many pictures."""

    dataset: str = "auto"
    """auto, mnist, digits, an .npz file or an IDX folder: ten classes in any case."""
    per_class: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Labelled pictures of each of the five new digits."""
    seeds: int = 5
    """Draws of pictures and new parameters, for each number of pictures and mode."""
    source_epochs: int = 3
    """Passes over digits 0 to 4."""
    steps: int = 400
    """Steps of each training on digits 5 to 9."""
    batch_size: int = 32
    """Pictures per step; at most as many as there are with the fewest per class."""
    learning_rate: float = 1e-3
    """Adam's."""
    seed: int = 0
    """Of the first network, and of the first draw."""
    out: Path = Path("runs/transfer-digits")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out; the first network is trained again, the same."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Trains the first network, moves it in each way, and reports."""
    _check(config)
    device = machine.select_device(config.device)
    dataset = data.load(config.dataset)
    if len(dataset.class_names) != 2 * CLASSES:
        raise errors.ArgumentError(
            f"--dataset {config.dataset} has {len(dataset.class_names)} classes, but "
            f"{2 * CLASSES} are needed"
        )
    source, target = halves(dataset)
    least = int(np.bincount(target.train.labels).min())
    if least < max(config.per_class):
        raise errors.ArgumentError(
            f"--per-class asks for {max(config.per_class)} pictures, but "
            f"{dataset.name} has only {least} of one of the digits; ask for fewer"
        )
    console.say(f"data: {dataset.name}, {dataset.source}; on {device}")
    with train.RunFolder.open(
        config.out,
        described(config, dataset),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        rows = folder.truncate_metrics() if folder.resumed else []
        began = time.perf_counter()
        backbone, tested = first_network(config, source)
        console.say(f"digits 0 to 4: {tested:.2%} of the test pictures right")
        movers = [Mover(mode, config, backbone, target) for mode in transfer.MODES]
        everything = itertools.product(config.per_class, range(config.seeds))
        for number, (count, draw) in enumerate(everything):
            few = drawn(target.train, count, config.seed + draw)
            for place, mover in enumerate(movers, start=number * len(movers)):
                if place < len(rows):
                    continue
                row = {"step": place, **mover.move(few, count, config.seed + draw)}
                folder.log(row)
                rows.append(row)
            if draw == config.seeds - 1:
                console.say(line(rows, count))
        result = {
            "dataset": dataset.name,
            "source_test_accuracy": tested,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "seeds": config.seeds,
            "table": table(rows),
            "freeze_certificates": {
                row["mode"]: row["freeze_certificate"]
                for row in rows
                if row["freeze_certificate"]
            },
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        write_report(folder, config, result, rows)
        console.say(f"report: {folder.path('report.html')}")
    return 0


def _check(config: Config) -> None:
    commands.at_least_one(config, ("seeds", "source_epochs", "steps", "batch_size"))
    if not config.per_class or min(config.per_class) < 1:
        raise errors.ArgumentError(
            f"--per-class is {config.per_class}, but must be numbers from 1 on"
        )
    if config.batch_size > CLASSES * min(config.per_class):
        raise errors.ArgumentError(
            f"--batch-size is {config.batch_size}, but with {min(config.per_class)} "
            f"per class there are only {CLASSES * min(config.per_class)} pictures"
        )


def described(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """The stored config."""
    fields = dataclasses.asdict(config)
    del fields["out"], fields["resume"], fields["overwrite"], fields["device"]
    return {
        "study": "transfer_digits",
        **fields,
        "dataset": dataset.name,
        "dataset_sha256": data.fingerprint(dataset),
        "per_class": list(config.per_class),
    }


def halves(dataset: data.Dataset) -> tuple[data.Dataset, data.Dataset]:
    """The data set's first five classes, and its other five, numbered from 0."""

    def half(first: int) -> data.Dataset:
        def part(split: data.Split) -> data.Split:
            inside = (split.labels >= first) & (split.labels < first + CLASSES)
            return data.Split(split.images[inside], split.labels[inside] - first)

        names = dataset.class_names[first : first + CLASSES]
        return dataset._replace(
            train=part(dataset.train), test=part(dataset.test), class_names=names
        )

    return half(0), half(CLASSES)


def first_network(config: Config, source: data.Dataset) -> tuple[Any, float]:
    """The body of a network trained on the first five digits, and its accuracy."""
    model = models.CNN(num_classes=CLASSES)
    keys = jax.random.split(jax.random.key(config.seed))
    variables = params.initialize(model, keys[0], (1, *source.train.images.shape[1:]))
    batch = 64
    steps = data.steps_per_epoch(len(source.train.labels), batch)
    optimizer, schedule = optimizers.make(
        "adam",
        learning_rate=config.learning_rate,
        total_steps=steps * config.source_epochs,
    )
    fitted = train.fit(
        train.create(variables, optimizer, key=keys[1]),
        train.make_step(losses.classification(model.apply), optimizer),
        source,
        epochs=config.source_epochs,
        batch_size=batch,
        seed=config.seed,
        evaluator=train.Evaluator(model.apply),
        learning_rate=schedule,
    )
    commands.whole(fitted)
    body = dict(fitted.state.params)
    del body["logits"]
    return jax.device_get(body), fitted.records[-1]["test_accuracy"]


def drawn(split: data.Split, count: int, seed: int) -> data.Split:
    """`count` examples of each class; those of a smaller count are among them."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = [
        generator.permutation(np.flatnonzero(split.labels == index))[:count]
        for index in range(CLASSES)
    ]
    indices = np.concatenate(chosen)
    return data.Split(split.images[indices], split.labels[indices])


class Mover:
    """One way of moving the first network, compiled once for all draws.

    Args:
        mode: one of `transfer.MODES`.
        config: of the study.
        backbone: parameters of the first network's body.
        target: the second five digits.
    """

    def __init__(
        self, mode: modes.Mode, config: Config, backbone: Any, target: data.Dataset
    ) -> None:
        self.mode = mode
        self._config, self._backbone, self._target = config, backbone, target
        shape = target.train.images.shape[1:]
        self._model = models.WithHead(
            models.CNN(num_classes=None), models.Head(CLASSES, hidden=())
        )
        self._shape = (1, *shape)
        up_to = UP_TO if mode == "partial_fine_tuning" else None
        self._plan = transfer.Plan(self._model, shape, mode, up_to=up_to)
        self._optimizer, self._schedule = optimizers.make(
            "adam", learning_rate=config.learning_rate, total_steps=config.steps
        )
        self._step = train.make_step(
            losses.classification(self._plan.apply),
            self._optimizer,
            frozen=self._plan.frozen,
        )
        self._evaluator = train.Evaluator(self._plan.apply)
        self._test: data.Split | None = None

    def move(self, few: data.Split, count: int, seed: int) -> dict[str, Any]:
        """Trains on a few pictures; returns a row of the table."""
        config = self._config
        keys = jax.random.split(jax.random.key(seed))
        variables = params.initialize(self._model, keys[0], self._shape)
        if self.mode != "scratch":
            variables = transfer.transplanted(variables, {"params": self._backbone})
        began = time.perf_counter()
        seen = self._plan.seen(variables, few, batch_size=250)
        features_seconds = time.perf_counter() - began
        if self._test is None:
            # What is frozen is the same in every draw.
            test = self._target.test
            self._test = self._plan.seen(variables, test, batch_size=250)
        # One long epoch: each picture as often as any other, but for a remainder.
        wanted = config.steps * config.batch_size
        repeated = np.resize(np.arange(len(few.labels)), wanted)
        dataset = self._target._replace(
            train=data.Split(seen.images[repeated], seen.labels[repeated]),
            test=self._test,
        )
        state = train.create(
            variables, self._optimizer, key=keys[1], frozen=self._plan.frozen
        )
        before = transfer.fingerprint(state, self._plan.frozen)
        fitted = train.fit(
            state,
            self._step,
            dataset,
            epochs=1,
            batch_size=config.batch_size,
            seed=seed,
            evaluator=self._evaluator,
            learning_rate=self._schedule,
            progress=progress.Progress(1, config.steps, stream=io.StringIO()),
        )
        commands.whole(fitted)
        certificate = None
        if self._plan.frozen:
            certificate = transfer.certificate(
                before, fitted.state, self._plan, self._optimizer
            )
            if not certificate["unchanged"]:
                raise AssertionError(f"{self.mode} changed a frozen parameter")
        return {
            "mode": self.mode,
            "per_class": count,
            "seed": seed,
            "test_accuracy": fitted.records[-1]["test_accuracy"],
            "test_loss": fitted.records[-1]["test_loss"],
            "seconds": fitted.train_seconds + features_seconds,
            "freeze_certificate": certificate,
        }


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the draws, by number of pictures and mode."""
    found = []
    for count in dict.fromkeys(row["per_class"] for row in rows):
        for mode in transfer.MODES:
            of_both = [
                row for row in rows if (row["per_class"], row["mode"]) == (count, mode)
            ]
            accuracies = [row["test_accuracy"] for row in of_both]
            found.append(
                {
                    "per_class": count,
                    "mode": mode,
                    "test_accuracy": float(np.mean(accuracies)),
                    "standard_deviation": float(np.std(accuracies)),
                    "seconds": float(np.median([row["seconds"] for row in of_both])),
                }
            )
    return found


def line(rows: list[dict[str, Any]], count: int) -> str:
    """What one number of pictures gave."""
    parts = [
        f"{row['mode'].replace('_', ' ')} {row['test_accuracy']:.1%} "
        f"({row['seconds']:.1f} s)"
        for row in table(rows)
        if row["per_class"] == count
    ]
    return f"{count:>5} per class: {', '.join(parts)}"


def write_report(
    folder: train.RunFolder,
    config: Config,
    result: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Draws the learning curves, and the page that holds them."""
    accuracies = {
        mode.replace("_", " "): np.array(
            [
                [
                    row["test_accuracy"]
                    for row in rows
                    if (row["mode"], row["per_class"]) == (mode, count)
                ]
                for count in config.per_class
            ]
        ).T
        for mode in transfer.MODES
    }
    path = folder.path("figures/learning_curves.png")
    path.parent.mkdir(exist_ok=True)
    figure = figures.learning_curves(
        config.per_class, accuracies, "From digits 0-4 to digits 5-9"
    )
    figures.save(figure, path)
    heads = ("per class", "mode", "accuracy", "deviation", "seconds")
    cells = [
        (
            f"{row['per_class']:,}",
            row["mode"].replace("_", " "),
            f"{row['test_accuracy']:.2%}",
            f"{row['standard_deviation']:.2%}",
            f"{row['seconds']:.2f}",
        )
        for row in result["table"]
    ]
    text = html.table(heads, cells)
    html.write(
        folder.path("report.html"),
        "Transfer learning from digits 0-4 to digits 5-9",
        summary={
            name: result[name]
            for name in ("dataset", "source_test_accuracy", "steps", "batch_size")
        },
        sections=[
            html.Section(
                "Accuracy by the number of labelled pictures",
                f"Means of {config.seeds} draws, with bands of one standard deviation.",
                path,
            ),
            html.Section(
                "The same in numbers",
                f"Seconds are those of {config.steps} steps, and of the features where "
                "something is frozen; compilation is left out.",
                text,
            ),
        ],
    )


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.transfer_digits"))


if __name__ == "__main__":
    console.run(main)
