"""Figures of a run: pure functions of arrays that return a figure."""

from flaxnets.report.figures.codes import plane
from flaxnets.report.figures.drawing import save
from flaxnets.report.figures.layers import feature_maps, kernels
from flaxnets.report.figures.matrices import confusion
from flaxnets.report.figures.pictures import by_depth, side_by_side
from flaxnets.report.figures.results import (
    curves,
    intervals,
    learning_curves,
    mistakes,
    over_epochs,
    samples,
)

__all__ = [
    "by_depth",
    "confusion",
    "curves",
    "feature_maps",
    "intervals",
    "kernels",
    "learning_curves",
    "mistakes",
    "over_epochs",
    "plane",
    "samples",
    "save",
    "side_by_side",
]
