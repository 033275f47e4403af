"""The benchmark's arithmetic: medians, ratios, and what counts as the same work."""

import copy
import math
from typing import Any

import pytest

from experiments.benchmark import checking, summary
from experiments.benchmark.workers import floor


def timed(contender: str, number: int, milliseconds: float) -> dict[str, Any]:
    """What a worker answers whose three windows of ten steps take this long."""
    return {
        "contender": contender,
        "kind": "steps",
        "status": "ok",
        "round": number,
        "batch_size": 8,
        "window_steps": 10,
        # The median leaves out the window that was disturbed.
        "window_seconds": [milliseconds / 100, 9.0, milliseconds / 100],
        "first_step_seconds": 1.0,
        "compile_seconds": None,
        "peak_memory_bytes": 1,
        "backend": "cpu",
        "device": "cpu",
    }


def test_ratios_are_of_the_same_round() -> None:
    """Pairs of a round, so that a slow round of all of them changes no ratio."""
    ours, theirs = [2.0, 30.0, 2.0], [4.0, 40.0, 5.0]
    outcomes = [
        timed(name, number, value)
        for name, values in (("flaxnets", ours), ("pytorch", theirs))
        for number, value in enumerate(values)
    ]
    outcomes += [timed("keras-jax", number, 100.0) for number in range(3)]
    outcomes.append(
        {
            **timed("floor", 0, 1.0),
            "kind": "floor",
            "floor_seconds": 0.0005,
            "product_seconds": 0.0004,
            "adam_seconds": 0.0001,
        }
    )
    failed = {**timed("pytorch-compile", 0, 1.0), "status": "failed"}
    table = summary.summarize([*outcomes, failed], [8])["steps"]["8"]
    assert table["fastest_peer"] == "pytorch"
    # 2/4, 30/40, 2/5
    assert table["ratio_to_fastest_peer"] == pytest.approx(
        {"min": 0.4, "median": 0.5, "max": 0.75}
    )
    assert table["rows"]["flaxnets"]["step_ms"]["median"] == pytest.approx(2.0)
    assert table["rows"]["flaxnets"]["times_floor"] == pytest.approx(4.0)
    assert set(table["rows"]) == {"flaxnets", "pytorch", "keras-jax"}


def test_a_race_not_won_has_no_time() -> None:
    outcome = {"race": [{"seconds": 3.0, "test_accuracy": 0.98}], "reached": False}
    assert summary.race_seconds(outcome) is None
    assert summary.race_seconds({**outcome, "reached": True}) == 3.0


ANSWER = {
    "losses": [2.3, 2.0, 1.5],
    "mean_loss": 1.93,
    "test_loss": 1.4,
    "test_accuracy": 0.5,
}


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("losses", [2.301, 2.0, 1.5], "early losses differs"),
        ("losses", [2.3, 2.0], "steps differs by 1"),
        ("losses", [2.3, math.nan, 1.5], "losses differs by nan"),
        ("mean_loss", 1.8, "mean loss differs"),
        ("test_loss", 1.5, "test loss differs"),
        ("test_accuracy", 0.52, "test accuracy differs"),
    ],
)
def test_other_work_is_noticed(name: str, value: Any, complaint: str) -> None:
    same = {"paper": copy.deepcopy(ANSWER)}
    assert checking.check({"paper": ANSWER, "keras": ANSWER}, same) is None
    other = {"paper": {**ANSWER, name: value}}
    found = checking.check({"paper": ANSWER, "keras": ANSWER}, other)
    assert found is not None and complaint in found


def test_the_floor_counts_each_product_once() -> None:
    """7.58 MFLOP forward an example, twice that backward less the first input's."""
    shapes = {
        "conv1/kernel": (3, 3, 1, 16),
        "conv1/bias": (16,),
        "conv2/kernel": (3, 3, 16, 32),
        "conv3/kernel": (3, 3, 32, 64),
        "dense1/kernel": (3136, 512),
        "dense2/kernel": (512, 512),
        "logits/kernel": (512, 10),
    }
    found = floor.matrix_products(shapes, (28, 28, 1), 2)
    flops = {
        role: sum(2 * p.m * p.k * p.n for p in found if p.role == role) / 2
        for role in ("forward", "kernel gradient", "input gradient")
    }
    convolutions = 2 * (784 * 9 * 16 + 196 * 144 * 32 + 49 * 288 * 64)
    dense = 2 * (3136 * 512 + 512 * 512 + 512 * 10)
    assert flops["forward"] == flops["kernel gradient"] == convolutions + dense
    assert flops["input gradient"] == flops["forward"] - 2 * 784 * 9 * 16
    assert flops["forward"] / 1e6 == pytest.approx(7.58, abs=0.005)
