from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params


def apply(model, variables, images, **options) -> Any:
    return model.apply(variables, images, **options)


def initialised(model: models.CNN, shape: tuple[int, ...]):
    return model.init(jax.random.key(0), jnp.zeros(shape))


def test_default_is_the_lecture_network() -> None:
    variables = initialised(models.CNN(), (1, 28, 28, 1))
    sizes = {name: params.count(tree) for name, tree in variables["params"].items()}
    assert sizes == {
        "conv1": 160,
        "conv2": 4_640,
        "conv3": 18_496,
        "dense1": 1_606_144,
        "dense2": 262_656,
        "logits": 5_130,
    }


def test_endpoints_are_named_in_order_with_their_shapes() -> None:
    model = models.CNN()
    images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1))
    logits, endpoints = apply(model, initialised(model, images.shape), images)
    shapes = {name: array.shape[1:] for name, array in endpoints.items()}
    assert shapes == {
        "conv1": (28, 28, 16),
        "pool1": (14, 14, 16),
        "conv2": (14, 14, 32),
        "pool2": (7, 7, 32),
        "conv3": (7, 7, 64),
        "features": (3136,),
        "dense1": (512,),
        "dense2": (512,),
        "logits": (10,),
    }
    np.testing.assert_array_equal(logits, endpoints["logits"])


@pytest.mark.parametrize("shape", [(1, 32, 40, 3), (2, 5, 5, 1), (1, 64, 64, 4)])
def test_any_image_size_depth_and_class_count(shape: tuple[int, ...]) -> None:
    model = models.CNN(num_classes=3, widths=(4, 8), pools=1, dense=(7,))
    logits, _ = apply(model, initialised(model, shape), jnp.ones(shape))
    assert logits.shape == (shape[0], 3)


def test_every_kernel_is_drawn_as_asked() -> None:
    model = models.CNN(kernel_init=jax.nn.initializers.constant(0.5))
    variables = initialised(model, (1, 28, 28, 1))["params"]
    for name, layer in variables.items():
        assert np.all(layer["kernel"] == 0.5), name


def test_dropout_acts_in_training_only() -> None:
    model = models.CNN(widths=(4,), dense=(64,), dropout=0.5)
    images = jnp.ones((1, 8, 8, 1))
    variables = initialised(model, images.shape)
    key = jax.random.key(2)

    def logits(train: bool, key=key) -> np.ndarray:
        return apply(model, variables, images, train=train, rngs={"dropout": key})[0]

    np.testing.assert_array_equal(logits(False), apply(model, variables, images)[0])
    assert np.any(logits(True) != logits(False))
    assert np.any(logits(True) != logits(True, jax.random.key(3)))


def test_too_small_images_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="3x28 pixels .* 2 poolings"):
        initialised(models.CNN(), (1, 3, 28, 1))
