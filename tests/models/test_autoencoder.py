"""Encoders, their mirrors, and what a decoder is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params
from flaxnets.models import autoencoder
from flaxnets.models.autoencoder import UNPOOLINGS

LEVELS = (models.Level((4, 6)), models.Level((8,)), models.Level((5,), pooled=False))


def images(height: int = 13, width: int = 10, channels: int = 2) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (3, height, width, channels))


@pytest.mark.parametrize("unpooling", UNPOOLINGS)
@pytest.mark.parametrize("bottleneck", [None, 7])
def test_an_autoencoder_gives_back_the_shape_it_was_given(
    unpooling: autoencoder.Unpooling, bottleneck: int | None
) -> None:
    model = models.Autoencoder(LEVELS, 2, unpooling, bottleneck)

    def run(key: jax.Array):
        (restored, endpoints), variables = model.init_with_output(key, images())
        code = model.apply(variables, images(), method="encode")
        assert isinstance(code, models.Code)
        return restored, endpoints, code.values

    restored, endpoints, code = jax.eval_shape(run, jax.random.key(1))
    assert restored.shape == (3, 13, 10, 2)
    assert code.shape == ((3, 7) if bottleneck else (3, 3, 2, 5))
    halves, levels = ("encoder", "decoder"), (1, 2, 3)
    named = {f"{half}/level{index}" for half in halves for index in levels}
    assert set(endpoints) == {*named, "encoder/code", "output"}
    # Each level's map has the same size on the way down and on the way up.
    for index in levels:
        down, up = (endpoints[f"{half}/level{index}"].shape for half in halves)
        assert up[1:3] == down[1:3]


def test_the_halves_make_the_whole() -> None:
    model = models.Autoencoder((4,), 2, "max_unpool", 7)

    @jax.jit
    def run(key: jax.Array):
        (restored, _), variables = model.init_with_output(key, images())
        code = model.apply(variables, images(), method="encode")
        return restored, model.apply(variables, code, method="decode")

    restored, decoded = run(jax.random.key(1))
    np.testing.assert_allclose(decoded, restored, atol=1e-6)


@pytest.mark.parametrize("unpooling", UNPOOLINGS)
def test_a_code_goes_from_one_compiled_function_to_another(unpooling) -> None:
    model: Any = models.Autoencoder((4, 6), 2, unpooling)
    variables = params.initialize(model, jax.random.key(0), images().shape)
    encode, decode = (
        jax.jit(
            lambda given, method=method: model.apply(variables, given, method=method)
        )
        for method in ("encode", "decode")
    )
    expected = model.apply(variables, images())[0]
    np.testing.assert_allclose(decode(encode(images())), expected, atol=1e-5)


@pytest.mark.parametrize("bottleneck", [None, 3])
@pytest.mark.parametrize("unpooling", UNPOOLINGS)
def test_no_images_become_none(unpooling, bottleneck) -> None:
    model: Any = models.Autoencoder((4, 6), 1, unpooling, bottleneck)
    variables = params.initialize(model, jax.random.key(0), (1, 9, 8, 1))
    assert model.apply(variables, jnp.zeros((0, 9, 8, 1)))[0].shape == (0, 9, 8, 1)


def test_a_description_without_levels_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="levels are empty"):
        params.initialize(models.Autoencoder(()), jax.random.key(0), (1, 8, 8, 1))


def test_each_kind_of_pictures_has_its_own_decoder() -> None:
    model: Any = models.SharedAutoencoder((4,), 2)
    variables = params.initialize(model, jax.random.key(0), images().shape)
    kinds = jnp.stack([images(), 1 - images()])

    def own(names):
        return model.apply(variables, kinds, names, method="own")

    for found, pictures, place in zip(own(("b", "a")), kinds, (1, 0), strict=True):
        expected = model.apply(variables, pictures)[0][place]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for names in (("a",), ("a", "b", "a")):
        with pytest.raises(errors.ArgumentError, match="2 kinds of images, but"):
            own(names)


def test_the_mirror_has_the_same_kernels_turned_around() -> None:
    model = models.Autoencoder(LEVELS, 2)
    variables = params.initialize(model, jax.random.key(0), (1, 12, 12, 2))
    down, up = (variables["params"][part] for part in ("encoder", "decoder"))
    assert list(down) == [
        "level1_conv1",
        "level1_conv2",
        "level2_conv1",
        "level3_conv1",
    ]
    assert set(up) == set(down)
    for name, layer in down.items():
        *window, inputs, outputs = layer["kernel"].shape
        assert up[name]["kernel"].shape == (*window, outputs, inputs)


@pytest.mark.parametrize("unpooling", UNPOOLINGS)
def test_the_last_layer_gives_negative_values_too(unpooling) -> None:
    """It comes without a ReLU, whether or not un-pooling does its work."""
    model = models.Autoencoder((4,), 2, unpooling)
    (output, _), _ = jax.jit(model.init_with_output)(jax.random.key(1), images())
    assert output.min() < 0


def test_numbers_stand_for_a_convolution_and_a_pooling() -> None:
    assert autoencoder.described((4, models.Level((3, 2), False))) == (
        models.Level((4,), True),
        models.Level((3, 2), False),
    )


def test_switches_bring_values_back_to_where_they_were() -> None:
    """With convolutions that copy, max un-pooling keeps exactly the maxima."""
    model = models.Autoencoder((1,), 1, "max_unpool")
    variables = params.initialize(model, jax.random.key(0), (1, 6, 6, 1))
    copy = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    copies = jax.tree.map(
        lambda leaf: copy if leaf.ndim == 4 else jnp.zeros_like(leaf), variables
    )
    image = jax.random.permutation(jax.random.key(1), jnp.arange(1.0, 37.0))
    image = image.reshape(1, 6, 6, 1)
    restored, _ = model.apply(copies, image)
    blocks = np.asarray(image).reshape(3, 2, 3, 2)
    largest = blocks == blocks.max(axis=(1, 3), keepdims=True)
    expected = np.where(largest, blocks, 0).reshape(1, 6, 6, 1)
    np.testing.assert_allclose(restored, expected, rtol=1e-6)


def test_images_too_small_for_the_levels_are_refused() -> None:
    model = models.Autoencoder((2, 2, 2), 1)
    with pytest.raises(errors.ArgumentError, match="too small for the pooling"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def test_an_unpooling_that_does_not_exist_is_refused() -> None:
    model = models.Autoencoder((2,), 1, "upsample")  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="one of nearest, bed_of_nails"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def test_max_unpooling_without_switches_is_refused() -> None:
    decoder = models.Decoder((models.Level((4,)),), 1, "max_unpool")
    code = models.Code(jnp.zeros((1, 2, 2, 4)), ((4, 4), (2, 2)), ())
    with pytest.raises(errors.ArgumentError, match="take them from the encoder"):
        decoder.init(jax.random.key(0), code)


@pytest.mark.parametrize(
    ("backbone", "endpoint", "code_shape"),
    [
        (models.CNN(), "conv1", (3, 32, 32, 16)),
        (models.CNN(), "pool1", (3, 16, 16, 16)),
        (models.CNN(), "pool2", (3, 8, 8, 32)),
        (models.CNN(), "features", (3, 8, 8, 64)),
        (models.CNN(), "dense2", (3, 512)),
        (models.VGG(11, num_classes=None), "block2", (3, 16, 16, 128)),
        (models.VGG(11, num_classes=None), "features", (3, 1, 1, 512)),
        (models.VGG(11), "dense1", (3, 4096)),
    ],
)
@pytest.mark.parametrize("unpooling", ["nearest", "max_unpool"])
def test_a_network_is_led_back_to_its_images(
    backbone, endpoint, code_shape, unpooling
) -> None:
    mirror = models.decoder_for(backbone, endpoint, unpooling=unpooling)
    pictures = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32)

    def run(key: jax.Array, pictures: jax.Array):
        (_, endpoints), _ = backbone.init_with_output(key, pictures)
        code = mirror.code(pictures, endpoints)
        (output, _), _ = mirror.decoder.init_with_output(key, code)
        return code.values, output

    values, output = jax.eval_shape(run, jax.random.key(0), pictures)
    assert values.shape == code_shape
    assert output.shape == pictures.shape


def test_a_decoder_for_an_unknown_endpoint_or_network_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="it has: conv1, pool1"):
        models.decoder_for(models.CNN(), "block1")
    with pytest.raises(errors.ArgumentError, match="not for ResNet"):
        models.decoder_for(models.ResNet(18), "block1")
