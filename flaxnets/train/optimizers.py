"""Optimizers and schedules of learning rates by optax's own names."""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors

# optax's optimizers that are complete given a schedule of learning rates. Not so:
# rprop and sm3 fail with a schedule, noisy_sgd needs a key, lbfgs the loss itself.
NAMES = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad "
    "fromage lamb lars lion nadam nadamw novograd optimistic_adam_v2 "
    "optimistic_gradient_descent radam rmsprop sgd sign_sgd signum yogi"
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

# The names under which optax's optimizers take the mask of their weight decay.
_MASKS = ("mask", "weight_decay_mask")


def make(
    name: str,
    *,
    learning_rate: float,
    schedule: str = "constant",
    total_steps: int,
    warmup_steps: int = 0,
    weight_decay: float | None = None,
    momentum: float | None = None,
    epsilon: float | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its schedule of learning rates.

    Weight decay acts on kernels (two dimensions and more), not on biases and
    normalisation scales (He et al. 2019, "Bag of tricks", section 3.1), except that
    novograd, which optax gives no mask, decays everything.

    Args:
        name: one of NAMES.
        learning_rate: the rate, or the schedule's peak.
        schedule: one of SCHEDULES.
        total_steps: length of the schedule, warm-up included.
        warmup_steps: steps of a linear rise from 0 to `learning_rate` before it.
        weight_decay: overrides the optimizer's default.
        momentum: overrides the optimizer's default (none for sgd and rmsprop).
        epsilon: overrides the optimizer's default of what keeps it from dividing by
            zero (optax's `eps`).

    Returns:
        The transformation, and the schedule: the learning rate of each step.

    Raises:
        ArgumentError: a name is unknown, a number cannot be used, or the optimizer has
            none of an option that is given.
    """
    _check_name("--optimizer", name, NAMES)
    _check_name("--schedule", schedule, list(SCHEDULES))
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise errors.ArgumentError(
            f"--learning-rate is {learning_rate}, but must be a positive number"
        )
    maker = getattr(optax, name)
    accepted = inspect.signature(maker).parameters
    options: dict[str, Any] = {}
    if "weight_decay" in accepted:
        options |= {mask: kernels_only for mask in _MASKS if mask in accepted}
    if weight_decay is not None:
        _check_option("weight_decay", name)
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise errors.ArgumentError(
                f"--weight-decay is {weight_decay}, but must be zero or positive"
            )
        options["weight_decay"] = weight_decay
    if momentum is not None:
        _check_option("momentum", name)
        if not 0 <= momentum < 1:
            raise errors.ArgumentError(
                f"--momentum is {momentum}, but must be at least 0 and below 1"
            )
        options["momentum"] = momentum
    if epsilon is not None:
        _check_option("eps", name)
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise errors.ArgumentError(
                f"--epsilon is {epsilon}, but must be a positive number"
            )
        options["eps"] = epsilon
    rates = _rates(schedule, learning_rate, total_steps, warmup_steps)
    return maker(rates, **options), rates


class LookaheadState(NamedTuple):
    """What `lookahead` holds: the inner optimizer's state, and the slow weights."""

    fast: Any
    slow: Any
    count: jax.Array


def lookahead(
    optimizer: optax.GradientTransformation, *, period: int, step_size: float
) -> optax.GradientTransformation:
    """Every few steps, goes back some way to where it was (Zhang et al. 2019).

    The same steps as `optax.lookahead`'s, whose parameters come in pairs, fast and
    slow, which no network takes; here the slow ones are part of the state.

    Args:
        optimizer: makes the fast steps.
        period: fast steps between two slow ones.
        step_size: of the slow steps: the share of the way that is kept.
    """
    if period < 1 or not 0 <= step_size <= 1:
        raise errors.ArgumentError(
            f"lookahead's period is {period} and its step_size {step_size}, but must "
            "be at least 1 and between 0 and 1"
        )

    def init(params: Any) -> LookaheadState:
        # Copies, since training gives the parameters' buffers away.
        slow = jax.tree.map(jnp.copy, params)
        return LookaheadState(optimizer.init(params), slow, jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, LookaheadState]:
        updates, fast = optimizer.update(updates, state.fast, params)
        count = state.count + 1
        due = count % period == 0

        def moved(slow: jax.Array, param: jax.Array, update: jax.Array) -> jax.Array:
            return jnp.where(due, slow + step_size * (param + update - slow), slow)

        slow = jax.tree.map(moved, state.slow, params, updates)
        updates = jax.tree.map(
            lambda update, new, param: jnp.where(due, new - param, update),
            updates,
            slow,
            params,
        )
        return updates, LookaheadState(fast, slow, count)

    return optax.GradientTransformation(init, update)


def kernels_only(params: Any) -> Any:
    """True for leaves of two dimensions and more: what weight decay acts on."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _rates(
    schedule: str, peak: float, total_steps: int, warmup_steps: int
) -> optax.Schedule:
    """The schedule, after its warm-up."""
    if total_steps < 1:
        raise errors.ArgumentError(
            f"total_steps is {total_steps}, but must be at least 1"
        )
    if not 0 <= warmup_steps < total_steps:
        raise errors.ArgumentError(
            f"warmup_steps is {warmup_steps}, but must be at least 0 and below the "
            f"{total_steps} steps of the whole training"
        )
    if warmup_steps == 0:
        return SCHEDULES[schedule](peak, total_steps)
    if schedule == "onecycle":
        raise errors.ArgumentError(
            "the onecycle schedule has a warm-up of its own; leave warmup_steps out, "
            "or use the cosine schedule"
        )
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    rest = SCHEDULES[schedule](peak, total_steps - warmup_steps)
    return optax.join_schedules([rise, rest], [warmup_steps])


def _check_option(option: str, name: str) -> None:
    having = [
        other
        for other in NAMES
        if option in inspect.signature(getattr(optax, other)).parameters
    ]
    if name not in having:
        called = {"eps": "epsilon"}.get(option, option)
        flag = f"--{called.replace('_', '-')}"
        raise errors.ArgumentError(
            f"--optimizer {name} has no {called.replace('_', ' ')}; leave {flag} out, "
            f"or use one of: {', '.join(having)}"
        )


def _check_name(option: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}" if close else ""
        raise errors.ArgumentError(
            f"{option} {name!r} is unknown{hint}; known are: {', '.join(known)}"
        )
