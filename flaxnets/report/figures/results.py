"""What a classifier was given, how it learned, and where it errs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more classes than this, a row of examples for each would be a poster.
MOST_ROWS = 12


@drawing.styled
def samples(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str = "Some of the data",
) -> "Figure":
    """The first images of each class: a row a class, or one image of each of many.

    Args:
        images: uint8[N, H, W, C], or floats from 0 to 1.
        labels: int[N].
        class_names: names that labels index.
        title: of the figure.
    """
    several = len(class_names) <= MOST_ROWS
    columns = 10
    found = [np.flatnonzero(labels == index) for index in range(len(class_names))]
    height, width = images.shape[1:3]
    tiles = np.ones((len(found), columns if several else 1, height, width, 3))
    for tile, indices in zip(tiles, found, strict=True):
        chosen = indices[: tile.shape[0]]
        tile[: len(chosen)] = drawing.picture(images[chosen])
    tiles = tiles.reshape(-1, height, width, 3)
    gap, below = max(1, height // 12), 0 if several else round(0.3 * height)
    laid = drawing.mosaic(tiles, columns, gap=gap, below=below, empty=1.0)
    figure = drawing.figure(8, 7.0 * laid.shape[0] / laid.shape[1] + 0.8, title)
    axes = figure.add_subplot()
    axes.imshow(laid, vmin=0, vmax=1)
    axes.set_title(f"{len(images):,} images of {len(found)} classes")
    drawing.bare(axes)
    if several:
        rows = height / 2 - 0.5 + (height + gap) * np.arange(len(found))
        axes.set_yticks(
            rows,
            [
                f"{drawing.shortened(name, 20)}  ({len(indices):,})"
                for name, indices in zip(class_names, found, strict=True)
            ],
        )
        axes.tick_params(length=0)
    else:
        texts = [drawing.shortened(name, 12) for name in class_names]
        drawing.captions(
            axes, texts, (height, width), columns, gap=gap, below=below, size=6
        )
    return figure


@drawing.styled
def curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss and accuracy against epochs, for training and test data.

    Args:
        records: one mapping an epoch, with `epoch`, `train_loss`, `train_accuracy`,
            `test_loss` and `test_accuracy`; a value that is not finite leaves a gap.
    """
    figure = drawing.figure(10, 4, "Loss and accuracy")
    epochs = np.array([record["epoch"] for record in records])
    for place, name in enumerate(("loss", "accuracy"), start=1):
        axes = figure.add_subplot(1, 2, place)
        series = {
            split: np.array([record[f"{split}_{name}"] for record in records], float)
            for split in ("train", "test")
        }
        text = "{:.2%}" if name == "accuracy" else "{:.4f}"
        drawing.lines_over_epochs(
            axes, epochs, series, text, (drawing.VERMILION, drawing.BLUE)
        )
        axes.set(xlabel="epoch", title=_extreme(epochs, series["test"], name))
        if name == "accuracy":
            axes.yaxis.set_major_formatter(drawing.percent())
    return figure


@drawing.styled
def over_epochs(
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    title: str,
    note: str,
) -> "Figure":
    """Measures against epochs, each named at its end with its last value.

    Args:
        epochs: ascending.
        series: one value an epoch, by the measures' names; None, or a value that is not
            finite, leaves a gap. Above zero and over more than a decade, the axis is
            logarithmic.
        title: of the figure.
        note: a sentence below it.
    """
    figure = drawing.figure(8, 4.5, title)
    axes = figure.add_subplot()
    values = {name: np.array(found, float) for name, found in series.items()}
    drawing.lines_over_epochs(axes, np.array(epochs), values, "{:.4g}", drawing.COLOURS)
    axes.set(xlabel="epoch", title=note)
    return figure


@drawing.styled
def learning_curves(
    counts: Sequence[int],
    accuracies: Mapping[str, np.ndarray],
    title: str,
    *,
    xlabel: str = "labelled pictures per class",
) -> "Figure":
    """Accuracy against the number of examples, a line a way of training.

    Args:
        counts: examples, ascending.
        accuracies: by name, f64[draws, len(counts)]; the line is their mean, the band
            one standard deviation to either side.
        title: of the figure.
        xlabel: what is counted.
    """
    from matplotlib.ticker import NullLocator

    figure = drawing.figure(8, 5, title)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    highest = max(float(values[:, -1].mean()) for values in accuracies.values())
    lowest = min(float(values.min()) for values in accuracies.values())
    ends = []
    for place, (name, values) in enumerate(accuracies.items()):
        mean, spread = values.mean(axis=0), values.std(axis=0)
        colour = drawing.COLOURS[place % len(drawing.COLOURS)]
        axes.plot(counts, mean, marker="o", markersize=4, color=colour)
        axes.fill_between(
            counts, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0
        )
        ends.append((float(mean[-1]), f"{name} {mean[-1]:.1%}", colour))
    drawing.name_lines(axes, counts[-1], ends, 0.06 * (highest - lowest or 1.0))
    axes.yaxis.set_major_formatter(drawing.percent())
    axes.set(xlabel=xlabel, title="test accuracy: mean and standard deviation")
    return figure


def _extreme(epochs: np.ndarray, values: np.ndarray, name: str) -> str:
    """A panel's title: what it shows, and the best test value with its epoch."""
    if not np.isfinite(values).any():
        return name.capitalize()
    if name == "accuracy":
        best, text = int(np.nanargmax(values)), "{:.2%}"
    else:
        best, text = int(np.nanargmin(values)), "{:.4f}"
    shown = text.format(values[best])
    return f"{name.capitalize()}: best on test data {shown}, epoch {epochs[best]}"


@drawing.styled
def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    count: int = 24,
) -> "Figure":
    """The mistakes whose true class was given the least probability, worst first.

    Where nothing is mistaken, the examples that came closest to it are shown.

    Args:
        images: uint8[N, H, W, C], or floats from 0 to 1.
        labels: int[N].
        probabilities: f[N, K].
        class_names: K names.
        count: how many at most.
    """
    predicted = probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    among = wrong if wrong.size else np.arange(len(labels))
    worst = among[np.argsort(own[among], kind="stable")][:count]
    texts = [
        f"true: {drawing.shortened(class_names[int(true)], 12)} ({own[index]:.1%})\n"
        f"read: {drawing.shortened(class_names[int(seen)], 12)}"
        f" ({probabilities[index, seen]:.1%})"
        for index, true, seen in zip(
            worst, labels[worst], predicted[worst], strict=True
        )
    ]
    height, width = images.shape[1:3]
    columns = 6 if any(len(name) > 4 for name in class_names) else 8
    gap, below = round(0.3 * width), round(0.3 * height)
    laid = drawing.mosaic(
        drawing.picture(images[worst]), columns, gap=gap, below=below, empty=1.0
    )
    title = "The worst mistakes" if wrong.size else "No mistakes"
    figure = drawing.figure(11, 10.8 * laid.shape[0] / laid.shape[1] + 0.9, title)
    axes = figure.add_subplot()
    axes.imshow(laid, vmin=0, vmax=1)
    drawing.bare(axes)
    drawing.captions(
        axes, texts, (height, width), columns, gap=gap, below=below, size=8
    )
    shown = f"{len(wrong):,} of {len(labels):,} examples are mistaken"
    if not wrong.size:
        shown = f"of {len(labels):,} examples, these came closest to one"
    axes.set_title(f"{shown}. In brackets: the probability given to the class")
    return figure


@drawing.styled
def intervals(
    names: Sequence[str],
    values: Sequence[float],
    bounds: Sequence[Sequence[float]],
    title: str,
) -> "Figure":
    """Shares with their intervals, a line each, from the top down.

    Args:
        names: of the lines.
        values: shares from 0 to 1.
        bounds: lower and upper end of each interval.
        title: of the figure.
    """
    figure = drawing.figure(8, 1.2 + 0.55 * len(names), title)
    axes = figure.add_subplot()
    axes.grid(axis="x")
    for place, (value, (low, high)) in enumerate(zip(values, bounds, strict=True)):
        colour = drawing.COLOURS[place % len(drawing.COLOURS)]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour)
        axes.annotate(
            f"{value:.1%}",
            (value, place),
            textcoords="offset points",
            xytext=(0, 7),
            horizontalalignment="center",
            color=colour,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.xaxis.set_major_formatter(drawing.percent())
    return figure
