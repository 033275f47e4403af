"""What is saved comes back bit by bit, under torchvision's names."""

import resource
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxnets import errors, models, params, weights
from tests.networks import drawn


def network(name: str) -> tuple[Any, dict]:
    model = models.build(name, num_classes=3)
    return model, drawn(model)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "googlenet", "alexnet"])
def test_a_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    model, variables = network(name)
    weights.save(variables, tmp_path / "w.safetensors", model)
    found = weights.load(tmp_path / "w.safetensors", model)
    assert not params.differences(variables, found)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_names_and_layout_are_torchvisions(tmp_path: Path) -> None:
    model, variables = network("alexnet")
    weights.save(variables, tmp_path / "w", model)
    tensors = load_file(tmp_path / "w")
    kernel = variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        tensors["features.0.weight"], kernel.transpose(3, 2, 0, 1)
    )
    dense = variables["params"]["dense1"]["kernel"].reshape(6, 6, 256, 4096)
    np.testing.assert_array_equal(
        tensors["classifier.1.weight"],
        dense.transpose(3, 2, 0, 1).reshape(4096, -1),
    )


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    model, variables = network("squeezenet1_1")
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"precious")
    mode = path.stat().st_mode
    with pytest.raises(errors.ArgumentError, match=f"{path}: exists already"):
        weights.save(variables, path, model)
    assert path.read_bytes() == b"precious"
    weights.save(variables, path, model, overwrite=True)
    assert weights.load(path, model)
    assert path.stat().st_mode == mode


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    model, variables = network("squeezenet1_1")
    other = models.build("squeezenet1_1", num_classes=4)
    with pytest.raises(errors.ArgumentError, match="logits/kernel: expected"):
        weights.save(variables, tmp_path / "w", other)
    caffe, variables = network("squeezenet_caffe")
    with pytest.raises(errors.ArgumentError, match="torchvision has no SqueezeNet"):
        weights.save(variables, tmp_path / "w", caffe)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    model, variables = network("squeezenet1_1")
    path = tmp_path / "absent" / "w"
    with pytest.raises(errors.FlaxnetsError, match=f"{path}: cannot be written"):
        weights.save(variables, path, model)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    model, variables = network("squeezenet1_1")
    path = tmp_path / "w"
    path.write_bytes(b"precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(errors.FlaxnetsError, match=f"{path}: cannot be written"):
            weights.save(variables, path, model, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]
