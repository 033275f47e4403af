"""What comes back out of a network: pictures beside each other, and codes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawing.styled
def rows(pictures: Mapping[str, np.ndarray], title: str, note: str = "") -> "Figure":
    """The same pictures in several states, a row a state.

    Args:
        pictures: by name, uint8[N, H, W, C] or floats that are cut to [0, 1]; the same
            N, H and W in all.
        title: of the figure.
        note: a sentence below it.
    """
    count, height, width = next(iter(pictures.values())).shape[:3]
    tiles = np.concatenate([drawing.picture(found) for found in pictures.values()])
    # Small pictures are enlarged, so that the gaps can be narrower than a pixel.
    blocks = max(1, 64 // width)
    tiles = tiles.repeat(blocks, axis=1).repeat(blocks, axis=2)
    gap = max(2, tiles.shape[2] // 16)
    laid = drawing.mosaic(tiles, count, gap=gap, empty=1.0)
    names = 1.6
    wide = 11 - names
    figure = drawing.figure(11, wide * laid.shape[0] / laid.shape[1] + 0.8, title)
    axes = figure.add_subplot()
    axes.imshow(laid, vmin=0, vmax=1)
    drawing.bare(axes)
    axes.set_title(note)
    step = tiles.shape[1] + gap
    axes.set_yticks(
        [index * step + tiles.shape[1] / 2 for index in range(len(pictures))],
        list(pictures),
    )
    axes.tick_params(length=0)
    return figure


@drawing.styled
def codes(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], title: str
) -> "Figure":
    """Codes of two numbers, coloured by class, each class named at its median.

    Args:
        points: f[N, 2].
        labels: int[N].
        class_names: names that labels index.
        title: of the figure.
    """
    import matplotlib

    figure = drawing.figure(8, 7, title)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["tab10" if len(class_names) <= 10 else "turbo"]
    for index, name in enumerate(class_names):
        own = points[labels == index]
        if not len(own):
            continue
        place = index if len(class_names) <= 10 else index / (len(class_names) - 1)
        axes.scatter(*own.T, s=5, color=colours(place), alpha=0.5, linewidths=0)
        axes.annotate(
            drawing.shortened(name, 12),
            tuple(np.median(own, axis=0)),
            fontweight="bold",
            horizontalalignment="center",
            verticalalignment="center",
            bbox={
                "facecolor": "white",
                "edgecolor": colours(place),
                "boxstyle": "round,pad=0.2",
            },
        )
    axes.set(xlabel="first number of the code", ylabel="second number")
    axes.set_title(f"{len(points):,} test pictures")
    return figure
