"""Measures against scikit-learn, formulas and loops."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from flaxnets import errors
from flaxnets.train import evaluation, metrics

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 5, 300)
LOGITS = GENERATOR.normal(size=(300, 5)).astype(np.float32)
LOGITS[np.arange(300), LABELS] += 1.5
PREDICTED = LOGITS.argmax(axis=1)


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (10, 10), (9950, 10000)])
def test_interval_is_wilsons(correct: int, count: int) -> None:
    expected = stats.binomtest(correct, count).proportion_ci(method="wilson")
    found = metrics.accuracy_interval(correct, count)
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-12)


def test_confusion_precision_recall_and_f1_are_scikit_learns() -> None:
    matrix = metrics.confusion_matrix(PREDICTED, LABELS, 5)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(LABELS, PREDICTED))
    expected = reference.precision_recall_fscore_support(LABELS, PREDICTED)[:3]
    np.testing.assert_allclose(metrics.precision_recall_f1(matrix), expected)


def test_classes_never_seen_count_as_zero() -> None:
    matrix = metrics.confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3)
    np.testing.assert_allclose(
        metrics.precision_recall_f1(matrix), [[0.5, 0, 0], [1, 0, 0], [2 / 3, 0, 0]]
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_scikit_learns(k: int) -> None:
    expected = reference.top_k_accuracy_score(LABELS, LOGITS, k=k)
    assert metrics.top_k_accuracy(LOGITS, LABELS, k) == pytest.approx(expected)


def test_top_1_of_ties_agrees_with_argmax() -> None:
    logits, labels = np.zeros((3, 3)), np.arange(3)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    assert metrics.top_k_accuracy(logits, labels, 1) == accuracy


def test_a_nan_is_never_a_hit() -> None:
    logits = np.array([[np.nan, np.nan], [np.nan, 1.0], [2.0, 1.0]])
    assert metrics.top_k_accuracy(logits, np.array([0, 0, 0]), 1) == 1 / 3
    # Sorted as numpy does, the NaN of the second example comes before its 1.0.
    assert metrics.top_k_accuracy(logits, np.array([1, 1, 1]), 1) == 0


def test_loss_is_scikit_learns_log_loss() -> None:
    probabilities = evaluation.probabilities(LOGITS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    loss = evaluation.cross_entropy(LOGITS, LABELS).mean()
    assert loss == pytest.approx(reference.log_loss(LABELS, probabilities))
    large = evaluation.cross_entropy(1e4 * LOGITS, LABELS)
    assert np.isfinite(large).all()


def test_calibration_error_is_the_bins_mean_gap() -> None:
    probabilities = evaluation.probabilities(LOGITS)
    confidence = probabilities.max(axis=1)
    correct = PREDICTED == LABELS
    expected = 0.0
    for bin in range(15):
        inside = (confidence > bin / 15) & (confidence <= (bin + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    found = metrics.calibration_error(probabilities, LABELS)
    assert found == pytest.approx(expected)


def test_a_confidence_on_a_bins_edge_belongs_to_the_bin_below() -> None:
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25]])
    found = metrics.calibration_error(probabilities, np.array([0, 1]), bins=2)
    # Right at 0.5 and wrong at 0.75, apart: (0.5 + 0.75) / 2; together it is 0.125.
    assert found == 0.625


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first, second = GENERATOR.random((2, 200)) < [[0.9], [0.8]]
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert metrics.mcnemar(first, second) == pytest.approx(expected)
    assert metrics.mcnemar(first, first) == 1.0


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (5, 5), (0, 9), (1, 12), (2400, 2600)]
)
def test_mcnemar_of_any_split(only_first: int, only_second: int) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True])
    second = np.array([False] * only_first + [True] * only_second + [True])
    discordant = max(1, only_first + only_second)
    expected = stats.binomtest(only_first, discordant).pvalue
    found = metrics.mcnemar(first, second), metrics.mcnemar(second, first)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_report_is_strict_json_that_comes_back_equal() -> None:
    report = metrics.report(LOGITS, LABELS, 5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize("wrong", [-1, 5])
def test_report_refuses_labels_out_of_range(wrong: int) -> None:
    """As an index, -1 would count as the last class."""
    labels = LABELS.copy()
    labels[7] = wrong
    with pytest.raises(errors.DataError, match=f"example 7 is {wrong}"):
        metrics.report(LOGITS, labels, 5)


def test_report_counts_every_example() -> None:
    report = metrics.report(LOGITS, LABELS, 5)
    assert report["examples"] == 300
    assert report["errors"] == int(np.sum(PREDICTED != LABELS))
    assert np.sum(report["confusion_matrix"]) == 300
    low, high = report["accuracy_interval"]
    assert low < report["accuracy"] < high
    assert not math.isnan(report["calibration_error"])


def test_report_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(errors.ArgumentError, match="300 labels of 4 classes"):
        metrics.report(LOGITS, LABELS, 4)
