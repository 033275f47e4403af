"""What is frozen in each way of transferring, as globs over parameter names."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import optax

from flaxnets import errors
from flaxnets import params as trees
from flaxnets.models import freezing

Mode = Literal["feature_extraction", "partial_fine_tuning", "fine_tuning", "scratch"]
MODES: tuple[Mode, ...] = (
    "feature_extraction",
    "partial_fine_tuning",
    "fine_tuning",
    "scratch",
)


def frozen_globs(
    mode: Mode,
    model: Any,
    input_shape: Sequence[int],
    *,
    up_to: str | None = None,
    body: str = "backbone",
) -> tuple[str, ...]:
    """Globs of the parameters that a mode freezes, for `train.make_step`.

    >>> frozen_globs("partial_fine_tuning", model, (1, 224, 224, 3), up_to="block4")
    ('backbone/block1/**', 'backbone/block2/**', ...)

    Args:
        mode: `feature_extraction` freezes the whole body; `partial_fine_tuning` its
            layers up to one of them, in the order of their calls; `fine_tuning` and
            `scratch` nothing.
        model: such as `models.WithHead`.
        input_shape: batch size included.
        up_to: the last layer of the body that `partial_fine_tuning` freezes.
        body: the subtree that is transferred; "" for the whole model.

    Raises:
        ArgumentError: no such mode or layer, or `up_to` without the mode for it, or
            the mode without it.
    """
    if mode not in MODES:
        raise errors.ArgumentError(f"no mode {mode!r}; there are: {', '.join(MODES)}")
    if (mode == "partial_fine_tuning") != (up_to is not None):
        raise errors.ArgumentError(
            f"mode is {mode!r} and up_to {up_to!r}, but up_to names the last frozen "
            "layer of 'partial_fine_tuning', and only of that"
        )
    names = trees.flatten(trees.abstract(model, input_shape)["params"])
    prefix = f"{body}/" if body else ""
    if not any(name.startswith(prefix) for name in names):
        tops = dict.fromkeys(name.partition("/")[0] for name in names)
        raise errors.ArgumentError(
            f"no parameter lies in {body!r}; the top-level names are: {', '.join(tops)}"
        )
    if mode in ("fine_tuning", "scratch"):
        return ()
    if mode == "feature_extraction":
        return (f"{prefix}**",)
    found = layers(model, input_shape, body=body)
    if up_to not in found:
        close = difflib.get_close_matches(str(up_to), found, n=1)
        hint = f"; did you mean {close[0]!r}" if close else ""
        raise errors.ArgumentError(
            f"no layer {up_to!r}{hint}; in the order of their calls there are: "
            f"{', '.join(found)}"
        )
    return tuple(f"{prefix}{layer}/**" for layer in found[: found.index(up_to) + 1])


def layers(
    model: Any, input_shape: Sequence[int], *, body: str = "backbone"
) -> tuple[str, ...]:
    """Names of a body's layers with parameters, in the order of their calls.

    What `up_to` can name.

    Args:
        model, input_shape, body: as for `frozen_globs`.
    """
    names = trees.flatten(trees.abstract(model, input_shape)["params"])
    prefix = f"{body}/" if body else ""
    called = freezing.call_order(model, input_shape)
    return tuple(
        path.removeprefix(prefix)
        for path in called
        if path.startswith(prefix)
        and "/" not in path.removeprefix(prefix)
        and any(name.startswith(f"{path}/") for name in names)
    )


def scale_updates(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of some parameters: a learning rate for each subtree.

    >>> optax.chain(optimizer, scale_updates({"backbone/**": 0.1}))

    Chained after an optimizer it does what a learning rate of its own would (decay of
    weights that the learning rate multiplies included).

    Args:
        factors: by glob; where several match a parameter, the last one counts.

    Raises:
        ArgumentError: (at `init`) a glob matches nothing that is trained, or a factor
            is negative.
    """
    for glob, factor in factors.items():
        if factor < 0:
            raise errors.ArgumentError(
                f"the factor of {glob!r} is {factor}, but must not be negative"
            )

    def factors_of(tree: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for glob, factor in factors.items():
            found |= dict.fromkeys(trees.select(tree, glob), factor)
        return found

    def init(params: Any) -> optax.EmptyState:
        factors_of(params)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        found = factors_of(updates)
        scaled = {
            name: update * found[name] if name in found else update
            for name, update in trees.flatten(updates).items()
        }
        # In the same order of keys, so that the tree's structure is what it was.
        leaves = [scaled[name] for name in trees.flatten(updates)]
        return jax.tree.unflatten(jax.tree.structure(updates), leaves), state

    return optax.GradientTransformation(init, update)
