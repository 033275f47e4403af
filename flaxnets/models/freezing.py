"""Parts of a network that stay as they are while others are trained."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxnets import params

# What a module is told by, in our modules and in flax.linen's, and what it is told
# outside training.
_SWITCHES = {
    "train": False,
    "training": False,
    "deterministic": True,
    "use_running_average": True,
}


def apply_frozen(model: Any, frozen: Collection[str]) -> Callable[..., Any]:
    """`model.apply`, in which a frozen module runs as it does outside training.

    Batch normalisation whose parameters are frozen uses its stored statistics, and
    dropout between frozen layers drops nothing, whatever `train` is. So what a frozen
    part computes is a function of its input alone. A module without parameters goes
    with the nearest module around it that has some.

    Args:
        model: any Linen module.
        frozen: names of the frozen parameters (`params.select`).
    """

    def apply(variables: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        names = set(params.flatten(variables["params"]))
        trained, held = names - set(frozen), names & set(frozen)

        def run(
            module: nn.Module,
            path: str,
            call: Callable[..., Any],
            *args: Any,
            **options: Any,
        ) -> Any:
            if not params.belongs(path, held, trained):
                return call(*args, **options)
            with _outside_training(module, args, options) as (given, switched):
                return call(*given, **switched)

        with _around_calls(run):
            return model.apply(variables, *args, **options)

    return apply


def _around_calls(run: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    """Has every module's `__call__` done by `run(module, path, call, *args, ...)`."""

    def intercept(
        call: Callable[..., Any],
        args: Sequence[Any],
        options: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if context.method_name != "__call__":
            return call(*args, **options)
        module = context.module
        return run(module, "/".join(module.path), call, *args, **options)

    return nn.intercept_methods(intercept)


@contextlib.contextmanager
def _outside_training(
    module: nn.Module, args: Sequence[Any], options: Mapping[str, Any]
) -> Iterator[tuple[Sequence[Any], Mapping[str, Any]]]:
    """Sets the module's switches, attributes or arguments; yields the arguments."""
    signature = inspect.signature(type(module).__call__)
    bound = signature.bind(module, *args, **options)
    before: dict[str, Any] = {}
    for name, value in _SWITCHES.items():
        if getattr(module, name, None) is not None:
            before[name] = getattr(module, name)
            # Linen keeps attributes from being set; this one lives for this call.
            object.__setattr__(module, name, value)
        elif name in signature.parameters:
            bound.arguments[name] = value
    try:
        yield bound.args[1:], bound.kwargs
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


def call_order(model: Any, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Paths of a module's submodules in the order of their first call.

    Args:
        model: a Linen module that takes one array f32[*input_shape].
        input_shape: batch size included.
    """
    order: dict[str, None] = {}

    def run(
        module: nn.Module,
        path: str,
        call: Callable[..., Any],
        *args: Any,
        **options: Any,
    ) -> Any:
        del module
        order.setdefault(path)
        return call(*args, **options)

    image = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    with _around_calls(run):
        jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    return tuple(path for path in order if path)
