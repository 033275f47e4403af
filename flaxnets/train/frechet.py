"""How far one set of pictures is from another, in the features that a network has.

The Frechet distance of Heusel et al. 2017 (arXiv 1706.08500, section 4), with any
network's features in place of Inception's: that of two normal distributions with the
features' means and covariances.
"""

import dataclasses
import functools

import numpy as np

from flaxnets import errors


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """The normal distribution that stands for a set of features.

    Attributes:
        mean: f64[D].
        covariance: f64[D, D].
    """

    mean: np.ndarray
    covariance: np.ndarray

    @functools.cached_property
    def root(self) -> np.ndarray:
        """A with A A' the covariance, f64[D, D]."""
        values, vectors = np.linalg.eigh(self.covariance)
        # What rounding makes of zero, whose root would be eight orders larger.
        least = len(values) * np.finfo(np.float64).eps * values.max()
        return vectors * np.sqrt(np.where(values > least, values, 0.0))


def statistics(features: np.ndarray) -> Gaussian:
    """Mean and covariance, with N - 1 in its denominator, as `numpy.cov` has it.

    The distance of two samples of one distribution is above zero and falls with their
    number, so compare distances only where N is the same, and beside that of two
    samples of real pictures.

    Args:
        features: [N, D], at least two rows.

    Raises:
        DataError: another shape, or numbers that are not finite.
    """
    if features.ndim != 2 or len(features) < 2 or features.shape[1] == 0:
        raise errors.DataError(
            f"features have shape {features.shape}, but must be [N, D] of at least two "
            "pictures and one feature"
        )
    wide = features.astype(np.float64)
    finite = np.isfinite(wide).all(axis=1)
    if not finite.all():
        raise errors.DataError(
            f"the features of {(~finite).sum()} of {len(wide)} pictures hold NaN or "
            f"infinity (first at {finite.argmin()}); check the network and the pictures"
        )
    mean = wide.mean(axis=0)
    centred = wide - mean
    return Gaussian(mean, centred.T @ centred / (len(wide) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Frechet distance, as it is reported: 0 for the same distribution.

    |m - n|^2 + tr(S) + tr(T) - 2 tr((S T)^(1/2)) of means m, n and covariances S, T
    (Dowson and Landau 1982). S T is not symmetric, and the square root of what is
    nearly singular is neither accurate nor always real, so none is taken: with
    S = A A' and T = B B' from eigenvalues, the last trace is the sum of the singular
    values of A' B. Fewer pictures than features are no trouble.

    Args:
        first, second: of as many features each, see `statistics`.

    Raises:
        ArgumentError: they are of different numbers of features.
    """
    if first.mean.shape != second.mean.shape:
        raise errors.ArgumentError(
            f"the distributions are of {first.mean.size} and {second.mean.size} "
            "features, but both must be of the same; take them from one layer of one "
            "network"
        )
    apart = np.square(first.mean - second.mean).sum()
    spread = sum(np.square(gaussian.root).sum() for gaussian in (first, second))
    common = np.linalg.svd(first.root.T @ second.root, compute_uv=False).sum()
    # Rounding alone can bring equal distributions below zero.
    return max(float(apart + spread - 2 * common), 0.0)
