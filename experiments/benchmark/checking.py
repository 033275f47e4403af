"""Whether contenders do the same work: the same losses on the same batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Where Adam adds epsilon: to the root of the corrected second moment (Kingma and Ba
# 2015, algorithm 1: optax, PyTorch), or of the uncorrected one (the form at the end of
# their section 2: Keras). That alone moves these losses by some percent, so flaxnets
# answers for both forms, and is compared in that of its peer.
FORMS = frozenset({"paper", "keras"})

# Nothing but the order of float32 sums differs, and Adam has hardly grown it yet.
EARLY_STEPS = 8
EARLY_TOLERANCE = 1e-4
# Adam divides by the root of a running mean of squared gradients, so rounding in tiny
# gradients becomes whole steps; over the steps compared that grows to some 3e-3.
LATER_TOLERANCE = 2e-2
# One test example in a hundred may fall on the other side.
ACCURACY_TOLERANCE = 1e-2


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """How far two answers to a `check` job are from each other, relatively.

    Args:
        ours, theirs: with `losses`; and both or neither of them with `mean_loss`,
            `test_loss` and `test_accuracy`.
    """
    a, b = np.array(ours["losses"]), np.array(theirs["losses"])
    if a.shape != b.shape:
        return {"steps": float(abs(len(a) - len(b)))}
    apart = np.abs(a - b) / np.abs(a)
    found = {
        "early losses": float(apart[:EARLY_STEPS].max()),
        "losses": float(apart.max()),
    }
    for name in ("mean_loss", "test_loss"):
        if name in ours:
            found[name.replace("_", " ")] = abs(theirs[name] / ours[name] - 1)
    if "test_accuracy" in ours:
        accuracies = theirs["test_accuracy"], ours["test_accuracy"]
        found["test accuracy"] = abs(accuracies[0] - accuracies[1])
    return found


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Notes in `theirs` how far it is from `ours`; says what is too far, else None."""
    complaints = []
    for form in sorted(FORMS & theirs.keys()):
        found = theirs[form]["differences"] = differences(ours[form], theirs[form])
        complaints.append(complaint(found))
    return "; ".join(filter(None, complaints)) or None


def complaint(found: dict[str, float], later: float = LATER_TOLERANCE) -> str | None:
    """Says which differences are too large; None where all are small.

    Args:
        found: see `differences`.
        later: tolerance of all losses but the early ones.
    """
    tolerances = {
        "steps": 0.0,
        "early losses": EARLY_TOLERANCE,
        "test accuracy": ACCURACY_TOLERANCE,
    }
    large: Sequence[str] = [
        f"{name} differs by {value:.2g} (at most {limit:.2g})"
        for name, value in found.items()
        # Written so that NaN is a complaint.
        if not value <= (limit := tolerances.get(name, later))
    ]
    return "; ".join(large) or None
