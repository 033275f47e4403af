"""Losses against their formulas, and the loss function that a classifier's step takes.

Tolerances are a few units of float32's precision, since the references are float64.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from flaxnets import errors, train
from flaxnets.data import augmentation, mixing
from flaxnets.train import losses

GENERATOR = np.random.default_rng(0)
LOGITS = 3 * GENERATOR.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 3, 2, 1, 1, 0], np.int32)
SOFT = special.softmax(GENERATOR.normal(size=(6, 4)), axis=1).astype(np.float32)
ERRORS = np.array([[0.0, 0.5], [-1.0, 1.0], [3.0, -4.0]], np.float32)


def reference(logits, targets) -> np.ndarray:
    logarithms = special.log_softmax(np.asarray(logits, np.float64), axis=1)
    return -(np.asarray(targets, np.float64) * logarithms).sum(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, np.eye(4)[LABELS], SOFT])
def test_cross_entropy_is_its_formula(labels, smoothing) -> None:
    targets = np.eye(4)[labels] if labels.ndim == 1 else labels
    found = losses.cross_entropy(
        jnp.asarray(LOGITS), jnp.asarray(labels), label_smoothing=smoothing
    )
    expected = reference(LOGITS, (1 - smoothing) * targets + smoothing / 4)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gradient_of_cross_entropy_is_softmax_minus_target() -> None:
    labels = jnp.asarray(LABELS)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, labels).sum())(LOGITS)
    expected = special.softmax(LOGITS.astype(np.float64), axis=1) - np.eye(4)[LABELS]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_cross_entropies_stay_finite_for_huge_logits() -> None:
    logits = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    labels = jnp.array([1, 1])
    assert losses.cross_entropy(logits, labels).tolist() == [1e4, 0.0]
    targets = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    found = losses.binary_cross_entropy(logits, targets)
    log2 = float(np.log(2))
    np.testing.assert_allclose(found, [(1e4 + log2) / 2, log2 / 2], rtol=1e-6)


def test_binary_cross_entropy_is_its_formula() -> None:
    targets = SOFT[:, :3].reshape(6, 3, 1)
    logits = LOGITS[:, :3].reshape(6, 3, 1)
    share = special.expit(logits.astype(np.float64))
    values = targets * np.log(share) + (1 - targets) * np.log1p(-share)
    found = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(found, -values.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.mean_squared_error, [0.125, 1.0, 12.5]),
        (losses.mean_absolute_error, [0.25, 1.0, 3.5]),
        # 0.5 e^2 up to delta = 1, and |e| - 0.5 beyond.
        (losses.huber, [0.0625, 0.5, 3.0]),
        # 0.5 e^2 up to delta = 2, and 2 |e| - 2 beyond.
        (partial(losses.huber, delta=2.0), [0.0625, 0.5, 5.0]),
    ],
)
def test_regression_losses_by_hand(loss, expected) -> None:
    targets = jnp.full((3, 2), 7.0)
    assert loss(targets + ERRORS, targets).tolist() == expected
    wide = jnp.tile(targets[:, None, :, None], (1, 5, 1, 2))
    moved = wide + jnp.asarray(ERRORS)[:, None, :, None]
    np.testing.assert_allclose(loss(moved, wide), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        losses.binary_cross_entropy,
        losses.mean_squared_error,
        losses.mean_absolute_error,
        losses.huber,
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss) -> None:
    with pytest.raises(errors.ArgumentError, match=r"\(4, 3\).*\(4, 1\)"):
        loss(jnp.zeros((4, 3)), jnp.zeros((4, 1)))


class Classifier(nn.Module):
    """A linear classifier of images with what a loss has to handle."""

    norm: bool = False
    dropout: float = 0.0
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1).astype(self.dtype)
        if self.norm:
            x = nn.BatchNorm(not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(3, dtype=self.dtype, name="logits")(x)
        return x, {"logits": x}


PIXELS = GENERATOR.integers(0, 256, (8, 4, 4, 1), np.uint8)
BATCH = {
    "image": jnp.asarray(PIXELS),
    "label": jnp.array([0, 1, 2, 0, 1, 2, 0, 1]),
}
KEY = jax.random.key(3)


def prepared(model: nn.Module) -> tuple[Any, Any]:
    variables: Any = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    parameters = variables.pop("params")
    return parameters, variables


def test_classification_is_mean_cross_entropy_and_accuracy() -> None:
    model = Classifier()
    parameters, statistics = prepared(model)
    loss = losses.classification(model.apply, label_smoothing=0.2)
    value, (kept, metrics) = loss(parameters, statistics, BATCH, KEY)
    rows = PIXELS.reshape(8, 16).astype(np.float64) / 255
    logits = rows @ np.asarray(parameters["logits"]["kernel"], np.float64)
    labels = np.asarray(BATCH["label"])
    expected = reference(logits, 0.8 * np.eye(3)[labels] + 0.2 / 3).mean()
    assert value == pytest.approx(expected, rel=1e-5)
    assert set(metrics) == {"loss", "accuracy"} and metrics["loss"] == value
    assert metrics["accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    assert kept == {}


def test_classification_takes_bytes_floats_and_one_hot_labels_alike() -> None:
    model = Classifier()
    loss = losses.classification(model.apply)
    floats = {
        "image": BATCH["image"].astype(jnp.float32) / 255,
        "label": jax.nn.one_hot(BATCH["label"], 3),
    }
    one, two = (loss(*prepared(model), batch, KEY) for batch in (BATCH, floats))
    assert one[0] == pytest.approx(float(two[0]), rel=1e-6)
    assert one[1][1]["accuracy"] == two[1][1]["accuracy"]


def test_classification_updates_running_statistics() -> None:
    model = Classifier(norm=True)
    parameters, statistics = prepared(model)
    loss = losses.classification(model.apply)
    _, (changed, _) = jax.jit(loss)(parameters, statistics, BATCH, KEY)
    rows = PIXELS.reshape(8, 16) / 255
    running = changed["batch_stats"]["norm"]
    np.testing.assert_allclose(running["mean"], 0.1 * rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * rows.var(axis=0), atol=1e-6)
    assert jax.tree.structure(changed) == jax.tree.structure(statistics)


def test_classification_draws_dropout_and_augmentation_from_the_key() -> None:
    model = Classifier(dropout=0.5)
    for loss in (
        losses.classification(model.apply),
        losses.classification(Classifier().apply, augment=augmentation.shift(2)),
    ):
        arguments = (*prepared(model), BATCH)
        values = [loss(*arguments, key)[0] for key in jax.random.split(KEY, 4)]
        assert len({float(value) for value in values}) == 4
        assert loss(*arguments, KEY)[0] == loss(*arguments, KEY)[0]


def test_augmentation_sees_floats_between_0_and_1_and_is_used() -> None:
    seen = []

    def blanked(key: jax.Array, images: jax.Array) -> jax.Array:
        seen.append(images)
        return jnp.zeros_like(images)

    model = Classifier()
    loss = losses.classification(model.apply, augment=blanked)
    value, _ = loss(*prepared(model), BATCH, KEY)
    np.testing.assert_allclose(seen, PIXELS[None] / 255, rtol=1e-6)
    assert value == pytest.approx(np.log(3), rel=1e-6), "blank images have no evidence"


def halves(key: jax.Array, images: jax.Array, targets: jax.Array) -> Any:
    """A mixture by hand: 0.7 of each example and 0.3 of the next."""
    return tuple(0.7 * x + 0.3 * jnp.roll(x, -1, axis=0) for x in (images, targets))


@pytest.mark.parametrize("one_hot", [False, True])
def test_mixed_examples_are_held_against_mixed_labels(one_hot: bool) -> None:
    """Mixed, then smoothed; right is the label of the larger share."""
    model = Classifier()
    parameters, statistics = prepared(model)
    label = jax.nn.one_hot(BATCH["label"], 3) if one_hot else BATCH["label"]
    loss = losses.classification(model.apply, label_smoothing=0.2, mix=halves)
    batch = {"image": BATCH["image"], "label": label}
    value, (_, metrics) = jax.jit(loss)(parameters, statistics, batch, KEY)
    rows = PIXELS.reshape(8, 16).astype(np.float64) / 255
    labels = np.asarray(BATCH["label"])
    mixed = 0.7 * rows + 0.3 * np.roll(rows, -1, axis=0)
    logits = mixed @ np.asarray(parameters["logits"]["kernel"], np.float64)
    targets = np.eye(3)[labels]
    targets = 0.7 * targets + 0.3 * np.roll(targets, -1, axis=0)
    expected = reference(logits, 0.8 * targets + 0.2 / 3).mean()
    assert value == pytest.approx(expected, rel=1e-5)
    assert metrics["accuracy"] == np.mean(logits.argmax(axis=1) == labels)


def test_the_larger_share_is_right_where_it_is_the_others() -> None:
    def swapped(key: jax.Array, images: jax.Array, targets: jax.Array) -> Any:
        return images, 0.2 * targets + 0.8 * jnp.roll(targets, 1, axis=0)

    model = Classifier()
    arguments = prepared(model)
    _, (_, metrics) = losses.classification(model.apply, mix=swapped)(
        *arguments, BATCH, KEY
    )
    turned = {**BATCH, "label": jnp.roll(BATCH["label"], 1)}
    _, (_, expected) = losses.classification(model.apply)(*arguments, turned, KEY)
    _, (_, other) = losses.classification(model.apply)(*arguments, BATCH, KEY)
    assert metrics["accuracy"] == expected["accuracy"] != other["accuracy"]


def test_mixing_comes_after_augmentation_and_changes_no_other_draw() -> None:
    seen = []

    def noted(key: jax.Array, images: jax.Array, targets: jax.Array) -> Any:
        seen.append((images, targets))
        return images, targets

    model = Classifier(dropout=0.5)
    augment = augmentation.shift(2)
    plain = losses.classification(model.apply, augment=augment)
    mixed = losses.classification(model.apply, augment=augment, mix=noted)
    arguments = (*prepared(model), BATCH, KEY)
    np.testing.assert_allclose(mixed(*arguments)[0], plain(*arguments)[0], rtol=1e-6)
    ((images, targets),) = seen
    assert images.dtype == targets.dtype == jnp.float32
    assert np.any(images != PIXELS / np.float32(255)), "shifted before"
    np.testing.assert_array_equal(targets, np.eye(3)[np.asarray(BATCH["label"])])


def test_features_are_mixed_as_images_are() -> None:
    """From the mixture's key: another for each step, the same for the same step."""
    model = Classifier()
    loss = losses.classification(model.apply, mix=mixing.mixup(1.0))
    features = BATCH["image"].reshape(8, 16).astype(jnp.float32) / 255
    batch = {"image": features, "label": BATCH["label"]}
    arguments = prepared(model)
    found = [loss(*arguments, batch, key)[0] for key in jax.random.split(KEY, 4)]
    again = [loss(*arguments, BATCH, key)[0] for key in jax.random.split(KEY, 4)]
    np.testing.assert_allclose(found, again, rtol=1e-6)
    assert len({float(value) for value in found}) == 4
    with pytest.raises(errors.ArgumentError, match="cutmix needs images"):
        losses.classification(model.apply, mix=mixing.cutmix(1.0))(
            *arguments, batch, KEY
        )


def test_a_step_with_mixing_trains_in_a_scan() -> None:
    model = Classifier(norm=True, dropout=0.2)
    parameters, statistics = prepared(model)
    optimizer = optax.adam(0.1)
    mix = mixing.one_of(mixing.mixup(0.2), mixing.cutmix(1.0), probability=0.5)
    step = train.make_step(losses.classification(model.apply, mix=mix), optimizer)
    state = train.create({"params": parameters, **statistics}, optimizer, key=KEY)
    _, metrics = jax.lax.scan(lambda s, _: step(s, BATCH), state, None, length=150)
    assert np.all(np.isfinite(metrics["loss"]))
    # Mixed batches cannot be fitted, the others can.
    assert metrics["accuracy"][-50:].mean() > 0.6
    assert metrics["loss"][-50:].mean() < metrics["loss"][:5].mean()


def test_a_bfloat16_network_is_judged_in_float32() -> None:
    model = Classifier(dtype=jnp.bfloat16)
    parameters, statistics = prepared(model)
    loss = losses.classification(model.apply)
    value, (_, metrics) = loss(parameters, statistics, BATCH, KEY)
    assert value.dtype == metrics["loss"].dtype == jnp.float32
    logits, _ = model.apply({"params": parameters}, BATCH["image"] / 255)
    expected = reference(logits, np.eye(3)[np.asarray(BATCH["label"])]).mean()
    assert value == pytest.approx(expected, rel=1e-5)


def test_a_step_fits_one_batch() -> None:
    model = Classifier(norm=True)
    parameters, statistics = prepared(model)
    optimizer = optax.adam(0.1)
    step = jax.jit(train.make_step(losses.classification(model.apply), optimizer))
    state = train.create({"params": parameters, **statistics}, optimizer, key=KEY)
    for _ in range(60):
        state, metrics = step(state, BATCH)
    assert metrics["accuracy"] == 1 and metrics["loss"] < 0.05
