"""The measure of patterns that un-pooling leaves."""

import numpy as np
import pytest

from flaxnets import errors
from flaxnets.train import similarity


def test_a_board_has_all_of_its_energy_there_and_a_slope_none() -> None:
    rows, columns = np.mgrid[:12, :8]
    board = ((rows + columns) % 2 - 0.5)[None, ..., None]
    assert similarity.checkerboard(board) == pytest.approx(1.0)
    stripes = (rows % 2 - 0.5)[None, ..., None]
    assert similarity.checkerboard(stripes) == pytest.approx(1.0)
    wave = np.cos(2 * np.pi * columns / 8)[None, ..., None]
    assert similarity.checkerboard(wave) == pytest.approx(0.0, abs=1e-12)
    # Half of the energy each.
    both = (board * 2 + wave * np.sqrt(2)) / 3
    assert similarity.checkerboard(both) == pytest.approx(0.5)
    # The mean does not count.
    assert similarity.checkerboard(board + 5) == pytest.approx(1.0)
    assert similarity.checkerboard(np.zeros((1, 4, 4, 1))) == 0


@pytest.mark.parametrize("period", [2, 3])
def test_it_is_what_the_definition_sums_up(period: int) -> None:
    generator = np.random.default_rng(0)
    found = generator.normal(size=(2, 6, 9, 2))
    height, width = 6, 9
    inside = total = 0.0
    for p in range(height):
        for q in range(width):
            if (p, q) == (0, 0):
                continue
            turn = np.exp(
                -2j
                * np.pi
                * (
                    p * np.arange(height)[:, None] / height
                    + q * np.arange(width) / width
                )
            )
            power = np.sum(
                np.abs(np.einsum("bhwc,hw->bc", found, turn)) ** 2  # every image
            )
            total += power
            # p / height is a multiple of 1 / period, or q / width is.
            row = p > 0 and height % period == 0 and p * period % height == 0
            column = q > 0 and width % period == 0 and q * period % width == 0
            inside += power * (row or column)
    assert similarity.checkerboard(found, period=period) == pytest.approx(
        inside / total, rel=1e-9
    )


def test_a_period_that_fits_neither_side_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="multiple of the period 4"):
        similarity.checkerboard(np.zeros((1, 6, 9, 1)), period=4)
