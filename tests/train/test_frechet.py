"""The Frechet distance against SciPy's matrix square root and closed forms."""

import numpy as np
import pytest
from scipy import linalg

from flaxnets import errors
from flaxnets.train import frechet
from flaxnets.train.frechet import Gaussian

GENERATOR = np.random.default_rng(0)


def mixed(count: int, size: int) -> np.ndarray:
    """Correlated features whose mean is not zero."""
    mixing = GENERATOR.standard_normal((size, size))
    return GENERATOR.standard_normal((count, size)) @ mixing + mixing[0]


def test_statistics_are_those_of_numpy() -> None:
    features = mixed(30, 4).astype(np.float32)
    found = frechet.statistics(features)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    wide = features.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-12)
    # Sums of 30 products of size ten, some of which cancel.
    np.testing.assert_allclose(
        found.covariance, np.cov(wide, rowvar=False), rtol=1e-12, atol=1e-12
    )


def test_it_is_the_formula_with_scipy_s_square_root() -> None:
    for size in (1, 5, 20):
        first, second = (frechet.statistics(mixed(n, size)) for n in (60, 90))
        product = first.covariance @ second.covariance
        root = linalg.sqrtm(product)
        expected = np.square(first.mean - second.mean).sum() + np.trace(
            first.covariance + second.covariance - 2 * np.real(root)
        )
        found = frechet.frechet_distance(first, second)
        # SciPy's root of a product whose condition is some 1e8 has that much of 1e-16.
        assert found == pytest.approx(expected, rel=1e-6)
        assert frechet.frechet_distance(second, first) == pytest.approx(found, rel=1e-9)


def test_diagonal_covariances_have_a_closed_form() -> None:
    """The squared distance of the means, and that of the deviations."""
    means, deviations = GENERATOR.standard_normal((2, 7)), GENERATOR.random((2, 7))
    # A feature that never changes, on one side and on both.
    deviations[0, 0] = deviations[:, 1] = 0
    first, second = (
        Gaussian(mean, np.diag(deviation**2))
        for mean, deviation in zip(means, deviations, strict=True)
    )
    expected = np.square(means[0] - means[1]).sum()
    expected += np.square(deviations[0] - deviations[1]).sum()
    found = frechet.frechet_distance(first, second)
    assert found == pytest.approx(expected, rel=1e-12)


def test_fewer_pictures_than_features() -> None:
    """Covariances of rank one: a^2 u u' and b^2 v v', whose root's trace is ab|u'v|."""
    u, v = (vector / np.linalg.norm(vector) for vector in mixed(2, 40))
    lengths = GENERATOR.standard_normal((2, 9))
    first, second = (
        frechet.statistics(along[:, None] * direction)
        for along, direction in zip(lengths, (u, v), strict=True)
    )
    a, b = lengths.std(axis=1, ddof=1)
    apart = lengths.mean(axis=1)[0] * u - lengths.mean(axis=1)[1] * v
    expected = apart @ apart + a**2 + b**2 - 2 * a * b * abs(u @ v)
    found = frechet.frechet_distance(first, second)
    assert found == pytest.approx(expected, rel=1e-9)


def test_of_a_distribution_to_itself_it_is_zero() -> None:
    for count in (10, 200):
        features = mixed(count, 50)
        own = frechet.statistics(features)
        scale = np.trace(own.covariance)
        assert 0 <= frechet.frechet_distance(own, own) < 1e-10 * scale
        # Moved by one in each of 50 features.
        moved = frechet.statistics(features + 1)
        found = frechet.frechet_distance(own, moved)
        assert found == pytest.approx(50, abs=1e-10 * scale)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 2, 2)), r"features have shape \(3, 2, 2\)"),
        (np.zeros((1, 4)), "at least two pictures"),
        (np.zeros((4, 0)), "one feature"),
        (np.array([[0.0], [np.nan], [np.inf]]), r"2 of 3 pictures .*\(first at 1\)"),
    ],
)
def test_features_that_cannot_be_used(features: np.ndarray, message: str) -> None:
    with pytest.raises(errors.DataError, match=message):
        frechet.statistics(features)


def test_features_of_different_layers_are_refused() -> None:
    first, second = (frechet.statistics(mixed(9, size)) for size in (2, 3))
    with pytest.raises(errors.ArgumentError, match="of 2 and 3 features"):
        frechet.frechet_distance(first, second)
