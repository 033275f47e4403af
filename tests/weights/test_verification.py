"""A file that was converted wrongly is found out, and what was done wrong is said."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxnets import models, weights
from flaxnets.data.preprocessing import TORCHVISION
from flaxnets.weights import verification
from tests.networks import drawn

ROOT = Path(__file__).parents[2]
Tensors = dict[str, np.ndarray]


def right(name: str) -> tuple[Any, Any]:
    model = models.build(name, num_classes=4)
    return model, drawn(model)


def dense(order: tuple[int, ...]) -> Callable[[str, np.ndarray], np.ndarray]:
    """Puts the columns of AlexNet's first dense layer in another order."""

    def change(name: str, tensor: np.ndarray) -> np.ndarray:
        if name != "classifier.1.weight":
            return tensor
        grid = tensor.reshape(-1, 256, 6, 6)
        return np.ascontiguousarray(grid.transpose(0, *order)).reshape(tensor.shape)

    return change


def of(ending: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda name, tensor: change(tensor) if name.endswith(ending) else tensor


@pytest.mark.parametrize(
    ("name", "change", "first", "cause"),
    [
        ("squeezenet1_1", of("", lambda t: t), None, None),
        (
            "squeezenet1_1",
            of("features.0.weight", lambda t: t[:, ::-1]),
            *("conv1", "channel order: params/conv1/kernel"),
        ),
        (
            "squeezenet1_1",
            of("weight", lambda t: t[:, :, ::-1, ::-1]),
            *("conv1", "turned by 180 degrees"),
        ),
        (
            "squeezenet1_1",
            of("weight", lambda t: t.transpose(0, 1, 3, 2)),
            *("conv1", "height and width are exchanged"),
        ),
        (
            "squeezenet1_1",
            of("features.6.squeeze.weight", lambda t: 1.1 * t),
            *("fire4", None),
        ),
        ("alexnet", dense((2, 3, 1)), "dense1", "flatten order: params/dense1/kernel"),
        (
            "resnet18",
            of("running_var", lambda t: t - np.float32(1e-3 - 1e-5)),
            *("stem", "epsilon: 1e-3 was meant where the model has 1e-5"),
        ),
        ("resnet18", of("running_var", np.sqrt), "stem", "standard deviations"),
    ],
)
def test_the_first_block_and_the_cause(name, change, first, cause, tmp_path) -> None:
    model, variables = right(name)
    fixture = verification.recorded(name, model, variables, TORCHVISION)
    weights.save(variables, tmp_path / "right", model)
    tensors = {
        tensor: np.ascontiguousarray(change(tensor, values))
        for tensor, values in load_file(tmp_path / "right").items()
    }
    save_file(tensors, tmp_path / "wrong")
    found = verification.compare(
        name, model, weights.load(tmp_path / "wrong", model), TORCHVISION, fixture
    )
    assert found.first == first
    if cause is None:
        assert found.cause is None
    else:
        assert cause in str(found.cause)


def test_another_padding_is_recognised() -> None:
    model, variables = right("resnet18")
    images = verification.image(224, TORCHVISION)
    # The stem as TensorFlow pads it: nothing before, one more behind.
    leaves = variables["params"]["stem"], variables["batch_stats"]["stem"]
    x = jax.lax.conv_general_dilated(
        images,
        leaves[0]["conv"]["kernel"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    scale, shift = leaves[0]["norm"]["scale"], leaves[0]["norm"]["bias"]
    mean, variance = leaves[1]["norm"]["mean"], leaves[1]["norm"]["var"]
    flat = (x.reshape(-1, 64) - mean[None]) / jnp.sqrt(variance + 1e-5)[None]
    x = jax.nn.relu(flat * scale[None] + shift[None]).reshape(x.shape)
    fixture = verification.sampled({"stem": x})
    found = verification.compare("resnet18", model, variables, TORCHVISION, fixture)
    assert found.first == "stem"
    assert "padding" in str(found.cause)


def test_the_image_has_no_symmetry() -> None:
    image = verification.image(64, TORCHVISION)[0]
    others = [
        *(image[::-1], image[:, ::-1], image[::-1, ::-1], image.transpose(1, 0, 2)),
        *(image[..., ::-1], np.roll(image, 1, 0), np.roll(image, 1, 1)),
    ]
    for other in others:
        assert np.mean(np.abs(other - image)) > 0.05


def test_fixtures_are_stored_without_loss_that_matters() -> None:
    values = np.random.default_rng(0).normal(size=(1, 5, 4, 3)).astype(np.float32)
    fixture = verification.sampled({"a": values, "b": values[:, :1, 0, 0]})
    text = verification.encoded(fixture)
    assert verification.decoded(text).keys() == fixture.keys()
    for name, sample in verification.decoded(text).items():
        assert sample.shape == fixture[name].shape
        np.testing.assert_allclose(sample.values, fixture[name].values, rtol=1e-6)
        np.testing.assert_allclose(sample.largest, fixture[name].largest, rtol=1e-6)


def command(*arguments: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "-W", "error", "-m", "flaxnets.weights", *arguments]
    return subprocess.run(
        list(map(str, words)), cwd=ROOT, capture_output=True, text=True
    )


def test_the_real_squeezenet_is_right(real_data: Path) -> None:
    file = real_data / "squeezenet_v1_caffe.npz"
    done = command("verify", file, "--model", "squeezenet_caffe")
    assert done.returncode == 0, done.stderr
    assert "the catalogue has it as squeezenet_caffe caffe" in done.stdout
    assert "52 tensors as caffe names them" in done.stdout
    assert "1,248,424 parameters" in done.stdout
    assert done.stdout.count("  right") == 11
    assert done.stdout.endswith("the file is right\n")


def test_a_converted_squeezenet_in_rgb_is_found_out(
    real_data: Path, tmp_path: Path
) -> None:
    tensors = weights.read(real_data / "squeezenet_v1_caffe.npz")
    tensors["conv1/w"] = tensors["conv1/w"][:, ::-1]
    np.savez(tmp_path / "rgb.npz", **tensors)
    done = command("verify", tmp_path / "rgb.npz", "--model", "squeezenet_caffe")
    assert done.returncode == 1, done.stderr
    assert "hash: unknown" in done.stdout
    assert "the first block that differs: conv1" in done.stdout
    assert "likely cause: channel order" in done.stdout


def test_against_a_file_that_is_right(tmp_path: Path) -> None:
    model, variables = right("squeezenet1_1")
    weights.save(variables, tmp_path / "right", model)
    options = ("--model", "squeezenet1_1", "--num-classes", 4)
    done = command("verify", tmp_path / "right", *options)
    assert done.returncode == 0, done.stderr
    assert "no activations are kept of squeezenet1_1" in done.stdout
    done = command(
        "verify", tmp_path / "right", *options, "--against", tmp_path / "right"
    )
    assert done.returncode == 0, done.stderr
    assert "the file is right" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "absent.pth", "--model", "vgg16"), "absent.pth: no such file"),
        (("verify", __file__, "--model", "vgg61"), "no model is called 'vgg61'"),
        (("verify", __file__, "--model", "vgg16"), "which no file of weights does"),
        (("list", "--model", "vgg99"), "--model vgg99: matches none of: alexnet"),
        (("fetch", "--model", "vgg16", "--tag", "v9"), "no weights 'v9' of vgg16"),
    ],
)
def test_mistakes_get_one_clear_line(arguments, message: str) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_catalogue_is_printed() -> None:
    done = command()
    assert done.returncode == 0, done.stderr
    rows = {tuple(line.split()[:2]): line for line in done.stdout.splitlines()}
    line = rows["vgg16", "torchvision"].split()
    assert line[2:] == [
        *("vgg16-397923af.pth", "553.4", "71.59", "90.38"),
        *("sha256", "397923af", "256,", "crop", "224,", "RGB", "BSD-3-Clause"),
    ]
    for entry in weights.entries():
        assert (entry.model, entry.tag) in rows
