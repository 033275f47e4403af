"""What the studies' command lines share."""

from types import SimpleNamespace
from typing import Any

import pytest

from experiments import commands
from flaxnets import errors


@pytest.mark.parametrize(
    ("stopped", "ended"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)]
)
def test_a_training_that_was_stopped_ends_the_study(stopped, ended, capsys) -> None:
    fitted: Any = SimpleNamespace(stopped=stopped, state=SimpleNamespace(step=7))
    with pytest.raises(ended):
        commands.whole(fitted)
    assert capsys.readouterr().out == f"stopped by {stopped} after step 7\n"


def test_a_whole_training_says_nothing(capsys) -> None:
    fitted: Any = SimpleNamespace(stopped="finished", state=SimpleNamespace(step=7))
    commands.whole(fitted)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_are_not_positive_are_refused(value: float) -> None:
    config = SimpleNamespace(some_rate=value)
    with pytest.raises(errors.ArgumentError, match=f"--some-rate is {value}"):
        commands.positive(config, ("some_rate",))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_none_are_refused(seed: int) -> None:
    with pytest.raises(errors.ArgumentError, match=f"--seed is {seed}"):
        commands.seeded(SimpleNamespace(seed=seed))
    commands.seeded(SimpleNamespace(seed=2**32 - 1))
