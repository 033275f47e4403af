"""From fewer trained parameters to more, in one training."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from flaxnets import errors, train


def thawed(
    state: train.State,
    optimizer: optax.GradientTransformation,
    *,
    frozen: str | Sequence[str] = (),
) -> train.State:
    """A state in training, to be trained on with fewer parameters frozen.

    Gradual unfreezing (Howard and Ruder 2018, section 3.3) is a step for each phase:

    >>> state = train.create(variables, optimizer, key=key, frozen=first.frozen)
    >>> ...  # steps of train.make_step(..., frozen=first.frozen)
    >>> state = transfer.thawed(state, optimizer, frozen=second.frozen)
    >>> ...  # steps of train.make_step(..., frozen=second.frozen)

    What the optimizer holds for the parameters trained so far stays, counts of steps
    too; for the thawed ones it begins anew. So in no phase is frozen work done.

    Args:
        state: of the phase that ends.
        optimizer: the same in all phases.
        frozen: globs, or names, of what is still frozen.

    Raises:
        ArgumentError: something is frozen that was trained before, or the optimizer
            is another one.
    """
    fresh = train.create(
        state.variables, optimizer, key=state.key, frozen=frozen
    ).optimizer
    before = dict(jax.tree_util.tree_leaves_with_path(state.optimizer))

    def carried(path: Any, leaf: Any) -> Any:
        found = before.pop(path, leaf)
        if found.shape != leaf.shape:
            raise errors.ArgumentError(
                f"the optimizer holds {list(found.shape)} at "
                f"{jax.tree_util.keystr(path)}, but now wants {list(leaf.shape)}; "
                "go on with the same optimizer"
            )
        return found

    optimizer_state = jax.tree_util.tree_map_with_path(carried, fresh)
    if before:
        raise errors.ArgumentError(
            f"the optimizer's {jax.tree_util.keystr(next(iter(before)))} has no place "
            "any more; freeze only what was frozen before, and go on with the same "
            "optimizer"
        )
    return state._replace(optimizer=optimizer_state)
