"""Mirrors of SqueezeNet, whose poolings overlap and whose modules squeeze."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params
from flaxnets.models.autoencoder import UNPOOLINGS, Unpooling

SHAPE = (1, 65, 70, 3)
KINDS: list[Unpooling] = [kind for kind in UNPOOLINGS if kind != "max_unpool"]
VERSIONS = ("caffe", "1.0", "1.1")
# How often each endpoint of a version was halved: by hand, from the paper's figure 2
# and the release of version 1.1.
HALVED = {
    "caffe": {"conv1": 1, "fire4": 2, "fire8": 3, "fire9": 4, "features": 4},
    "1.0": {"conv1": 1, "fire2": 2, "fire3": 2, "fire5": 3, "features": 4},
    "1.1": {"conv1": 1, "fire3": 2, "fire4": 3, "fire5": 3, "fire6": 4},
}


def endpoints_of(backbone) -> dict[str, jax.ShapeDtypeStruct]:
    image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)

    def run(image: jax.Array):
        return backbone.init_with_output(jax.random.key(0), image)[0][1]

    return jax.eval_shape(run, image)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_endpoint_is_led_back_to_the_images(version) -> None:
    backbone = models.SqueezeNet(version, num_classes=None)
    found = endpoints_of(backbone)
    image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    for place, name in enumerate(found):
        unpooling = KINDS[place % len(KINDS)]
        mirror = models.decoder_for(backbone, name, unpooling=unpooling)
        code = mirror.code(image, found)  # type: ignore[arg-type]
        # The size after each level: that of the last one is the endpoint's own.
        assert code.shapes[0] == SHAPE[1:3]
        assert code.shapes[-1] == found[name].shape[1:3]
        if name in HALVED[version]:
            assert len(set(code.shapes)) - 1 == HALVED[version][name]

        def run(values: jax.Array, mirror=mirror, code=code):
            given = code.replace(values=values)
            return mirror.decoder.init_with_output(jax.random.key(0), given)[0][0]

        assert jax.eval_shape(run, code.values).shape == SHAPE
    assert {*HALVED[version]} <= {*found}


def test_fire_modules_have_the_same_widths_on_the_other_side() -> None:
    backbone = models.SqueezeNet("caffe", num_classes=None)
    mirror = models.decoder_for(backbone, "features")
    found = endpoints_of(backbone)
    values = jnp.zeros(found["features"].shape)
    code = mirror.code(jnp.zeros(SHAPE), {**found, "features": values})  # type: ignore[arg-type]
    up = jax.eval_shape(lambda key: mirror.decoder.init(key, code), jax.random.key(0))
    down = params.abstract(backbone, SHAPE)["params"]
    modules = {3: (2, 3, 4), 4: (5, 6, 7, 8), 5: (9,)}
    for level, fires in modules.items():
        for number, fire in enumerate(fires, start=1):
            *_, taken, squeezed = down[f"fire{fire}"]["squeeze"]["kernel"].shape
            given = 2 * down[f"fire{fire}"]["expand3x3"]["kernel"].shape[-1]
            kernels = [
                up["params"][f"level{level}_{kind}{number}"]["kernel"].shape
                for kind in ("squeeze", "conv")
            ]
            assert kernels == [(1, 1, given, squeezed), (3, 3, squeezed, taken)]


def test_a_value_comes_back_in_the_middle_of_what_it_saw() -> None:
    """Conv1 looks at 7x7 pixels, two apart and without padding."""
    backbone = models.SqueezeNet("caffe", num_classes=None)
    mirror = models.decoder_for(backbone, "conv1", unpooling="nearest")
    values = jnp.zeros((1, 13, 13, 96)).at[0, 4, 7].set(1)
    code = mirror.code(jnp.zeros((1, 32, 32, 3)), {"conv1": values})

    @jax.jit
    def run(key: jax.Array):
        return mirror.decoder.init_with_output(key, code)[0][1]["level1"]

    rows, columns = np.nonzero(np.asarray(run(jax.random.key(0)))[0, ..., 0])
    # Windows begin at 8 and 14; an even block lies half a pixel beside their middle.
    assert {*rows} == {8 + 3, 8 + 4} and {*columns} == {14 + 3, 14 + 4}


def test_the_levels_of_a_network_by_depth() -> None:
    assert models.pooling_levels(models.VGG(16)) == (
        *(f"block{index}" for index in range(1, 6)),
        "features",
    )
    assert models.pooling_levels(models.CNN()) == ("conv1", "conv2", "features")
    found = models.pooling_levels(models.SqueezeNet("1.1"))
    assert found == ("conv1", "fire3", "fire5", "features")


def test_levels_that_squeeze_have_mirrors_that_squeeze() -> None:
    level = models.Level((4, 6), squeezes=(2, 3))
    model = models.Autoencoder((level,), 1, "subpixel")
    tree = params.abstract(model, (1, 8, 8, 1))["params"]
    shapes = {
        half: {name: layer["kernel"].shape[2:] for name, layer in tree[half].items()}
        for half in ("encoder", "decoder")
    }
    assert shapes["encoder"] == {
        "level1_squeeze1": (1, 2),
        "level1_conv1": (2, 4),
        "level1_squeeze2": (4, 3),
        "level1_conv2": (3, 6),
    }
    # The first of them gives blocks of 2x2.
    assert shapes["decoder"] == {
        "level1_squeeze2": (6, 3),
        "level1_conv2": (3, 4 * 4),
        "level1_squeeze1": (4, 2),
        "level1_conv1": (2, 1),
    }


def test_switches_of_overlapping_windows_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="3x3 and overlap"):
        models.decoder_for(models.SqueezeNet(), "fire2", unpooling="max_unpool")
