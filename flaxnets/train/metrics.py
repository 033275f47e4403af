"""What a classifier's logits say about it, exact, on the host."""

import math
from typing import Any

import numpy as np

from flaxnets import errors
from flaxnets.data import arrays
from flaxnets.train import evaluation

# The 97.5 % quantile of the standard normal distribution.
_Z95 = 1.959963984540054


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of correct / count, count > 0 (Wilson 1927)."""
    share = correct / count
    scale = 1 + _Z95**2 / count
    middle = (share + _Z95**2 / (2 * count)) / scale
    spread = share * (1 - share) / count + _Z95**2 / (4 * count**2)
    half = _Z95 * math.sqrt(spread) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion_matrix(
    predicted: np.ndarray, labels: np.ndarray, class_count: int
) -> np.ndarray:
    """Counts int64[K, K]: row = true class, column = predicted class."""
    matrix = np.zeros((class_count, class_count), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def precision_recall_f1(matrix: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 of each class, float64[3, K]; 0 where undefined."""
    hits = np.diag(matrix).astype(np.float64)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    pairs = ((hits, predicted), (hits, actual), (2 * hits, predicted + actual))
    return np.stack(
        [
            np.divide(top, bottom, out=np.zeros_like(hits), where=bottom > 0)
            for top, bottom in pairs
        ]
    )


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of examples whose true class is among the k largest logits.

    Of equal logits the lower class counts as larger, as in argmax.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower = np.arange(logits.shape[1]) < labels[:, None]
    # "Not at most", so that a NaN is never a hit.
    ahead = ~(logits <= own) | ((logits == own) & lower)
    ahead = ahead.sum(axis=1)
    return float(np.mean(ahead < k))


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> float:
    """Expected calibration error with equal-width bins (Guo et al. 2017, eq. 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    # Bins are open on the left: (0, 1/bins], ..., (1 - 1/bins, 1].
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> float:
    """Exact two-sided p-value that two classifiers err equally often (McNemar 1947).

    The binomial probability, at equal chances, of a split of the discordant examples
    at least this uneven; small values speak for a real difference.

    Args:
        first_correct, second_correct: bool[N], on the same examples.
    """
    only_first = int(np.sum(first_correct & ~second_correct))
    only_second = int(np.sum(second_correct & ~first_correct))
    discordant = only_first + only_second
    ways = tail = 1
    for k in range(min(only_first, only_second)):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def report(logits: np.ndarray, labels: np.ndarray, class_count: int) -> dict[str, Any]:
    """Every measure of one evaluation, ready for JSON.

    Args:
        logits: f32[N, K].
        labels: int[N].
        class_count: K.

    Raises:
        ArgumentError: shapes that do not fit.
        DataError: a label is not one of 0 to K - 1.
    """
    if logits.shape != (len(labels), class_count):
        raise errors.ArgumentError(
            f"logits of shape {logits.shape} do not fit {len(labels)} labels of "
            f"{class_count} classes"
        )
    arrays.check_labels("labels", labels, class_count)
    predicted = logits.argmax(axis=1)
    correct = int(np.sum(predicted == labels))
    matrix = confusion_matrix(predicted, labels, class_count)
    precision, recall, f1 = precision_recall_f1(matrix)
    probabilities = evaluation.probabilities(logits)
    return {
        "examples": len(labels),
        "errors": len(labels) - correct,
        "accuracy": correct / len(labels),
        "accuracy_interval": list(accuracy_interval(correct, len(labels))),
        "top_3_accuracy": top_k_accuracy(logits, labels, min(3, class_count)),
        "loss": float(evaluation.cross_entropy(logits, labels).mean()),
        "calibration_error": calibration_error(probabilities, labels),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "confusion_matrix": matrix.tolist(),
    }
