"""Conventions in which libraries differ, and which imported weights depend on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import models, params
from tests.networks import drawn


def leaves_of(model: Any) -> dict[str, Any]:
    return params.flatten(params.abstract(model, (1, 64, 64, 3)))


def endpoint(model: Any, variables: Any, images: np.ndarray, name: str) -> np.ndarray:
    """One of a network's activations; what comes after it is not even compiled."""
    apply = jax.jit(lambda variables, images: model.apply(variables, images)[1][name])
    return np.asarray(apply(variables, images))


@pytest.mark.parametrize("side", [32, 33, 34])
def test_strided_windows_are_padded_alike_on_both_sides(side: int) -> None:
    # TensorFlow's SAME would put less before than behind where the side is even.
    model = models.ResNet(18, num_classes=None)
    variables = drawn(model, side)
    image = np.random.default_rng(0).normal(size=(side, side, 3)).astype(np.float32)
    kernel = np.asarray(variables["params"]["stem"]["conv"]["kernel"])
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    places = range(0, side + 6 - 7 + 1, 2)
    expected = [
        [np.tensordot(padded[y : y + 7, x : x + 7], kernel, 3) for x in places]
        for y in places
    ]
    norm, moments = (
        variables[kind]["stem"]["norm"] for kind in ("params", "batch_stats")
    )
    expected = (np.array(expected) - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
    expected = np.maximum(expected * norm["scale"] + norm["bias"], 0)
    stem = endpoint(model, variables, image[None], "stem")[0]
    np.testing.assert_allclose(stem, expected, atol=1e-4)


def test_pools_of_googlenet_round_up() -> None:
    model = models.GoogLeNet()
    variables = params.abstract(model, (1, 224, 224, 3))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    _, found = jax.eval_shape(model.apply, variables, images)
    # Rounding down would give 55, 27, 13 and 6.
    sides = {"conv2": 56, "inception3a": 28, "inception4a": 14, "inception5a": 7}
    for name, side in sides.items():
        assert found[name].shape[1:3] == (side, side), name


def test_googlenets_third_way_has_windows_of_3x3() -> None:
    leaves = leaves_of(models.GoogLeNet())
    kernels = [leaf for leaf in leaves if "/way3/" in leaf and leaf.endswith("kernel")]
    assert len(kernels) == 9
    for leaf in kernels:
        assert leaves[leaf].shape[:2] == (3, 3), leaf


def test_googlenets_transform_is_a_mean_and_deviation_of_one_half() -> None:
    picture = np.random.default_rng(0).uniform(size=(1, 64, 64, 3)).astype(np.float32)
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 1, 1, 3)
    deviation = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 1, 1, 3)
    transformed = models.GoogLeNet(transform_input=True, auxiliary=False)
    plain = models.GoogLeNet(auxiliary=False)
    variables = drawn(plain, 64)
    images = (picture - mean) / deviation
    found = endpoint(transformed, variables, images, "conv1")
    expected = endpoint(plain, variables, (picture - 0.5) / 0.5, "conv1")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "module", "epsilon"),
    [
        (models.GoogLeNet(), "conv1", 1e-3),
        (models.ResNet(18), "stem", 1e-5),
        (models.ResNet(50, "1"), "stem", 1.001e-5),
        (models.VGG(11, batch_norm=True), "block1", 1e-5),
    ],
)
def test_epsilon_is_the_librarys(model, module: str, epsilon: float) -> None:
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    leaves = params.flatten(drawn(model, 64))

    def first(variance: float) -> np.ndarray:
        changed = dict(leaves)
        for leaf, values in leaves.items():
            kind = leaf.rpartition("/")[2]
            # Nothing but the kernels' sums and what divides them.
            fixed = {"var": variance, "mean": 0.0, "bias": 0.0, "scale": 1.0}
            if kind in fixed:
                changed[leaf] = np.full_like(values, fixed[kind])
        return endpoint(model, params.unflatten(changed), images, module)

    # The map is in proportion to the root of 1 / (variance + epsilon).
    ratio = float(np.max(first(0.0)) / np.max(first(1.0)))
    assert ratio**2 == pytest.approx((1 + epsilon) / epsilon, rel=1e-3)


def test_kerass_resnet_has_biases_and_torchvisions_none() -> None:
    for version, biased in (("1", True), ("1.5", False)):
        leaves = leaves_of(models.ResNet(50, version))
        assert ("params/stem/conv/bias" in leaves) == biased
        assert ("params/block2/unit1/conv2/conv/bias" in leaves) == biased


def test_the_stride_is_in_the_first_window_or_in_the_second() -> None:
    images = np.zeros((1, 64, 64, 3), np.float32)
    strides = {}
    for version in ("1", "1.5"):
        model = models.ResNet(50, version)
        variables = params.abstract(model, images.shape)
        _, seen = jax.eval_shape(
            lambda variables, model=model: model.apply(
                variables, jnp.zeros(images.shape), capture_intermediates=True
            ),
            variables,
        )
        unit: Any = seen["intermediates"]["block2"]["unit1"]
        # Before it the map has 16 pixels a side.
        strides[version] = [
            unit[layer]["__call__"][0].shape[1] for layer in ("conv1", "conv2")
        ]
    assert strides == {"1": [8, 8], "1.5": [16, 8]}
