"""Figures of a run: pure functions of arrays that return a figure."""

from flaxnets.report.figures.drawing import save
from flaxnets.report.figures.layers import feature_maps, kernels
from flaxnets.report.figures.matrices import confusion
from flaxnets.report.figures.restoration import codes, rows
from flaxnets.report.figures.results import (
    curves,
    intervals,
    learning_curves,
    mistakes,
    samples,
)

__all__ = [
    "codes",
    "confusion",
    "curves",
    "feature_maps",
    "intervals",
    "kernels",
    "learning_curves",
    "mistakes",
    "rows",
    "samples",
    "save",
]
