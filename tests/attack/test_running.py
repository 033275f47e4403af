"""Attacks on many pictures, against the same attack called at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.random((13, 4, 3, 2), np.float32)
LABELS = GENERATOR.integers(0, 3, 13).astype(np.int64)
VARIABLES = {"weights": GENERATOR.normal(size=(24, 3)).astype(np.float32)}
# Starts at random and moves a little, so that both are seen in the result.
FGSM = attack.fgsm(0.1, random_start=True, step_size=0.03)
KEY = jax.random.key(1)


def apply(variables, images):
    # Not a matrix product: its sums depend on the size of the batch.
    flat = images.reshape(len(images), -1, 1) * variables["weights"][None]
    return flat.sum(axis=1), {}


def predicted(images: np.ndarray) -> np.ndarray:
    return (images.reshape(len(images), -1) @ VARIABLES["weights"]).argmax(axis=1)


@pytest.fixture(scope="module")
def whole() -> attack.Attacked:
    return attack.run(FGSM, apply, VARIABLES, IMAGES, LABELS, key=KEY)


def test_batches_change_nothing(whole: attack.Attacked) -> None:
    """The last batch is short."""
    found = attack.run(FGSM, apply, VARIABLES, IMAGES, LABELS, key=KEY, batch_size=5)
    np.testing.assert_allclose(found.images, whole.images, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.after, whole.after)


def test_what_is_reported_is_what_is_there(whole: attack.Attacked) -> None:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(13))
    run = jax.jit(
        lambda images, labels: FGSM(
            lambda images: apply(VARIABLES, images)[0], images, labels, keys
        ),
        compiler_options={"xla_backend_optimization_level": "0"},
    )
    expected = np.asarray(run(IMAGES, LABELS))
    np.testing.assert_allclose(whole.images, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(whole.before, predicted(IMAGES))
    np.testing.assert_array_equal(whole.after, predicted(whole.images))
    np.testing.assert_array_equal(whole.fooled, whole.after != LABELS)
    assert whole.targets is None
    difference = (whole.images.astype(np.float64) - IMAGES).reshape(13, -1)
    np.testing.assert_array_equal(whole.linf, np.abs(difference).max(axis=1))
    assert (whole.linf <= 0.1).all() and whole.linf.max() > 0.0999
    np.testing.assert_allclose(whole.l2, np.linalg.norm(difference, axis=1))
    right = whole.before == LABELS
    assert 0 < right.sum() < 13
    assert whole.accuracy_before == right.mean()
    assert whole.accuracy_after == (whole.after == LABELS).mean()
    assert whole.success_rate == (whole.after != LABELS)[right].mean()


def test_another_key_draws_something_else(whole: attack.Attacked) -> None:
    other = attack.run(FGSM, apply, VARIABLES, IMAGES, LABELS, key=jax.random.key(2))
    assert (other.images != whole.images).any(axis=(1, 2, 3)).all()


def test_targets_are_aimed_at() -> None:
    made = attack.bim(0.3, targeted=True)
    targets = (LABELS + 1) % 3
    found = attack.run(made, apply, VARIABLES, IMAGES, LABELS, key=KEY, targets=targets)
    np.testing.assert_array_equal(found.fooled, predicted(found.images) == targets)
    assert found.fooled.mean() > (found.before == targets).mean() + 0.4
    with pytest.raises(errors.ArgumentError, match="targets are the labels for 13"):
        attack.run(made, apply, VARIABLES, IMAGES, LABELS, key=KEY, targets=LABELS)


def test_the_attack_is_traced_once() -> None:
    traced = []

    def counting(logits, images, labels, key):
        traced.append(images.shape)
        return images

    for variables in (VARIABLES, {"weights": -VARIABLES["weights"]}):
        attack.run(counting, apply, variables, IMAGES, LABELS, key=KEY, batch_size=5)
    assert traced == [(5, 4, 3, 2)]


def test_levels_are_divided_by_255() -> None:
    levels = GENERATOR.integers(0, 256, IMAGES.shape).astype(np.uint8)
    found = attack.run(
        lambda logits, images, labels, key: images,
        apply,
        VARIABLES,
        levels,
        LABELS,
        key=KEY,
    )
    np.testing.assert_array_equal(found.images, levels / np.float32(255))
    assert found.linf.max() == 0


def with_value(value: float) -> np.ndarray:
    images = IMAGES.copy()
    images[7, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (with_value(1.5), LABELS, "to 1.5"),
        (with_value(-0.1), LABELS, "from -0.1"),
        (with_value(np.nan), LABELS, "1 of 13 images hold NaN.* at 7"),
        (IMAGES[0], LABELS, "shape"),
        (IMAGES[:0], LABELS[:0], "shape"),
        (IMAGES.astype(np.int32), LABELS, "int32"),
        (IMAGES, LABELS[:5], r"labels have shape \(5,\)"),
        (IMAGES, np.eye(3)[LABELS], "argmax"),
        (IMAGES, LABELS.astype(np.float32), "integers"),
        (IMAGES, LABELS + 1, "0 to 2"),
        (IMAGES, LABELS - 3, "0 to 2"),
    ],
)
def test_wrong_data_is_refused(images, labels, said: str) -> None:
    with pytest.raises(errors.DataError, match=said):
        attack.run(FGSM, apply, VARIABLES, images, labels, key=KEY)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda v, x: (jax.nn.softmax(apply(v, x)[0]), {}), "probabilities"),
        (lambda v, x: (jnp.log(-jnp.abs(apply(v, x)[0])), {}), "not finite for 13"),
        (lambda v, x: (apply(v, x)[0][:, :1], {}), "two classes"),
        (lambda v, x: apply(v, x)[0], "must be logits"),
    ],
)
def test_wrong_networks_are_refused(network, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        attack.run(FGSM, network, VARIABLES, IMAGES, LABELS, key=KEY)


def test_zero_gradients_are_noticed() -> None:
    def rounded(variables, images):
        return jnp.round(apply(variables, images)[0]), {}

    with pytest.warns(attack.GradientWarning, match="zero for 13 of the first 13"):
        attack.run(FGSM, rounded, VARIABLES, IMAGES, LABELS, key=KEY)
    attack.run(FGSM, rounded, VARIABLES, IMAGES, LABELS, key=KEY, check_gradients=False)


def test_an_attack_that_leaves_the_range_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="returned 13 of 13"):
        attack.run(
            lambda logits, images, labels, key: images + 1,
            apply,
            VARIABLES,
            IMAGES + 1e-3,
            LABELS,
            key=KEY,
        )
