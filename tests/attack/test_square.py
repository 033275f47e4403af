"""Square on networks whose weakest points are known, its squares and its bumps."""

import jax
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack.square import bumps, sides_of_squares
from tests.attack import small


def test_breaks_what_can_be_broken_and_nothing_else() -> None:
    small.assert_breaks_what_can_be_broken(
        lambda epsilon: attack.square(epsilon, queries=3000)
    )


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.3)])
def test_bounds_progress_calls_and_independence(
    norm: attack.Norm, epsilon: float
) -> None:
    # The calls are of the picture itself, and the queries.
    small.assert_bounded_independent_and_better(
        attack.square(epsilon, norm, queries=60),
        epsilon,
        norm,
        lambda logits, labels: -attack.margin(logits, labels),
        1 + 60,
    )


def test_gives_the_pictures_back_where_there_is_nothing_to_follow() -> None:
    small.assert_gives_the_pictures_back(attack.square(0.1, queries=3))


def test_square_asks_for_logits_only() -> None:
    @jax.custom_vjp
    def secret(images: jax.Array) -> jax.Array:
        return small.affine(images)

    def refused(*_) -> None:
        raise AssertionError("the gradient was asked for")

    secret.defvjp(lambda images: (small.affine(images), ()), refused)
    given = small.pictures(), np.zeros(len(small.pictures()), int), jax.random.key(0)
    for norm in ("linf", "l2"):
        jax.eval_shape(small.compiled(attack.square(0.1, norm), secret), *given)
    with pytest.raises(AssertionError, match="the gradient was asked for"):
        jax.eval_shape(small.compiled(attack.apgd(0.1), secret), *given)


def test_square_aims_at_targets() -> None:
    images = small.pictures()
    targets = (np.asarray(small.affine(images)).argmax(axis=1) + 1) % 5
    made = attack.square(0.5, queries=400, targeted=True)
    found = small.compiled(made, small.affine)(images, targets, jax.random.key(0))
    outputs = np.asarray(found).reshape(len(images), -1) @ small.KERNEL
    np.testing.assert_array_equal(outputs.argmax(axis=1), targets)


def test_squares_shrink_as_in_the_paper() -> None:
    sides = sides_of_squares(10_000, 32, 32, 0.8, "linf")
    for query, halvings in ((10, 0), (11, 1), (51, 2), (6001, 8), (9999, 9)):
        assert sides[query] == max(round(np.sqrt(0.8 / 2**halvings) * 32), 1)
    # A tenth of the queries: the same squares at a tenth.
    np.testing.assert_array_equal(
        sides_of_squares(1000, 32, 32, 0.8, "linf"), sides[::10]
    )
    assert set(sides_of_squares(500, 4, 90, 1.0, "l2")) == {3}
    assert set(sides_of_squares(500, 2, 90, 1.0, "l2")) == {1}


@pytest.mark.parametrize("side", [1, 3, 6, 25])
def test_bumps_are_concentric_squares(side: int) -> None:
    expected = np.zeros((side, side))
    upper = side // 2
    for first, last, sign in ((0, upper, 1), (upper, side, -1)):
        half = np.zeros((last - first, side))
        row, column = half.shape[0] // 2, side // 2
        for radius in range(max(row, column) + 1):
            rows = slice(max(row - radius, 0), row + radius + 1)
            columns = slice(max(column - radius, 0), column + radius + 1)
            half[rows, columns] += 1 / (radius + 1) ** 2
        if half.size:
            expected[first:last] = sign * half / np.linalg.norm(half)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(bumps(side), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": float("nan")}, "epsilon"),
        ({"queries": 0}, "queries is 0"),
        ({"initial_share": 0}, "initial_share is 0"),
    ],
)
def test_options_are_checked_at_once(options: dict, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        attack.square(**{"epsilon": 0.1, **options})
