"""flaxnets: deep convolutional networks as pure functions in JAX and Flax.

>>> from flaxnets import data, models, params, train
"""

from importlib import metadata

__version__ = metadata.version("flaxnets")
