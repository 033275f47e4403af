"""The training state, and the step that is built from a loss and an optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors
from flaxnets import params as trees

Tree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[Tree, Tree, Batch, jax.Array], tuple[jax.Array, tuple[Tree, Metrics]]]


class Trainable(Protocol):
    """What the loop and checkpoints need of a state, which can be any pytree.

    Attributes:
        step: int32[], steps done; each step adds one.
        params: tree of all that is trained.
        variables: what is evaluated.
    """

    @property
    def step(self) -> jax.Array: ...

    @property
    def params(self) -> Tree: ...

    @property
    def variables(self) -> Tree: ...


AnyState = TypeVar("AnyState", bound=Trainable)
StepOf = Callable[[AnyState, Batch], tuple[AnyState, Metrics]]
"""`step(state, batch) -> (state, metrics)` of a kind of state; there is a `loss`."""


class State(NamedTuple):
    """Everything that training changes; a pytree, donated to each step.

    Attributes:
        step: int32[], optimizer steps done.
        params: the whole tree, frozen leaves included.
        statistics: the other variable collections (`batch_stats`), {} if none.
        optimizer: optax's state, of the trainable leaves only.
        key: the run's typed PRNG key; a step uses `fold_in(key, step)`.
    """

    step: jax.Array
    params: Tree
    statistics: Tree
    optimizer: Tree
    key: jax.Array

    @property
    def variables(self) -> dict[str, Tree]:
        """What `model.apply` takes: `{"params": ..., **statistics}`."""
        return {"params": self.params, **self.statistics}


def variables_of(leaves: Mapping[str, Any]) -> dict[str, Tree]:
    """What `model.apply` takes, from a checkpoint's leaves by name."""
    tree = trees.unflatten(leaves)
    return {"params": tree["params"], **tree.get("statistics", {})}


Step = Callable[[State, Batch], tuple[State, Metrics]]


def create(
    variables: Mapping[str, Tree],
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    frozen: str | Sequence[str] = (),
) -> State:
    """A state at step 0 from `model.init`'s variables.

    Args:
        variables: `{"params": ..., **statistics}`.
        optimizer: the transformation that the step will use.
        key: typed PRNG key of the run.
        frozen: globs of parameters that are not trained, as given to `make_step`.
    """
    free, _ = _divide(variables["params"], frozen)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}
    return State(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        statistics=statistics,
        # One compilation, instead of one for each leaf's shape.
        optimizer=jax.jit(optimizer.init)(free),
        key=key,
    )


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    frozen: str | Sequence[str] = (),
    skip_nonfinite: bool = False,
) -> Step:
    """Builds `step(state, batch) -> (state, metrics)`, a pure function to be jitted.

    The loss is differentiated with respect to the trainable leaves only, so nothing
    is computed, and no moment is held, for a frozen one. Statistics of a module whose
    parameters are all frozen stay as they are.

    Args:
        loss: `(params, statistics, batch, key) -> (f32[], (statistics, metrics))`.
        optimizer: any optax transformation; it sees the trainable leaves only.
        frozen: globs of parameter names that are not trained.
        skip_nonfinite: leave the whole state but `step` unchanged where the loss or a
            gradient is not finite; the loss among the metrics is then NaN.

    Raises:
        ArgumentError: (when the step is traced) a glob matches nothing, or everything.
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        free, fixed = _divide(state.params, frozen)
        key = jax.random.fold_in(state.key, state.step)

        def objective(free: Tree) -> tuple[jax.Array, tuple[Tree, Metrics]]:
            whole = trees.merge(free, fixed)
            return loss(whole, state.statistics, batch, key)

        (value, (statistics, metrics)), gradients = jax.value_and_grad(
            objective, has_aux=True
        )(free)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, free)
        free: Tree = optax.apply_updates(free, updates)
        after = State(
            step=state.step + 1,
            params=trees.merge(free, fixed),
            statistics=_keep_frozen(state.statistics, statistics, free, fixed),
            optimizer=optimizer_state,
            key=state.key,
        )
        if skip_nonfinite:
            finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradients))
            after = after._replace(
                **{
                    name: jax.tree.map(
                        lambda new, old: jnp.where(finite, new, old),
                        getattr(after, name),
                        getattr(state, name),
                    )
                    for name in ("params", "statistics", "optimizer")
                }
            )
            metrics = {**metrics, "loss": jnp.where(finite, metrics["loss"], jnp.nan)}
        return after, metrics

    return step


def _divide(params: Tree, frozen: str | Sequence[str]) -> tuple[Tree, Tree]:
    """Splits a parameter tree into its trainable and its frozen leaves."""
    if not frozen:
        return params, {}
    fixed, free = trees.split(params, trees.select(params, frozen))
    if not free:
        raise errors.ArgumentError(
            f"frozen={frozen!r} matches every parameter, so nothing would be trained; "
            f"leave one of these subtrees out of it: {', '.join(params)}"
        )
    return free, fixed


def _keep_frozen(before: Tree, after: Tree, free: Tree, fixed: Tree) -> Tree:
    """Takes the statistics of frozen modules from `before`, the rest from `after`."""
    if not fixed:
        return after
    trained = tuple(trees.flatten(free))
    held = tuple(trees.flatten(fixed))

    def frozen(name: str) -> bool:
        return trees.belongs(name.rpartition("/")[0], held, trained)

    kept = {}
    for collection, tree in after.items():
        names = tuple(name for name in trees.flatten(tree) if frozen(name))
        _, changed = trees.split(tree, names)
        unchanged, _ = trees.split(before[collection], names)
        kept[collection] = trees.merge(changed, unchanged)
    return kept
