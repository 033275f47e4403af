"""What the layers of a network look for, and what they make of one picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Maps and kernels laid side by side; inches of one.
COLUMNS = 16
TILE = 0.62
# Rows of maps for each layer of a network with few layers, and with many.
FEW_LAYERS, MANY_ROWS, ONE_ROW = 6, 4, 1
# A layer of at most this many units is drawn as bars, any other as a strip.
BARS = 100
STRIP = 512


@drawing.styled
def kernels(kernel: np.ndarray) -> "Figure":
    """A convolution's kernels.

    One input channel: a tile a kernel, blue negative and red positive. Three: a tile
    in colours, grey for zero. Any other number: a row an input channel.

    Args:
        kernel: f[h, w, input channels, kernels].
    """
    height, width, inputs, count = kernel.shape
    limit = float(np.abs(kernel).max()) or 1.0
    note = f"{count} kernels, {height} x {width} x {inputs}"
    columns = min(COLUMNS, count)
    if inputs == 3:
        tiles = 0.5 + 0.5 * np.moveaxis(kernel, 3, 0) / limit
        note += "; grey: 0, channels as red, green, blue"
    elif inputs == 1:
        columns = min(8, count)
        tiles = np.moveaxis(kernel[:, :, 0], 2, 0)
    else:
        rows = min(COLUMNS // 2, inputs)
        tiles = np.moveaxis(kernel[:, :, :rows, :columns], (2, 3), (0, 1))
        tiles = tiles.reshape(-1, height, width)
        note += f"; a row an input channel ({rows} x {columns} shown)"
    # Each weight becomes a block, so that the gaps can be narrower than a weight.
    tiles = tiles.repeat(10, axis=1).repeat(10, axis=2)
    gap = max(4, 10 * width // 12)
    laid = drawing.mosaic(tiles, columns, gap=gap, empty=1.0 if inputs == 3 else np.nan)
    wide = max(5.0, TILE * 1.4 * columns)
    figure = drawing.figure(
        wide + 1,
        wide * laid.shape[0] / laid.shape[1] + 0.9,
        "The first layer's kernels",
    )
    axes = figure.add_subplot()
    drawing.bare(axes)
    axes.set_title(note)
    if inputs == 3:
        axes.imshow(laid, vmin=0, vmax=1)
    else:
        shown = axes.imshow(
            laid, cmap=drawing.sequential("RdBu_r"), vmin=-limit, vmax=limit
        )
        figure.colorbar(shown, ax=axes, label="weight", shrink=0.8, aspect=25)
    return figure


@drawing.styled
def feature_maps(image: np.ndarray, endpoints: Mapping[str, np.ndarray]) -> "Figure":
    """What each layer makes of one picture, a row a layer.

    Maps are laid out as tiles, wide dense layers as a strip, and the last few units as
    bars. Each layer has its own scale, from 0 (or its smallest value) to its greatest.

    Args:
        image: uint8[H, W, C], or floats from 0 to 1.
        endpoints: activations by name, f[1, H, W, C] or f[1, D], in order.
    """
    values = {name: np.asarray(value)[0] for name, value in endpoints.items()}
    spatial = sum(value.ndim == 3 for value in values.values())
    most = COLUMNS * (MANY_ROWS if spatial <= FEW_LAYERS else ONE_ROW)
    heights = [2 * TILE, *(_height(value, most) for value in values.values())]
    figure = drawing.figure(
        TILE * COLUMNS + 1.6, sum(heights) + 0.1 * len(heights) + 1.0, "Layer by layer"
    )
    rows = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    drawing.bare(rows[0])
    rows[0].imshow(drawing.picture(image), vmin=0, vmax=1)
    rows[0].set_anchor("W")
    rows[0].set_title("The brighter, the stronger; each layer has its own scale")
    _name(rows[0], "input", image.shape, "")
    for axes, (name, value) in zip(rows[1:], values.items(), strict=True):
        drawing.bare(axes)
        note = ""
        if value.ndim == 3:
            if value.shape[2] > most:
                note = f"\nfirst {most} maps"
            _maps(axes, value[:, :, :most])
        elif value.size <= BARS:
            _bars(axes, value)
        else:
            _strip(axes, value)
        _name(axes, name, value.shape, note)
    return figure


def _height(value: np.ndarray, most: int) -> float:
    """Inches that a layer's row needs."""
    if value.ndim == 3:
        maps = min(value.shape[2], most)
        return TILE * -(-maps // COLUMNS) * value.shape[0] / value.shape[1]
    return 1.3 * TILE if value.size <= BARS else 0.6 * TILE


def _name(axes: "Axes", name: str, shape: tuple[int, ...], note: str) -> None:
    """Writes a layer's name and shape to the left of its row."""
    words = f"{name}\n{' x '.join(map(str, shape))}{note}"
    drawing.name_row(axes, words, 8)


def _scale(value: np.ndarray) -> dict[str, Any]:
    """The values that are drawn darkest and brightest; all zero is all dark."""
    low = min(0.0, float(value.min()))
    return {"vmin": low, "vmax": max(float(value.max()), low + 1e-12)}


def _maps(axes: "Axes", value: np.ndarray) -> None:
    """Draws maps f[H, W, C] as tiles."""
    tiles = np.full((-(-value.shape[2] // COLUMNS) * COLUMNS, *value.shape[:2]), np.nan)
    tiles[: value.shape[2]] = np.moveaxis(value, 2, 0)
    # Small maps are enlarged, so that the gaps can be narrower than a pixel.
    blocks = max(1, 28 // value.shape[1])
    tiles = tiles.repeat(blocks, axis=1).repeat(blocks, axis=2)
    laid = drawing.mosaic(tiles, COLUMNS, gap=max(1, tiles.shape[2] // 14))
    axes.imshow(laid, cmap=drawing.sequential("magma"), **_scale(value))
    axes.set_anchor("W")


def _strip(axes: "Axes", value: np.ndarray) -> None:
    """Draws units f[D] as rows of cells, the first at the upper left."""
    rows = -(-value.size // STRIP)
    width = -(-value.size // rows)
    cells = np.full(rows * width, np.nan)
    cells[: value.size] = value
    axes.imshow(
        cells.reshape(rows, width),
        cmap=drawing.sequential("magma"),
        aspect="auto",
        interpolation="nearest",
        **_scale(value),
    )


def _bars(axes: "Axes", value: np.ndarray) -> None:
    """Draws units f[D] as bars, the greatest in another colour."""
    colours = [drawing.GREY] * value.size
    colours[int(value.argmax())] = drawing.VERMILION
    axes.bar(range(value.size), value, color=colours)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.margins(x=0.01)
    if value.size <= 20:
        axes.set_xticks(range(value.size))
        axes.tick_params(length=0, labelsize=8)
