"""What all figures share: one look, and pictures laid out as tiles.

Only matplotlib's objects are used, never pyplot: no display is needed, and neither the
caller's settings nor any other global state is changed.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from flaxnets import errors, files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), told apart with any colour vision.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
COLOURS = (BLUE, "#E69F00", "#009E73", VERMILION, "#CC79A7", "#56B4E9")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#888888",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": GREY,
    "figure.titlesize": 14,
    "figure.titleweight": "bold",
    "grid.color": "#dddddd",
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes a function draw in STYLE, whatever the caller's matplotlib settings are."""

    @functools.wraps(draw)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        import matplotlib.style

        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return inside


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG, 150 pixels an inch, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    with files.replacing(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")


def figure(width: float, height: float, title: str) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, x=0.01, horizontalalignment="left")
    return made


def picture(images: np.ndarray) -> np.ndarray:
    """Pictures as matplotlib shows them, f64[..., H, W, 3] from 0 to 1.

    Args:
        images: uint8 (0 to 255) or floats (0 to 1), [..., H, W, C].

    Raises:
        ArgumentError: C is neither 1 nor 3.
    """
    if images.shape[-1] not in (1, 3):
        raise errors.ArgumentError(
            f"images have {images.shape[-1]} channels, but only 1 (grey) or 3 (red, "
            "green, blue) can be drawn"
        )
    values = images / 255 if images.dtype == np.uint8 else np.clip(images, 0, 1)
    return np.broadcast_to(values, (*images.shape[:-1], 3))


def mosaic(
    tiles: np.ndarray, columns: int, *, gap: int, below: int = 0, empty: float = np.nan
) -> np.ndarray:
    """Lays tiles out row by row in one array.

    Args:
        tiles: [N, H, W, ...], N at least 1.
        columns: tiles in a row.
        gap: empty pixels between neighbours.
        below: more empty pixels under each tile, for its caption.
        empty: value where no tile is.
    """
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    step_y, step_x = height + gap + below, width + gap
    laid = np.full(
        (rows * step_y - gap, columns * step_x - gap, *tiles.shape[3:]),
        empty,
        np.float64,
    )
    for index, tile in enumerate(tiles):
        top, left = index // columns * step_y, index % columns * step_x
        laid[top : top + height, left : left + width] = tile
    return laid


def captions(
    axes: "Axes",
    texts: Sequence[str],
    shape: Sequence[int],
    columns: int,
    *,
    gap: int,
    below: int,
    size: float,
) -> None:
    """Writes a text under each tile of a `mosaic` of tiles of `shape` [H, W]."""
    for index, text in enumerate(texts):
        axes.text(
            index % columns * (shape[1] + gap) + shape[1] / 2 - 0.5,
            index // columns * (shape[0] + gap + below) + shape[0] + below * 0.08,
            text,
            fontsize=size,
            horizontalalignment="center",
            verticalalignment="top",
            linespacing=1.25,
        )


def name_lines(
    axes: "Axes", place: float, ends: Sequence[tuple[float, str, str]], apart: float
) -> None:
    """Writes names at lines' right ends, pushed down where two would overlap.

    Args:
        axes: with the lines.
        place: of their ends, along the horizontal axis.
        ends: of each line, the height of its end, the words, and the colour.
        apart: the least distance of two words, along the vertical axis.
    """
    lowest = np.inf
    for height, words, colour in sorted(ends, key=lambda end: -end[0]):
        lowest = min(height, lowest - apart)
        axes.annotate(
            words,
            (place, lowest),
            xytext=(10, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            verticalalignment="center",
            annotation_clip=False,
        )


def name_row(axes: "Axes", name: str, size: float) -> None:
    """Writes a name to the left of axes, half way up."""
    axes.annotate(
        name,
        (0, 0.5),
        (-8, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="center",
        size=size,
    )


def bare(axes: "Axes") -> None:
    """Removes ticks and frame, but keeps title and axis labels."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def shortened(name: str, length: int) -> str:
    """A name cut to at most `length` characters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def sequential(colours: str) -> Any:
    """A colour map by name that leaves empty pixels white."""
    import matplotlib

    return matplotlib.colormaps[colours].with_extremes(bad="white")


def percent() -> Any:
    """Formats an axis' numbers from 0 to 1 as percent."""
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0)


def lines_over_epochs(
    axes: "Axes",
    epochs: np.ndarray,
    series: Mapping[str, np.ndarray],
    text: str,
    palette: Sequence[str],
) -> None:
    """Draws each series, with its name and last value at its right end.

    Args:
        axes: to draw on.
        epochs: ascending, int[N].
        series: f64[N] by name; what is not finite leaves a gap. Above zero and over
            more than a decade, the axis is logarithmic, but not for percentages.
        text: the format of a value.
        palette: colours, used in turn.
    """
    from matplotlib.ticker import MaxNLocator

    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    marker = "o" if len(epochs) <= 30 else ""
    colours = dict(zip(series, itertools.cycle(palette), strict=False))
    for name, values in series.items():
        axes.plot(epochs, values, marker=marker, markersize=4, color=colours[name])
    everything = np.concatenate(list(series.values()))
    finite = everything[np.isfinite(everything)]
    if "%" not in text and finite.size and finite.min() > 0:
        # The later epochs of a loss that falls tenfold cannot be told apart otherwise.
        if finite.max() > 10 * finite.min():
            _logarithmic(axes)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.autoscale_view()
    to_axes = axes.transScale + axes.transLimits
    heights = {}
    for name, values in series.items():
        ends = values[np.isfinite(values)]
        if ends.size:
            heights[name] = float(to_axes.transform((epochs[-1], ends[-1]))[1])
    for name, height in _apart(heights, 0.07).items():
        last = series[name][-1]
        shown = text.format(last) if np.isfinite(last) else "not finite"
        axes.text(
            1.02,
            height,
            f"{name} {shown}",
            transform=axes.transAxes,
            color=colours[name],
            fontweight="bold",
            verticalalignment="center",
        )


def _apart(heights: Mapping[str, float], least: float) -> dict[str, float]:
    """The heights with at least that much between them, and their mean unchanged."""
    ordered = sorted(heights, key=lambda name: -heights[name])
    moved, lowest = {}, np.inf
    for name in ordered:
        moved[name] = lowest = min(heights[name], lowest - least)
    push = np.mean([heights[name] - moved[name] for name in ordered] or [0.0])
    return {name: moved[name] + float(push) for name in heights}


def _logarithmic(axes: "Axes") -> None:
    """A logarithmic axis whose ticks are plain numbers: 0.01, 0.02, 0.05, 0.1."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
