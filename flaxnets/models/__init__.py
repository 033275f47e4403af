"""Architectures: Linen modules that return `(output, endpoints)`, nothing else."""

from flaxnets.models.cnn import CNN as CNN
