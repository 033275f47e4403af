"""From fewer trained parameters to more, in one training."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from flaxnets import data as datasets
from flaxnets import errors, params, train
from flaxnets.train import state as states


class Phase(NamedTuple):
    """A part of a training, in which the same parameters are frozen.

    Attributes:
        epoch: its first, counted from 0.
        frozen: globs, or names, of what it does not train.
        loss: as for `train.make_step`.
        evaluator: as for `train.fit`.
        data: as for `train.fit`, or a function that makes them from the variables,
            called when the phase begins; such as features at its frozen boundary.
    """

    epoch: int
    frozen: str | Sequence[str]
    loss: states.Loss
    evaluator: train.Evaluator
    data: datasets.Dataset | Callable[[Any], datasets.Dataset]


def phase_at(phases: Sequence[Phase], step: int, steps_per_epoch: int) -> Phase:
    """The phase that a state of a step comes from, so that of the step before it.

    What a checkpoint holds of the optimizer is that phase's:

    >>> phase = transfer.phase_at(phases, checkpoints.latest(), steps_per_epoch)
    >>> state = train.create(variables, optimizer, key=key, frozen=phase.frozen)
    >>> state = checkpoints.restore(state, checkpoints.latest())
    """
    epoch = max(step - 1, 0) // steps_per_epoch
    return [phase for phase in phases if phase.epoch <= epoch][-1]


def fit_phases(
    state: train.State,
    optimizer: optax.GradientTransformation,
    phases: Sequence[Phase],
    *,
    epochs: int,
    batch_size: int,
    steps_per_epoch: int,
    records: Sequence[dict[str, Any]] = (),
    resumed: Mapping[str, Any] | None = None,
    on_phase: Callable[[Phase], None] = lambda phase: None,
    **options: Any,
) -> train.Fitted:
    """Trains phase after phase, with fewer parameters frozen in each.

    Gradual unfreezing by a schedule (Howard and Ruder 2018, section 3.3). As with
    `train.fit`, a state that is taken up again ends bit-equal (on CPU) to one that was
    never interrupted, whatever phase it was in.

    >>> phases = [
    ...     transfer.Phase(0, "backbone/**", loss, evaluator, dataset),
    ...     transfer.Phase(3, "backbone/conv1/**", loss, evaluator, dataset),
    ...     transfer.Phase(5, (), loss, evaluator, dataset),
    ... ]

    Args:
        state: at step 0 of the first phase, or where an earlier call stopped.
        optimizer: the same in all phases; see `thawed` for what becomes of its state.
        phases: in their order.
        epochs, batch_size, records, resumed: as for `train.fit`.
        steps_per_epoch: the same in each phase's data.
        on_phase: called when a phase begins or is resumed, before its data are made.
        options: the other arguments of `train.fit`. Of its `seconds`, the time that a
            phase's data take counts when the phase begins.

    Returns:
        What the last phase's fit returns, with the times of all.

    Raises:
        ArgumentError: the first phase does not begin at 0, the others not later than
            those before them, one has another number of steps in an epoch, or freezes
            what was trained before; and as `train.fit`.
    """
    starts = [phase.epoch for phase in phases]
    if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
        raise errors.ArgumentError(
            f"the phases begin at epochs {starts}, but the first must begin at 0 and "
            "each later than the one before it"
        )
    if starts[-1] >= epochs:
        raise errors.ArgumentError(
            f"a phase begins at epoch {starts[-1]}, but there are {epochs} epochs"
        )
    frozen = [
        set(params.select(state.params, phase.frozen)) if phase.frozen else set()
        for phase in phases
    ]
    for before, after, phase in zip(frozen, frozen[1:], phases[1:], strict=False):
        if again := sorted(after - before):
            raise errors.ArgumentError(
                f"the phase from epoch {phase.epoch} on freezes {again[0]}, which the "
                "one before it trains; freeze less in each phase"
            )
    begun = phases.index(phase_at(phases, int(state.step), steps_per_epoch))
    done: list[train.Fitted] = []
    for number in range(begun, len(phases)):
        phase = phases[number]
        start = phase.epoch * steps_per_epoch
        end = starts[number + 1] if number + 1 < len(phases) else epochs
        if int(state.step) >= end * steps_per_epoch and number + 1 < len(phases):
            continue
        if number and int(state.step) == start:
            state = thawed(state, optimizer, frozen=phase.frozen)
        on_phase(phase)
        began = time.perf_counter()
        dataset = phase.data
        if not isinstance(dataset, datasets.Dataset):
            dataset = dataset(state.variables)
        spent = time.perf_counter() - began if int(state.step) == start else 0.0
        found = datasets.steps_per_epoch(len(dataset.train.images), batch_size)
        if found != steps_per_epoch:
            raise errors.ArgumentError(
                f"an epoch of the phase from epoch {phase.epoch} on has {found} steps, "
                f"but steps_per_epoch is {steps_per_epoch}; give each phase as many "
                "examples"
            )
        fitted = train.fit(
            state,
            train.make_step(
                phase.loss,
                optimizer,
                frozen=phase.frozen,
                skip_nonfinite=options.get("skip_nonfinite", False),
            ),
            dataset,
            epochs=end,
            batch_size=batch_size,
            evaluator=phase.evaluator,
            records=done[-1].records if done else records,
            resumed=done[-1].metadata if done else resumed,
            spent=spent,
            **options,
        )
        done.append(fitted)
        state = fitted.state
        if fitted.stopped != "finished":
            break
    return done[-1]._replace(
        first_step_at=next(
            (one.first_step_at for one in done if one.first_step_at), None
        ),
        compile_seconds=sum(one.compile_seconds for one in done),
    )


def thawed(
    state: train.State,
    optimizer: optax.GradientTransformation,
    *,
    frozen: str | Sequence[str] = (),
) -> train.State:
    """A state in training, to be trained on with fewer parameters frozen.

    What `fit_phases` does between its phases, for loops of one's own:

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
