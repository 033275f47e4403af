"""Every architecture against torchvision and Keras, from their own files."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxnets
from flaxnets import models, params, weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")

# Largest difference over largest magnitude: float32 sums in another order, through up
# to 152 layers.
OUTPUT = 1e-4
# Gradients are compared in float64: in float32 a ReLU's input that rounds to the other
# side of zero, as some of a million do, changes the gradient of its whole window, in
# either library.
GRADIENT = 1e-9


def relative(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def channels_last(tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def stirred(network) -> Any:
    """A peer's network whose BatchNorm statistics and biases are not trivial."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.0),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.uniform_(low, high, generator=generator)
        elif getattr(module, "bias", None) is not None:
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return network.eval()


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


# Our model, torchvision's name for it, the images' side, and where each endpoint is
# found in torchvision's network.
def vgg(*places: int) -> dict[str, str]:
    blocks = {f"block{index}": f"features.{at}" for index, at in enumerate(places, 1)}
    return {**blocks, "features": f"features.{places[-1] + 1}"}


RESNET = {
    "stem": "relu",
    **{f"block{index}": f"layer{index}" for index in range(1, 5)},
    "features": "layer4",
}
FIRES_10 = {
    f"fire{index}": f"features.{place}"
    for index, place in zip(range(2, 10), (3, 4, 5, 7, 8, 9, 10, 12), strict=True)
}
FIRES_11 = {
    f"fire{index}": f"features.{place}"
    for index, place in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
}
GOOGLENET = {
    **{f"conv{index}": f"conv{index}" for index in (1, 2, 3)},
    **{
        f"inception{name}": f"inception{name}"
        for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    },
}
TORCHVISION = {
    "alexnet": (
        models.AlexNet(),
        "alexnet",
        224,
        {"conv1": "features.1", "conv5": "features.11", "features": "features.12"},
    ),
    "vgg11": (models.VGG(11), "vgg11", 64, vgg(1, 4, 9, 14, 19)),
    "vgg13_bn": (
        models.VGG(13, batch_norm=True),
        "vgg13_bn",
        64,
        vgg(5, 12, 19, 26, 33),
    ),
    "vgg16": (models.VGG(16), "vgg16", 224, vgg(3, 8, 15, 22, 29)),
    "vgg19_bn": (
        models.VGG(19, batch_norm=True),
        "vgg19_bn",
        64,
        vgg(5, 12, 25, 38, 51),
    ),
    "squeezenet1_0": (
        models.SqueezeNet("1.0"),
        "squeezenet1_0",
        224,
        {"conv1": "features.1", **FIRES_10, "features": "features.12"},
    ),
    "squeezenet1_1": (
        models.SqueezeNet("1.1"),
        "squeezenet1_1",
        127,
        {"conv1": "features.1", **FIRES_11, "features": "features.12"},
    ),
    "googlenet": (models.GoogLeNet(), "googlenet", 127, GOOGLENET),
    "googlenet_transformed": (
        models.GoogLeNet(transform_input=True, auxiliary=False),
        "googlenet",
        96,
        GOOGLENET,
    ),
    "resnet18": (models.ResNet(18), "resnet18", 97, RESNET),
    "resnet34": (models.ResNet(34), "resnet34", 64, RESNET),
    "resnet50": (models.ResNet(50), "resnet50", 97, RESNET),
    "resnet101": (models.ResNet(101), "resnet101", 64, RESNET),
    "resnet152": (models.ResNet(152), "resnet152", 64, RESNET),
}
WITH_GRADIENTS = (
    "alexnet",
    "vgg11",
    "squeezenet1_1",
    "googlenet",
    "resnet18",
    "resnet50",
)


@pytest.mark.parametrize("name", TORCHVISION)
def test_computes_what_torchvision_does(name: str, torchvision, tmp_path) -> None:
    model, theirs, side, places = TORCHVISION[name]
    options = {"weights": None}
    if theirs == "googlenet":
        options |= {
            "aux_logits": model.auxiliary,
            "init_weights": False,
            "transform_input": model.transform_input,
        }
    torch.manual_seed(0)
    network = stirred(getattr(torchvision.models, theirs)(**options))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    variables = weights.load(tmp_path / "weights.pth", model)
    generator = np.random.default_rng(2)
    images = generator.normal(size=(2, side, side, 3)).astype(np.float32)

    seen = {}
    for endpoint, place in places.items():

        def keep(module, inputs, output, endpoint=endpoint) -> None:
            # Once: torchvision's one ReLU module runs many times.
            seen.setdefault(endpoint, output.detach().clone())

        network.get_submodule(place).register_forward_hook(keep)
    given = torch.tensor(np.moveaxis(images, -1, 1).copy(), requires_grad=True)
    expected = network(given)
    apply: Any = jax.jit(functools.partial(model.apply, variables))
    logits, endpoints = apply(images)
    assert relative(logits, expected.detach().numpy()) < OUTPUT
    assert seen.keys() == places.keys()
    for endpoint, activation in seen.items():
        difference = relative(endpoints[endpoint], channels_last(activation))
        assert difference < OUTPUT, endpoint
    if name not in WITH_GRADIENTS:
        return
    given = given.detach().double().requires_grad_()
    direction = generator.normal(size=expected.shape)
    network.double()(given).backward(torch.tensor(direction))
    with double_precision():
        variables, images = jax.tree.map(np.float64, (variables, images))
        gradient = jax.jit(
            jax.grad(
                lambda images: jnp.sum(model.apply(variables, images)[0] * direction)
            )
        )(images)
    assert relative(gradient, channels_last(given.grad)) < GRADIENT


@pytest.mark.parametrize("name", ["googlenet", "resnet18", "vgg11_bn"])
def test_a_step_of_training_moves_statistics_as_torchvisions(
    name: str, torchvision, tmp_path
) -> None:
    options = {"init_weights": False, "dropout": 0.0}
    if name == "googlenet":
        options["dropout_aux"] = 0.0
    if name == "resnet18":
        options = {}
    torch.manual_seed(0)
    network = stirred(getattr(torchvision.models, name)(weights=None, **options))
    torch.save(network.state_dict(), tmp_path / "before.pth")
    # Few values a channel in the last maps, so that the estimate matters.
    images = np.random.default_rng(2).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        network.train()(torch.tensor(np.moveaxis(images, -1, 1).copy()))
    torch.save(network.state_dict(), tmp_path / "after.pth")
    chosen = {} if name == "resnet18" else {"dropout": 0.0}
    model = models.build(name, **chosen)
    before = weights.load(tmp_path / "before.pth", model)
    expected = weights.load(tmp_path / "after.pth", model)["batch_stats"]
    _, moved = jax.jit(
        lambda variables, images: model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
    )(before, images)
    found, wanted = map(params.flatten, (moved["batch_stats"], expected))
    assert found.keys() == wanted.keys()
    for leaf, values in wanted.items():
        assert relative(found[leaf], values) < OUTPUT, leaf


def test_auxiliary_classifiers_are_torchvisions(torchvision, tmp_path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.googlenet(weights=None, init_weights=False)
    network = stirred(network)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = models.GoogLeNet()
    variables = weights.load(tmp_path / "weights.pth", model)
    images = np.random.default_rng(2).normal(size=(2, 224, 224, 3)).astype(np.float32)
    found: Any = jax.jit(model.apply)(variables, images)[1]
    maps = {}
    for place, name in (("inception4a", "aux1"), ("inception4d", "aux2")):
        network.get_submodule(place).register_forward_hook(
            lambda module, inputs, output, name=name: maps.update({name: output})
        )
    with torch.no_grad():
        network(torch.tensor(np.moveaxis(images, -1, 1).copy()))
        for ours, theirs in (("auxiliary1", "aux1"), ("auxiliary2", "aux2")):
            expected = network.get_submodule(theirs)(maps[theirs]).numpy()
            assert relative(found[ours], expected) < OUTPUT, ours


@pytest.mark.parametrize("name", ["vgg11", "resnet50"])
def test_computes_what_timm_does(name: str, torchvision, tmp_path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = stirred(timm.create_model(name, pretrained=False))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    model, variables = flaxnets.create(name, weights=tmp_path / "model.safetensors")
    side = 224 if name.startswith("vgg") else 97
    images = np.random.default_rng(2).normal(size=(1, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.tensor(np.moveaxis(images, -1, 1).copy())).numpy()
    apply: Any = jax.jit(model.apply)
    assert relative(apply(variables, images)[0], expected) < OUTPUT


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "resnet18"])
def test_torchvision_takes_what_is_saved(name: str, torchvision, tmp_path) -> None:
    from safetensors.torch import load_file

    model, variables = flaxnets.create(name, key=jax.random.key(0))
    weights.save(variables, tmp_path / "model.safetensors", model)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(weights=None, **options).eval()
    network.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = np.random.default_rng(2).normal(size=(1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.tensor(np.moveaxis(images, -1, 1).copy())).numpy()
    apply: Any = jax.jit(model.apply)
    assert relative(apply(variables, images)[0], expected) < OUTPUT


def keras_network(name: str, side: int) -> Any:
    """Keras's network with statistics and biases that are not trivial."""
    keras = pytest.importorskip("keras", reason="Keras is not installed (extra peers)")
    options = {"weights": None, "classifier_activation": None}
    if side != 224:
        options["input_shape"] = (side, side, 3)
    network = getattr(keras.applications, name)(**options)
    generator = np.random.default_rng(1)
    ranges = {
        "moving_mean": (-0.2, 0.2),
        "moving_variance": (0.5, 1.5),
        "gamma": (0.5, 1.0),
        "beta": (-0.2, 0.2),
        "bias": (-0.1, 0.1),
    }
    for weight in network.weights:
        if weight.name in ranges:
            weight.assign(generator.uniform(*ranges[weight.name], weight.shape))
    return network


KERASS_OWN_WARNINGS = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
KERAS = {
    "VGG16": (models.VGG(16), 224, "block3_conv3", "block3"),
    "VGG19": (models.VGG(19), 224, "block5_pool", "features"),
    "ResNet50": (models.ResNet(50, "1"), 97, "conv3_block4_out", "block2"),
    "ResNet101": (models.ResNet(101, "1"), 64, "conv4_block23_out", "block3"),
    "ResNet152": (models.ResNet(152, "1"), 64, "conv5_block3_out", "features"),
}


@KERASS_OWN_WARNINGS
@pytest.mark.parametrize("name", KERAS)
def test_computes_what_keras_does(name: str, tmp_path) -> None:
    model, side, layer, endpoint = KERAS[name]
    network = keras_network(name, side)
    network.save(tmp_path / "weights.h5")
    variables = weights.load(tmp_path / "weights.h5", model)
    images = np.random.default_rng(2).normal(size=(2, side, side, 3)).astype(np.float32)
    keras = pytest.importorskip("keras")
    outputs = [network.get_layer(layer).output, network.output]
    with jax.numpy_rank_promotion("allow"):
        expected = keras.Model(network.input, outputs)(images)
    logits, endpoints = jax.jit(functools.partial(model.apply, variables))(images)
    assert relative(endpoints[endpoint], expected[0]) < OUTPUT
    assert relative(logits, expected[1]) < OUTPUT


@KERASS_OWN_WARNINGS
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_keras_3_files_hold_the_same(ending: str, tmp_path) -> None:
    network = keras_network("ResNet50", 64)
    path = tmp_path / f"file{ending}"
    network.save(path) if ending == ".keras" else network.save_weights(path)
    network.save(tmp_path / "reference.h5")
    found, wanted = (
        params.flatten(weights.load(file, models.ResNet(50, "1")))
        for file in (path, tmp_path / "reference.h5")
    )
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
