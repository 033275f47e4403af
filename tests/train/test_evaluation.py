"""Prediction and evaluation against the network called at once, and scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from flaxnets import errors, models, params, train

MODEL = models.CNN(num_classes=3, widths=(4,), pools=1, dense=(8,))
VARIABLES = params.initialize(MODEL, jax.random.key(0), (1, 6, 6, 1))
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (13, 6, 6, 1)).astype(np.uint8)
LABELS = GENERATOR.integers(0, 3, 13).astype(np.int32)


# A last batch that is full, short, alone, and larger than all images.
@pytest.mark.parametrize("batch_size", [13, 5, 1, 20])
def test_every_example_counts_once(batch_size: int) -> None:
    evaluator = train.Evaluator(MODEL.apply, batch_size=batch_size)
    logits, _ = MODEL.apply(VARIABLES, IMAGES / np.float32(255))
    found = evaluator.predict(VARIABLES, IMAGES)
    # Another batch size sums in another order.
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
    probabilities = train.probabilities(found)
    tested = evaluator.evaluate(VARIABLES, IMAGES, LABELS)
    assert tested["loss"] == pytest.approx(log_loss(LABELS, probabilities))
    expected = accuracy_score(LABELS, probabilities.argmax(axis=1))
    assert tested["accuracy"] == pytest.approx(expected)


def test_probabilities_of_large_logits_are_finite() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], np.float32)
    expected = [[1, 0, 0], [1 / 3] * 3]
    np.testing.assert_allclose(train.probabilities(logits), expected)
    tested = train.scores(logits, np.array([2, 0]))
    assert tested["loss"] == pytest.approx((2e4 + np.log(3)) / 2)


def test_endpoints_come_in_the_networks_order() -> None:
    """jit sorts the dicts that it returns: pool1 would come last."""
    evaluator = train.Evaluator(MODEL.apply)
    found = evaluator.endpoints(VARIABLES, IMAGES[:2])
    _, expected = MODEL.apply(VARIABLES, IMAGES[:2] / np.float32(255))
    assert list(found) == ["conv1", "pool1", "features", "dense1", "logits"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_no_images_are_refused() -> None:
    with pytest.raises(errors.DataError, match="no images"):
        train.Evaluator(MODEL.apply).predict(VARIABLES, IMAGES[:0])
