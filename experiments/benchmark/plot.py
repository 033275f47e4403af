"""The benchmark as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmark import summary
from experiments.benchmark.contenders import CONTENDERS, OURS
from experiments.benchmark.processes import Outcome
from flaxnets.report import figures
from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#9A9A9A"


def save(result: dict, path: Path) -> None:
    """Draws a result's medians as bars, each round as a dot, and writes a PNG."""
    good = [outcome for outcome in result["outcomes"] if outcome["status"] == "ok"]
    steps = [outcome for outcome in good if outcome["kind"] == "steps"]
    panels: list[Panel] = []
    for batch, table in result["summary"]["steps"].items():
        mine = [outcome for outcome in steps if str(outcome["batch_size"]) == batch]
        floor = table["floor_ms"]["median"] if table["floor_ms"] else None
        values = by_contender(mine, summary.step_milliseconds)
        panels.append((f"ms per step of {batch}", values, floor))
    largest = max(result["config"]["batch_sizes"], default=None)
    mine = [outcome for outcome in steps if outcome["batch_size"] == largest]
    first = by_contender(mine, lambda outcome: outcome["first_step_seconds"])
    panels.append(("s from process start to first step", first, None))
    races = [outcome for outcome in good if outcome["kind"] == "race"]
    target = f"s from process start to {result['config']['target']:.0%} test accuracy"
    panels.append((target, by_contender(races, summary.race_seconds), None))
    draw(panels, result["device"], path)


Panel = tuple[str, dict[str, list[float]], float | None]


def draw(panels: Sequence[Panel], device: str, path: Path) -> None:
    """Draws one row of bars for each panel that has any, and writes a PNG.

    Args:
        panels: title, values by contender, and the floor where there is one.
        device: where they were measured.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    figure = Figure(figsize=(8, 2.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _bars(axis, *panel)
    figure.suptitle(f"flaxnets and its peers on {device}")
    figures.save(figure, path)


def by_contender(outcomes: Sequence[Outcome], measure: Any) -> dict[str, list[float]]:
    """What `measure` gives of each contender's outcomes, in the order of the tables."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if (value := measure(outcome)) is not None:
            found.setdefault(outcome["contender"], []).append(value)
    return {name: found[name] for name in CONTENDERS if name in found}


def _bars(
    axis: "Axes", title: str, values: dict[str, list[float]], floor: float | None
) -> None:
    for place, (name, numbers) in enumerate(values.items()):
        numbers = sorted(numbers)
        found = summary.spread(numbers)
        assert found is not None
        color = drawing.BLUE if name == OURS else _GREY
        median = found["median"]
        axis.barh(place, median, color=color, height=0.7)
        axis.plot(numbers, [place] * len(numbers), "k.", markersize=3)
        axis.annotate(
            f"{median:,.0f}" if median >= 1000 else f"{median:.3g}",
            (found["max"], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if floor is not None:
        axis.axvline(floor, color=drawing.VERMILION, linewidth=1.2, label="floor")
        axis.legend(fontsize=8)
    axis.set_yticks(range(len(values)), list(values), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(title, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
