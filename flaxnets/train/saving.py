"""When the loop saves, and what it does when it cannot."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxnets import errors
from flaxnets.train.checkpoint import Checkpoints
from flaxnets.train.state import Trainable


class Saver:
    """Saves states to checkpoints, if there are any; a full disk does not end a run.

    A save that fails is reported and tried again with the next state; only the last
    one of a run raises.

    Args:
        checkpoints: where to save; None saves nothing.
        say: told of each failure.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, say: Callable[[str], None]
    ) -> None:
        self._checkpoints, self._say = checkpoints, say

    def save(
        self, state: Trainable, metric: float | None, metadata: Mapping[str, Any]
    ) -> None:
        """Saves a state unless its step is saved already.

        Whether its parameters are finite is noted in the metadata, and only then does
        its metric count.
        """
        if self._checkpoints is None:
            return
        finite = bool(_all_finite(state.params))
        try:
            self._checkpoints.wait()
            self._save(state, metric, metadata, finite)
        except errors.RunFolderError as error:
            self._say(f"warning: {error}; training goes on")
            self._save(state, metric, metadata, finite)

    def last_good(self) -> int | None:
        """The last saved step whose parameters are finite."""
        return self._checkpoints.last_good() if self._checkpoints is not None else None

    def finish(self) -> None:
        """Waits for the last save.

        Raises:
            RunFolderError: it could not be written.
        """
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def _save(
        self,
        state: Trainable,
        metric: float | None,
        metadata: Mapping[str, Any],
        finite: bool,
    ) -> None:
        assert self._checkpoints is not None
        step = int(state.step)
        if step not in self._checkpoints.steps():
            self._checkpoints.save(
                step,
                state,
                metric=metric if finite else None,
                metadata={**metadata, "finite": finite},
            )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
