"""What a run with frozen parameters did, and did not, do to them."""

from collections.abc import Collection
from typing import Any

import jax
import optax

from flaxnets import params
from flaxnets.train.state import State
from flaxnets.transfer.plan import Plan


def fingerprint(state: State, frozen: Collection[str]) -> str:
    """The SHA-256 of the frozen parameters and of frozen modules' statistics."""
    leaves = params.flatten(state.params)
    trained = leaves.keys() - set(frozen)
    held = {f"params/{name}": leaves[name] for name in frozen}
    for name, leaf in params.flatten(state.statistics).items():
        module = name.partition("/")[2].rpartition("/")[0]
        if params.belongs(module, frozen, trained):
            held[name] = leaf
    return params.fingerprint(jax.device_get(held))


def certificate(
    before: str, state: State, plan: Plan, optimizer: optax.GradientTransformation
) -> dict[str, Any]:
    """What a run can show for its freezing, as JSON.

    Args:
        before: the `fingerprint` at the run's beginning.
        state: at its end.
        plan: whose `frozen` parameters it held fast.
        optimizer: the run's.

    Returns:
        `frozen_leaves` and `frozen_parameters`, their numbers; `trained_leaves`, the
        others' names; `sha256_before`, `sha256_after` and `unchanged`;
        `optimizer_bytes`, and `optimizer_bytes_saved` against training everything;
        `step_flops` of a picture, and `step_flops_avoided` against training
        everything (see `Plan.flops`).
    """
    leaves = params.flatten(state.params)
    after = fingerprint(state, plan.frozen)
    held = params.nbytes(state.optimizer)
    everything = params.nbytes(jax.eval_shape(optimizer.init, state.params))
    done, whole = plan.flops(state.variables)
    frozen = set(plan.frozen)
    return {
        "frozen_leaves": len(frozen),
        "frozen_parameters": params.count([leaves[name] for name in frozen]),
        "trained_leaves": [name for name in leaves if name not in frozen],
        "sha256_before": before,
        "sha256_after": after,
        "unchanged": before == after,
        "optimizer_bytes": held,
        "optimizer_bytes_saved": everything - held,
        "step_flops": done,
        "step_flops_avoided": whole - done,
    }
