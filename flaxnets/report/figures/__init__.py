"""Figures of a classifier's run: pure functions of arrays that return a figure."""

from flaxnets.report.figures.drawing import save
from flaxnets.report.figures.layers import feature_maps, kernels
from flaxnets.report.figures.matrices import confusion
from flaxnets.report.figures.results import (
    curves,
    intervals,
    learning_curves,
    mistakes,
    samples,
)

__all__ = [
    "confusion",
    "curves",
    "feature_maps",
    "intervals",
    "kernels",
    "learning_curves",
    "mistakes",
    "samples",
    "save",
]
