"""Figures of a classifier's run: functions of arrays that return a figure.

They use matplotlib's objects only, never pyplot, so they need no display and leave no
global state behind.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), told apart with any colour vision.
BLUE, ORANGE = "#0072B2", "#D55E00"


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=150)


def samples(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    rows: int = 4,
    columns: int = 10,
) -> "Figure":
    """The first images of a data set with their labels.

    Args:
        images: uint8[N, H, W, C].
        labels: int[N].
        class_names: names that labels index.
        rows, columns: of the grid.
    """
    figure, axes = _grid(rows, columns, "The first training examples")
    for axis, image, label in zip(axes, images, labels, strict=False):
        _image(axis, image, class_names[int(label)])
    return figure


def curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss and accuracy against epochs, for training and test data."""
    figure = _figure(9, 3.6)
    for place, (name, title) in enumerate(
        (("loss", "Loss"), ("accuracy", "Accuracy")), start=1
    ):
        axis = figure.add_subplot(1, 2, place)
        epochs = [record["epoch"] for record in records]
        for split, colour in (("train", ORANGE), ("test", BLUE)):
            values = [record[f"{split}_{name}"] for record in records]
            last = f"{values[-1]:.2%}" if name == "accuracy" else f"{values[-1]:.4f}"
            axis.plot(
                epochs, values, "o-", color=colour, ms=4, label=f"{split}, last {last}"
            )
        axis.set(xlabel="epoch", title=title)
        axis.xaxis.set_major_locator(_whole_numbers())
        if name == "accuracy":
            axis.yaxis.set_major_formatter(_percent())
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """A confusion matrix: counts in the cells, errors by colour, recall at the right.

    Args:
        matrix: int[K, K], row = true class, column = predicted class.
        class_names: K names.
    """
    count = len(class_names)
    side = max(4.5, 0.5 * count + 2)
    figure = _figure(side + 1, side)
    axis = figure.add_subplot()
    totals = matrix.sum(axis=1)
    errors = matrix.astype(float)
    np.fill_diagonal(errors, np.nan)
    shown = axis.imshow(errors, cmap="Oranges", vmin=0)
    axis.set_facecolor("#eeeeee")
    figure.colorbar(shown, ax=axis, label="wrong predictions", shrink=0.8)
    if count <= 30:
        dark = np.nanmax(errors, initial=1) * 0.6
        for row, column in np.ndindex(matrix.shape):
            if number := matrix[row, column]:
                wrong = row != column and number > dark
                axis.text(
                    column,
                    row,
                    f"{number}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if wrong else "black",
                )
    recalls = np.diag(matrix) / np.maximum(totals, 1)
    labels = [
        f"{name}  ({recall:.1%})"
        for name, recall in zip(class_names, recalls, strict=True)
    ]
    axis.set_xticks(range(count), class_names, rotation=0 if count <= 10 else 90)
    axis.set_yticks(range(count), labels)
    if max(map(len, class_names)) > 3:
        axis.tick_params(axis="x", rotation=45)
    axis.set(xlabel="predicted", ylabel="true class (share found)")
    wrong = int(matrix.sum() - np.trace(matrix))
    axis.set_title(f"{wrong:,} of {int(matrix.sum()):,} wrong")
    return figure


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    count: int = 24,
) -> "Figure":
    """The examples whose true class was given the least probability, worst first.

    Args:
        images: uint8[N, H, W, C].
        labels: int[N].
        probabilities: f[N, K].
        class_names: K names.
        count: how many at most.
    """
    predicted = probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(own[wrong], kind="stable")][:count]
    rows = max(1, math.ceil(len(worst) / 8))
    title = f"The worst of {len(wrong):,} mistakes: true class, then what was seen"
    if len(wrong) == 0:
        title = "No mistakes"
    figure, axes = _grid(rows, 8, title, height=1.55)
    for axis, index in zip(axes, worst, strict=False):
        true, seen = int(labels[index]), int(predicted[index])
        text = (
            f"{class_names[true]} ({own[index]:.1%})\n"
            f"{class_names[seen]} ({probabilities[index, seen]:.1%})"
        )
        _image(axis, images[index], text)
    return figure


def kernels(kernel: np.ndarray) -> "Figure":
    """A convolution's kernels, one tile each; blue is negative, red positive.

    Args:
        kernel: f[h, w, input channels, kernels]; the mean over the input channels is
            shown where there are several.
    """
    tiles = kernel.mean(axis=2)
    limit = np.abs(tiles).max()
    columns = min(8, tiles.shape[-1])
    rows = math.ceil(tiles.shape[-1] / columns)
    figure, axes = _grid(rows, columns, f"{tiles.shape[-1]} kernels")
    for axis, index in zip(axes, range(tiles.shape[-1]), strict=False):
        axis.imshow(tiles[..., index], cmap="RdBu_r", vmin=-limit, vmax=limit)
    return figure


def feature_maps(
    image: np.ndarray, endpoints: Mapping[str, np.ndarray], *, maps: int = 16
) -> "Figure":
    """What each layer makes of one picture, a row a layer.

    Args:
        image: uint8[H, W, C].
        endpoints: activations by name, f[1, H, W, C] or f[1, D], in order.
        maps: channels shown of each map.
    """
    rows = [(name, value[0]) for name, value in endpoints.items()]
    figure = _figure(11, 0.95 * (len(rows) + 1))
    grid = figure.add_gridspec(len(rows) + 1, maps + 1)
    _image(figure.add_subplot(grid[0, 1]), image, "")
    _row_name(figure.add_subplot(grid[0, 0]), "input", image.shape)
    for row, (name, value) in enumerate(rows, start=1):
        _row_name(figure.add_subplot(grid[row, 0]), name, value.shape)
        if value.ndim == 1:
            axis = figure.add_subplot(grid[row, 1:])
            width = 1.0 if len(value) > 40 else 0.8
            axis.bar(range(len(value)), value, width=width, color=BLUE)
            axis.set_yticks([])
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(labelsize=7)
            axis.margins(x=0.005)
            if len(value) <= 20:
                axis.set_xticks(range(len(value)))
            continue
        limit = max(float(value.max()), 1e-6)
        for channel in range(min(maps, value.shape[-1])):
            axis = figure.add_subplot(grid[row, channel + 1])
            axis.imshow(value[..., channel], cmap="viridis", vmin=0, vmax=limit)
            axis.set_axis_off()
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _grid(
    rows: int, columns: int, title: str, *, height: float = 1.25
) -> tuple["Figure", list["Axes"]]:
    """Tiles without axes, row by row."""
    figure = _figure(1.1 * columns, height * rows + 0.5)
    figure.suptitle(title)
    axes = [
        figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)
    ]
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _image(axis: "Axes", image: np.ndarray, title: str) -> None:
    axis.set_axis_off()
    if image.shape[-1] == 1:
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axis.imshow(image[..., :3])
    axis.set_title(title, fontsize=8)


def _row_name(axis: "Axes", name: str, shape: Sequence[int]) -> None:
    axis.set_axis_off()
    size = " x ".join(map(str, shape))
    axis.text(0, 0.5, f"{name}\n{size}", va="center", fontsize=8)


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=1)
