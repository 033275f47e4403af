"""What a run of `experiments.gan` leaves: pictures, figures and report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxnets import files, train
from flaxnets.report import figures, html

# Pictures that are kept of each epoch, and epochs that are shown side by side.
SHOWN, COLUMNS = 8, 8


class Made(NamedTuple):
    """What the trained generator makes.

    Attributes:
        images: uint8[N, H, W, C].
        labels: int[N], what the classifier takes each for.
        between: uint8[M, S, H, W, C], from one picture to another in S places.
    """

    images: np.ndarray
    labels: np.ndarray
    between: np.ndarray


def keep(folder: train.RunFolder, epoch: int, made: np.ndarray) -> None:
    """Stores the first of an epoch's pictures uint8[N, H, W, C] for the report."""
    path = _kept(folder, epoch)
    path.parent.mkdir(exist_ok=True)
    with files.replacing(path) as fresh, fresh.open("wb") as file:
        np.save(file, made[:SHOWN])


def _kept(folder: train.RunFolder, epoch: int) -> Path:
    return folder.path(f"pictures/epoch{epoch}.npy")


def line(result: Mapping[str, Any]) -> str:
    """What came out."""
    distances, classes = result["frechet"], result["classes"]
    covered, surely = (
        sum(count > 0 for count in classes[name]) for name in ("counts", "sure_counts")
    )
    return (
        f"Frechet distance {distances['made']:.3f}, of real pictures "
        f"{distances['floor']:.3f} ({distances['times_floor']:.1f} times; with "
        f"{distances['few']['pictures']:,} pictures "
        f"{distances['few']['times_floor']:.1f} times); {covered} of "
        f"{len(classes['counts'])} classes among {classes['pictures']:,}, {surely} of "
        "them surely"
    )


def write(
    folder: train.RunFolder,
    result: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    made: Made,
    class_names: Sequence[str],
) -> None:
    """Draws the figures, and the page that holds them.

    Args:
        folder: of the run.
        result: as it is stored.
        records: of the epochs.
        made: the last pictures.
        class_names: of the classifier's classes.
    """
    folder.path("figures").mkdir(exist_ok=True)
    distances, classes = result["frechet"], result["classes"]
    paths = {
        name: folder.path(f"figures/{name}.png")
        for name in ("samples", "over_time", "between", "distance", "losses")
    }
    figures.save(
        figures.samples(made.images, made.labels, class_names, "Made pictures"),
        paths["samples"],
    )
    few = distances["few"]["pictures"]
    last = records[-1]["epoch"]
    epochs = np.unique(np.rint(np.geomspace(1, last, COLUMNS)).astype(int)).tolist()
    columns = {f"epoch {epoch}": np.load(_kept(folder, epoch)) for epoch in epochs}
    title = "The same random numbers over time"
    figures.save(figures.side_by_side(columns, title), paths["over_time"])
    shares = np.linspace(0, 1, made.between.shape[1])
    columns = {
        f"{share:.0%}": made.between[:, place] for place, share in enumerate(shares)
    }
    title = "From one picture to another"
    figures.save(figures.side_by_side(columns, title), paths["between"])
    numbers = [record["epoch"] for record in records]
    figures.save(
        figures.over_epochs(
            numbers,
            {
                "made": [record["test_frechet"] for record in records],
                "real": [distances["floor"]] * len(records),
            },
            "Frechet distance from the test pictures",
            f"{distances['pictures']:,} made pictures; real: as many training pictures",
        ),
        paths["distance"],
    )
    figures.save(
        figures.over_epochs(
            numbers,
            {
                "discriminator": [record["train_loss"] for record in records],
                "generator": [record["train_generator_loss"] for record in records],
            },
            "Two opposite losses",
            "means of an epoch's steps; the discriminator's of real and made pictures",
        ),
        paths["losses"],
    )
    html.write(
        folder.path("report.html"),
        f"Pictures from random numbers, as in {result['dataset']}",
        summary={
            name: result[name]
            for name in (
                "dataset",
                "epochs",
                "steps",
                "batch_size",
                "latent",
                "classifier_accuracy",
                "train_seconds",
            )
        },
        sections=[
            html.Section(
                "Distance",
                "Frechet distance in the last features of a classifier that gets "
                f"{result['classifier_accuracy']:.2%} of the test pictures right; it "
                "is no number to be compared with those of other networks. It grows "
                "as pictures get fewer, so each is beside that of as many real "
                "pictures: of training pictures from test pictures, and of one half of "
                "the test pictures from the other.",
                html.table(
                    ("from", "pictures", "made", "real", "made over real"),
                    [
                        _cells("the test pictures", distances),
                        _cells("half of them", distances["halves"]),
                        _cells(f"{few:,} of them", distances["few"]),
                    ],
                ),
            ),
            html.Section(
                "Classes",
                f"Of {classes['pictures']:,} made pictures by the classifier, which "
                "finds a class in anything; so beside it those of which it is sure. "
                f"{classes['covered']:.0%} of the classes are covered, "
                f"{classes['covered_surely']:.0%} surely.",
                html.table(
                    ("class", "pictures", "surely"),
                    [
                        (name, f"{count:,}", f"{sure:,}")
                        for name, count, sure in zip(
                            class_names,
                            classes["counts"],
                            classes["sure_counts"],
                            strict=True,
                        )
                    ],
                ),
            ),
            html.Section(
                "What it makes",
                "The first pictures that the classifier takes for each class; not "
                "chosen otherwise.",
                paths["samples"],
            ),
            html.Section(
                "Over time", "A row is made of the same numbers.", paths["over_time"]
            ),
            html.Section(
                "Between two pictures",
                "The left and right columns are made of numbers drawn at random, those "
                "between of what lies between the numbers: each could itself have been "
                "drawn.",
                paths["between"],
            ),
            html.Section("Distance over time", "", paths["distance"]),
            html.Section(
                "The game",
                "Where the discriminator cannot tell them apart, its loss is "
                f"{2 * np.log(2):.2f} and the generator's {np.log(2):.2f}.",
                paths["losses"],
            ),
        ],
    )


def _cells(name: str, distances: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{distances['pictures']:,}",
        f"{distances['made']:.3f}",
        f"{distances['floor']:.3f}",
        f"{distances['times_floor']:.2f}",
    )
