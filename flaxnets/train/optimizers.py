"""Optimizers and schedules by optax's own names."""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from flaxnets import errors

# optax's optimizers that are complete given a learning rate.
NAMES = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad "
    "fromage lamb lars lion nadam nadamw noisy_sgd novograd "
    "optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd sm3 yogi"
).split()

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
    "exponential": lambda peak, steps: optax.exponential_decay(peak, steps, 0.01),
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
    # Smith and Topin 2018, as optax implements it, which needs some steps to rise in.
    "onecycle": lambda peak, steps: optax.cosine_onecycle_schedule(
        max(steps, 10), peak
    ),
}


def make(
    name: str,
    *,
    learning_rate: float,
    schedule: str = "constant",
    total_steps: int,
    weight_decay: float | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its schedule of learning rates.

    Weight decay, where the optimizer has it, acts on kernels (two dimensions and
    more), not on biases or normalisation scales.

    Args:
        name: one of NAMES.
        learning_rate: the rate, or the schedule's peak.
        schedule: one of SCHEDULES.
        total_steps: length of the schedule.
        weight_decay: overrides the optimizer's default.

    Raises:
        ArgumentError: a name is unknown, a number cannot be used, or the optimizer has
            no weight decay.
    """
    _check_name("--optimizer", name, NAMES)
    _check_name("--schedule", schedule, list(SCHEDULES))
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise errors.ArgumentError(
            f"--learning-rate is {learning_rate}, but must be a positive number"
        )
    rates = SCHEDULES[schedule](learning_rate, total_steps)
    maker = getattr(optax, name)
    accepted = inspect.signature(maker).parameters
    options: dict[str, Any] = {}
    if "mask" in accepted and "weight_decay" in accepted:
        options["mask"] = kernels_only
    if weight_decay is not None:
        if "weight_decay" not in accepted:
            having = [other for other in NAMES if _decays(other)]
            raise errors.ArgumentError(
                f"--optimizer {name} has no weight decay; leave --weight-decay out, or "
                f"use one of: {', '.join(having)}"
            )
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise errors.ArgumentError(
                f"--weight-decay is {weight_decay}, but must be zero or positive"
            )
        options["weight_decay"] = weight_decay
    return maker(rates, **options), rates


def kernels_only(params: Any) -> Any:
    """True for leaves of two dimensions and more: what weight decay acts on."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _decays(name: str) -> bool:
    return "weight_decay" in inspect.signature(getattr(optax, name)).parameters


def _check_name(option: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}" if close else ""
        raise errors.ArgumentError(
            f"{option} {name!r} is unknown{hint}; known are: {', '.join(known)}"
        )
