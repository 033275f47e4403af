"""Weights into models, from real files and from broken ones."""

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flaxnets
from flaxnets import data, errors, models, ops, params, weights
from flaxnets.data import download, preprocessing
from flaxnets.data.download import Expected
from flaxnets.weights import cache, catalogue, loading, names
from tests.networks import drawn


def test_the_original_squeezenet_names_real_pictures(real_data: Path) -> None:
    model, variables = flaxnets.create(
        "squeezenet_caffe", weights=real_data / "squeezenet_v1_caffe.npz"
    )
    index = json.loads((real_data / "imagenet_class_index.json").read_text())
    classes = {wordnet: int(number) for number, (wordnet, _) in index.items()}
    images, labels = [], []
    with zipfile.ZipFile(real_data / "imagenet_samples_100.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".jpg"):
                picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                images.append(preprocessing.SQUEEZENET_CAFFE(np.asarray(picture)))
                labels.append(classes[Path(name).name.split("_")[0]])
    apply = jax.jit(lambda images: model.apply(variables, images)[0])
    parts = [np.stack(images[at : at + 20]) for at in range(0, 100, 20)]
    logits = np.concatenate([apply(part) for part in parts])
    ranked = np.argsort(-logits, axis=1)
    right = ranked == np.array(labels)[:, None]
    # Measured with another implementation: 65 and 81.
    assert abs(right[:, 0].sum() - 65) <= 1
    assert abs(right[:, :5].any(axis=1).sum() - 81) <= 1


class LeNet(nn.Module):
    """Two 5x5 convolutions with pooling, two dense layers."""

    widths: tuple[int, int]
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.widths, start=1):
            x = nn.Conv(width, (5, 5), padding="VALID", name=f"conv{index}")(x)
            x = nn.relu(ops.max_pool(x, 2))
        x = nn.relu(nn.Dense(self.hidden, name="fc1")(x.reshape(x.shape[0], -1)))
        return nn.Dense(10, name="fc2")(x)


def turned(source: names.Source, tensor: np.ndarray, shape: tuple) -> np.ndarray:
    """A leaf of a tensor whose rows come in two parts."""
    leaf = np.full(shape, np.nan)
    source.fill(leaf, 0, tensor[:2])
    source.fill(leaf, 2, tensor[2:])
    return leaf


@pytest.mark.parametrize(
    ("file", "widths", "hidden", "mean", "deviation", "expected"),
    [
        ("lenet_mnist_legacy.pth", (20, 50), 500, 0.1307, 0.3081, 9893),
        ("lenet_mnist_zip.pth", (10, 20), 50, 0.0, 1.0, 9761),
    ],
)
def test_networks_of_others_keep_their_accuracy(
    file, widths, hidden, mean, deviation, expected, real_data: Path
) -> None:
    tensors = weights.read(real_data / file)
    model = LeNet(widths, hidden)
    leaves = {}
    for name, tensor in tensors.items():
        module, kind = name.split(".")
        if kind == "bias":
            leaves[f"{module}/bias"] = tensor
        elif module.startswith("conv"):
            leaves[f"{module}/kernel"] = tensor.transpose(2, 3, 1, 0)
        else:
            grid = (widths[1], 4, 4) if module == "fc1" else None
            source = names.Source(name, (1, 0), grid)
            leaves[f"{module}/kernel"] = turned(source, tensor, tensor.shape[::-1])
    variables: Any = {"params": params.unflatten(leaves)}
    test = data.load("mnist").test
    images = (test.images / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    apply: Any = jax.jit(model.apply)
    found = np.concatenate(
        [np.argmax(apply(variables, part), axis=1) for part in np.split(images, 10)]
    )
    assert np.sum(found == test.labels) == expected


def squeezenet_tensors() -> dict[str, np.ndarray]:
    """A file of SqueezeNet 1.1 as torchvision names it, all values different."""
    model = models.build("squeezenet1_1", num_classes=5)
    leaves = params.flatten(params.abstract(model, (1, 64, 64, 3)))
    generator = np.random.default_rng(0)
    return {
        source.name: generator.normal(size=source.shape(leaves[leaf].shape))
        for leaf, source in names.name_map(model, "torchvision", leaves).items()
    }


def small(**options: Any) -> Any:
    return models.build("squeezenet1_1", **{"num_classes": 5, **options})


def test_every_tensor_is_used_once_and_turned() -> None:
    tensors = squeezenet_tensors()
    variables = loading.convert(tensors, small())
    kernel = variables["params"]["fire2"]["expand3x3"]["kernel"]
    theirs = tensors["features.3.expand3x3.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    values = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(variables)]
    found, wanted = (
        np.concatenate(values),
        np.concatenate(
            [tensor.astype(np.float32).ravel() for tensor in tensors.values()]
        ),
    )
    np.testing.assert_array_equal(np.sort(found), np.sort(wanted))


def test_timms_vgg_keeps_dense_layers_as_convolutions() -> None:
    model = models.build("vgg16")
    leaves = params.flatten(params.abstract(model, (1, 224, 224, 3)))
    found = names.name_map(model, "timm", leaves)
    shapes = {
        source.name: source.shape(leaves[leaf].shape) for leaf, source in found.items()
    }
    # As timm's file has them (timm/models/vgg.py, `ConvMlp`).
    assert shapes["pre_logits.fc1.weight"] == (4096, 512, 7, 7)
    assert shapes["pre_logits.fc2.weight"] == (4096, 4096, 1, 1)
    assert shapes["head.fc.weight"] == (1000, 4096)
    assert shapes["features.28.weight"] == (512, 512, 3, 3)


def test_a_flattened_map_is_put_in_channels_last_order() -> None:
    generator = np.random.default_rng(0)
    channels, height, width, outputs = 3, 2, 4, 5
    image = generator.normal(size=(height, width, channels))
    kernel = generator.normal(size=(outputs, channels, height, width))
    expected = np.einsum("ochw,hwc->o", kernel, image)
    grid = (channels, height, width)
    for order, stored in (
        ((1, 0), kernel.reshape(outputs, -1)),
        ((2, 3, 1, 0), kernel),
    ):
        source = names.Source("dense", order, grid)
        ours = turned(source, stored, (image.size, outputs))
        np.testing.assert_allclose(image.ravel() @ ours, expected)
        assert source.shape(ours.shape) == stored.shape
        np.testing.assert_array_equal(source.tensor(ours), stored)


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "googlenet", "squeezenet1_0", "squeezenet1_1", "squeezenet_caffe"),
        *("vgg16", "vgg19_bn", "resnet18", "resnet50", "resnet50_v1"),
    ],
)
def test_every_map_names_every_tensor_once(name: str) -> None:
    model = models.build(name)
    leaves = params.flatten(params.abstract(model, (1, 224, 224, 3)))
    for layout in names.layouts(model):
        found = names.name_map(model, layout, leaves)
        assert found.keys() == leaves.keys()
        assert len({source.name for source in found.values()}) == len(leaves), layout


def test_without_a_head_the_files_is_left_out() -> None:
    variables = loading.convert(squeezenet_tensors(), small(num_classes=None))
    assert "logits" not in variables["params"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("features.0.weight"),
            r"missing: features.0.weight \[64, 3, 3, 3\], for params/conv1/kernel",
        ),
        (
            lambda t: t.update({"features.99.weight": np.zeros(3)}),
            r"unexpected: features.99.weight \[3\]",
        ),
        (
            lambda t: t.update({"features.0.weight": t["features.0.weight"].T}),
            r"features.0.weight is \[3, 3, 3, 64\], but \[64, 3, 3, 3\] is expected",
        ),
        (
            lambda t: t.update({"features.00.weight": t.pop("features.0.weight")}),
            r"missing: features.0.weight .*\(is it features.00.weight\?\)",
        ),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_loaded(change, message) -> None:
    tensors = squeezenet_tensors()
    change(tensors)
    with pytest.raises(errors.WeightsError, match=message) as caught:
        loading.convert(tensors, small(), path="file.pth")
    assert "file.pth: not the weights of this SqueezeNet" in str(caught.value)
    assert "nothing was loaded" in str(caught.value)


def test_another_number_of_classes_is_named() -> None:
    with pytest.raises(
        errors.WeightsError,
        match=r"classifier.1.weight is \[5, 512, 1, 1\], but \[1000",
    ):
        loading.convert(squeezenet_tensors(), small(num_classes=1000))


def test_unknown_layouts_and_models_are_named() -> None:
    with pytest.raises(errors.ArgumentError, match="'keras', but SqueezeNet is known"):
        loading.convert({}, small(), layout="keras")
    with pytest.raises(errors.ArgumentError, match="no name maps are known for CNN"):
        loading.convert({}, models.CNN())


def test_counters_of_batches_are_no_weights() -> None:
    tensors = squeezenet_tensors()
    tensors["features.0.num_batches_tracked"] = np.array(7)
    loading.convert(tensors, small())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either weights, a tag or a file to read, or key"),
        ({"weights": "a.pth", "key": 0}, "either weights, a tag or a file to read"),
        ({"weights": "/nowhere/a.pth"}, "/nowhere/a.pth"),
        ({"weights": "a.pth", "skip_head": True}, "give both"),
        ({"key": 0, "skip_head": True}, "give both"),
    ],
)
def test_create_says_what_it_needs(options, message: str) -> None:
    with pytest.raises(errors.FlaxnetsError, match=message):
        flaxnets.create("squeezenet1_1", **options)


def test_create_draws_with_a_key() -> None:
    model, variables = flaxnets.create(
        "squeezenet1_1", key=jax.random.key(0), num_classes=3
    )
    logits, _ = model.apply(variables, jnp.zeros((1, 64, 64, 3)))
    assert logits.shape == (1, 3)


def test_a_new_head_over_the_body_of_a_file(tmp_path: Path) -> None:
    model, variables = flaxnets.create(
        "squeezenet1_1", key=jax.random.key(0), num_classes=3
    )
    weights.save(variables, tmp_path / "three", model)
    with pytest.raises(errors.WeightsError, match="new head .*: skip_head=True"):
        flaxnets.create("squeezenet1_1", weights=tmp_path / "three", num_classes=5)
    body = weights.load(tmp_path / "three", small(), skip_head=True)
    assert "logits" not in body["params"]
    _, found = flaxnets.create(
        "squeezenet1_1",
        weights=tmp_path / "three",
        key=jax.random.key(1),
        num_classes=5,
        skip_head=True,
    )
    head = params.initialize(small(), jax.random.key(1), (1, 224, 224, 3))
    for leaf, values in params.flatten(found).items():
        source = head if "/logits/" in leaf else variables
        np.testing.assert_array_equal(values, params.flatten(source)[leaf])
    assert not params.differences(head, found)


def test_published_options_come_with_published_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path))
    model = models.build("googlenet")
    entry = weights.find("googlenet")
    path = cache.place(entry)
    path.parent.mkdir(parents=True)
    weights.save(drawn(model), path, model)
    # As if that were the published file.
    published = dataclasses.replace(
        entry, expected=Expected(download.digest(path)), megabytes=None
    )
    monkeypatch.setattr(catalogue, "_ENTRIES", (published,))
    for source in ("imagenet", path):
        model, _ = flaxnets.create("googlenet", weights=source)
        assert model.transform_input
    model, _ = flaxnets.create("googlenet", weights="imagenet", transform_input=False)
    assert not model.transform_input
    # What was trained from scratch was trained without.
    other = tmp_path / "own.safetensors"
    weights.save(drawn(model, seed=1), other, model)
    model, _ = flaxnets.create("googlenet", weights=other)
    assert not model.transform_input


def test_preprocessing_is_that_of_the_weights(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "squeezenet_v1_caffe.npz"
    known = weights.preprocessing("squeezenet_caffe", file)
    assert known == preprocessing.SQUEEZENET_CAFFE
    second = weights.preprocessing("resnet50", "torchvision-v2")
    assert second == preprocessing.TORCHVISION_V2
    model, variables = flaxnets.create("squeezenet1_1", key=jax.random.key(0))
    weights.save(variables, tmp_path / "w", model)
    found = weights.preprocessing("squeezenet1_1", tmp_path / "w")
    assert found == preprocessing.TORCHVISION


MEASURE = """
import sys
import jax
from flaxnets import models, params, weights

def kilobytes(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind))

model = models.build("alexnet")
params.abstract(model, (1, 224, 224, 3))
jax.block_until_ready(jax.numpy.ones(3))
before = kilobytes("VmRSS")
variables = weights.load(sys.argv[1], model)
print((kilobytes("VmHWM") - before) * 1024 / params.nbytes(variables))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="no /proc to read memory from"
)
def test_loading_needs_little_more_memory_than_the_parameters(tmp_path: Path) -> None:
    # Of 244 MB, 151 are one layer's, which another order of its rows could double.
    model = models.build("alexnet")
    weights.save(drawn(model), tmp_path / "w", model)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "w")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.3


def test_a_tensor_without_a_name_is_unexpected(tmp_path: Path) -> None:
    tensors = {**squeezenet_tensors(), "": np.zeros(3)}
    with pytest.raises(errors.WeightsError, match=r"unexpected:  \[3\]"):
        loading.convert(tensors, small())
