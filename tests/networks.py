"""Parameters for networks that are not to be trained, drawn without compiling."""

from typing import Any

import numpy as np

from flaxnets import params


def drawn(model: Any, side: int = 224, seed: int = 0) -> Any:
    """Variables none of which is trivial, as numpy arrays.

    He-normal kernels, so that activations keep their size.
    """
    generator = np.random.default_rng(seed)
    leaves = params.flatten(params.abstract(model, (1, side, side, 3)))
    values = {}
    for name, leaf in leaves.items():
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            array = deviation * generator.standard_normal(leaf.shape, np.float32)
        else:
            low, high = (0.1, 0.6) if kind in ("var", "scale") else (-0.2, 0.2)
            array = generator.uniform(low, high, leaf.shape)
        values[name] = array.astype(np.float32)
    return params.unflatten(values)
