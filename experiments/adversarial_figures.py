"""Figures of the study of learned noise."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxnets import attack
from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pictures that are shown.
SHOWN = 8


@drawing.styled
def examples(
    images: np.ndarray,
    found: attack.Attacked,
    class_names: Sequence[str],
    epsilon: float,
    title: str,
) -> "Figure":
    """Pictures, what is added to them, and what they are then taken for.

    Args:
        images: uint8[N, H, W, C].
        found: what became of them; the first few that were classified rightly are
            shown, whether the noise misleads or not.
        class_names: names that classes index.
        epsilon: the noise that is shown white; its negative is black.
        title: of the figure.
    """
    right = np.flatnonzero(found.before == found.labels)
    chosen = (right if right.size else np.arange(len(images)))[:SHOWN]
    before, after = images[chosen] / 255, found.images[chosen].astype(np.float64)
    noise = 0.5 + (after - before) / (2 * epsilon)
    height, width = images.shape[1:3]
    gap, below = max(1, width // 10), round(0.3 * height)
    tiles = np.concatenate([drawing.picture(part) for part in (before, noise, after)])
    laid = drawing.mosaic(tiles, len(chosen), gap=gap, below=below, empty=1.0)
    figure = drawing.figure(10, 9 * laid.shape[0] / laid.shape[1] + 0.9, title)
    axes = figure.add_subplot()
    axes.imshow(laid, vmin=0, vmax=1, interpolation="nearest")
    drawing.bare(axes)
    texts = [
        *(f"read: {_name(class_names, found.before[place])}" for place in chosen),
        *(f"up to {found.linf[place]:.3f}" for place in chosen),
        *(f"read: {_name(class_names, found.after[place])}" for place in chosen),
    ]
    drawing.captions(
        axes, texts, (height, width), len(chosen), gap=gap, below=below, size=8
    )
    rows = height / 2 - 0.5 + (height + gap + below) * np.arange(3)
    axes.set_yticks(rows, ["original", "noise", "result"])
    axes.tick_params(length=0)
    axes.set_title(
        f"Noise is what is left of it in [0, 1]: grey is none, white {epsilon:+.3g}, "
        f"black {-epsilon:+.3g}"
    )
    return figure


@drawing.styled
def by_epsilon(evaluated: Mapping[str, Any], title: str) -> "Figure":
    """Accuracy against epsilon, a line an attack, named at its end.

    Args:
        evaluated: `attack.Evaluated.as_json()`.
        title: of the figure.
    """
    clean = evaluated["clean"]["accuracy"]
    lines: dict[str, dict[float, float]] = {}
    for row in evaluated["attacks"]:
        lines.setdefault(row["attack"], {0.0: clean})[row["epsilon"]] = row["accuracy"]
    lines["worst case"] = {
        0.0: clean,
        **{row["epsilon"]: row["accuracy"] for row in evaluated["worst_case"]},
    }
    figure = drawing.figure(9, 5, title)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    ends, last = [], 0.0
    for place, (name, points) in enumerate(lines.items()):
        worst = name == "worst case"
        colour = drawing.COLOURS[place % len(drawing.COLOURS)]
        colour = "black" if worst else colour
        dashed = worst or place >= len(drawing.COLOURS)
        axes.plot(
            list(points),
            list(points.values()),
            "o--" if dashed else "o-",
            markersize=4,
            color=colour,
        )
        last = max(last, *points)
        words = name.replace("_", " ")
        ends.append((points[max(points)], f"{words} {points[max(points)]:.1%}", colour))
    axes.set_ylim(-0.02, 1.02)
    drawing.name_lines(axes, last, ends, 0.055)
    axes.yaxis.set_major_formatter(drawing.percent())
    axes.set(xlabel="epsilon, largest change of a value", title="accuracy")
    return figure


@drawing.styled
def over_time(records: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """The game, epoch by epoch: the two losses, and who succeeds.

    Args:
        records: of the training's epochs.
        title: of the figure.
    """
    figure = drawing.figure(11, 4.2, title)
    panels = figure.subplots(1, 2)
    losses = {
        "classifier's": "train_loss",
        "generator's": "train_generator_loss",
    }
    shares = {
        "right, clean": "test_accuracy",
        "wrong with the noise": "test_success_rate",
        "right under PGD": "test_pgd_accuracy",
    }
    epochs = np.array([record["epoch"] for record in records])
    for axes, names, text in zip(
        panels, (losses, shares), ("{:.3f}", "{:.1%}"), strict=True
    ):
        series = {
            words: np.array([record[name] for record in records], float)
            for words, name in names.items()
        }
        drawing.lines_over_epochs(axes, epochs, series, text, drawing.COLOURS)
        axes.set_xlabel("epoch")
    panels[0].set_title("losses in training, mean of each epoch")
    panels[1].yaxis.set_major_formatter(drawing.percent())
    panels[1].set_title("shares of held-out pictures, after each epoch")
    return figure


@drawing.styled
def kinds(
    means: Mapping[str, np.ndarray],
    spectra: Mapping[str, np.ndarray],
    epsilon: float,
    title: str,
) -> "Figure":
    """Each generator's mean noise, and below it its spectrum.

    Args:
        means: f64[H, W] by the generators' names.
        spectra: f64[H, W] of them, the lowest frequency in the middle.
        epsilon: of the colours' ends.
        title: of the figure.
    """
    figure = drawing.figure(2.6 * len(means) + 1.6, 5.6, title)
    panels = figure.subplots(2, len(means), squeeze=False)
    mapped: list[Any] = [None, None]
    smallest = 1e-12
    logarithms = {
        name: np.log10(spectrum + smallest) for name, spectrum in spectra.items()
    }
    low = min(float(values.min()) for values in logarithms.values())
    high = max(float(values.max()) for values in logarithms.values())
    for column, name in enumerate(means):
        mapped[0] = panels[0, column].imshow(
            means[name], cmap="RdBu_r", vmin=-epsilon, vmax=epsilon
        )
        mapped[1] = panels[1, column].imshow(
            logarithms[name], cmap="viridis", vmin=low, vmax=high
        )
        panels[0, column].set_title(name.replace("_", " "))
        for axes in panels[:, column]:
            drawing.bare(axes)
    words = ("mean noise", "power, log10")
    for row, label in enumerate(words):
        figure.colorbar(mapped[row], ax=list(panels[row]), label=label)
    return figure


def _name(class_names: Sequence[str], number: Any) -> str:
    return drawing.shortened(class_names[int(number)], 12)
