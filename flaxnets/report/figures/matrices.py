"""The confusion matrix."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# With more classes than this, counts no longer fit the cells.
MOST_COUNTS = 30


@drawing.styled
def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """A confusion matrix: counts in the cells, errors by colour, recall at the right.

    Args:
        matrix: int[K, K], row = true class, column = predicted class.
        class_names: K names.
    """
    count = len(class_names)
    cell = np.clip(6.5 / count, 0.11, 0.5 if count > 6 else 3.0 / count)
    size = min(9.0, 72 * cell * 0.5)
    names = [drawing.shortened(name, 20) for name in class_names]
    side = cell * count
    wrong = f"{matrix.sum() - np.trace(matrix):,} of {matrix.sum():,}"
    # The matrix takes what height there is; the colour bar's, where there is none,
    # would leave no room beside it.
    figure = drawing.figure(
        side + 3.2 + 0.07 * max(map(len, names)),
        side + (1.7 if count > 2 else 0.9) + 0.07 * max(map(len, names)),
        f"What is taken for what: {wrong} wrong",
    )
    axes = figure.add_subplot()
    # A digit is about 0.6 of the font's size wide.
    digits = len(str(matrix.max()))
    _cells(figure, axes, matrix, min(size, 72 * cell * 0.9 / (0.6 * digits)))
    axes.set_xticks(
        range(count), names, rotation=90 if max(map(len, names)) > 3 else 0, size=size
    )
    axes.set_yticks(range(count), names, size=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    # A character is about 0.085 inches wide.
    axes.set_title(_commonest(matrix, names, int(side / 0.085)))
    # Drawn in the matrix's own coordinates, so that the rows stay in line with it.
    beside = axes.inset_axes((1 + 0.4 / side, 0, 1.2 / side, 1), sharey=axes)
    _recalls(beside, matrix, size)
    return figure


def _cells(figure: "Figure", axes: "Axes", matrix: np.ndarray, size: float) -> None:
    """Colours errors by their share of the true class, and writes the counts."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    right = np.eye(len(matrix), dtype=bool)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    highest = max(float(shares[~right].max(initial=0)), 1e-3)
    # The square root: a pair confused once must still differ from one never confused.
    norm = PowerNorm(0.5, vmin=0, vmax=highest)
    shown = axes.imshow(
        np.where(right, np.nan, shares), cmap="Oranges", norm=norm, aspect="equal"
    )
    axes.set_facecolor("#e4e4e4")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    # Two classes have two kinds of error: their counts say it all.
    if len(matrix) > 2:
        figure.colorbar(
            shown,
            ax=axes,
            location="bottom",
            label="share of the true class",
            ticks=[0, highest / 4, highest],
            format=PercentFormatter(1.0, decimals=2),
            shrink=0.8,
            aspect=40,
        )
    if len(matrix) > MOST_COUNTS:
        return
    for row, column in zip(*np.nonzero(matrix), strict=True):
        on_dark = row != column and norm(shares[row, column]) > 0.6
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            size=size,
            color="white" if on_dark else "black",
            horizontalalignment="center",
            verticalalignment="center",
        )


def _commonest(matrix: np.ndarray, names: Sequence[str], length: int) -> str:
    """The most frequent errors in words, as many of the first three as fit."""
    errors = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    text = ""
    for index in np.argsort(-errors, axis=None, kind="stable")[:3]:
        row, column = np.unravel_index(index, matrix.shape)
        pair = f"{names[row]} as {names[column]} ({errors[row, column]})"
        longer = f"{text}, {pair}" if text else f"Most often {pair}"
        if errors[row, column] == 0 or len(longer) > length:
            break
        text = longer
    return text


def _recalls(axes: "Axes", matrix: np.ndarray, size: float) -> None:
    """The share of each true class that is found, a dot and a number a row."""
    totals = matrix.sum(axis=1)
    recalls = np.diag(matrix) / np.maximum(totals, 1)
    present = totals > 0
    rows = np.arange(len(matrix))
    axes.plot(recalls[present], rows[present], "o", color=drawing.BLUE, markersize=4)
    for row, recall in enumerate(recalls):
        axes.text(
            1.08,
            row,
            f"{recall:.1%}" if present[row] else "–",
            transform=axes.get_yaxis_transform(),
            size=size,
            verticalalignment="center",
        )
    axes.set_title("Found (recall)")
    axes.tick_params(axis="y", left=False, labelleft=False)
    lowest = max(math.floor(100 * recalls[present].min(initial=0.99) - 0.5), 0) / 100
    axes.set_xlim(lowest, 1.0)
    axes.set_xticks([lowest, 1.0], [f"{lowest:.0%}", "100%"], size=8)
    axes.grid(axis="x")
