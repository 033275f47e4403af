"""Arrays to PyTorch and back, and what is compared with it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def channels_first(x: Any) -> Any:
    import torch

    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy(), requires_grad=True)


def channels_last(x: Any) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def pulled(function: Callable, *arguments: Any, has_aux: bool = False) -> tuple:
    """A function's value, a random gradient of it, and those of the arguments.

    As one program: what is compiled operation by operation takes far longer. With
    `has_aux` the function's second result comes last.
    """

    @jax.jit
    def run(*arguments: Any) -> tuple:
        y, pull, *aux = jax.vjp(function, *arguments, has_aux=has_aux)
        upstream = jax.random.normal(jax.random.key(9), y.shape, y.dtype)
        return y, upstream, pull(upstream), *aux

    return run(*arguments)
