"""tensorflow-datasets as a source; a stand-in takes its place."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from flaxnets import data, errors


class NotFound(ValueError):
    pass


class Builder:
    """What `flaxnets.data.tfds` uses of a builder."""

    def __init__(self) -> None:
        self.prepared = True
        self.failure: Exception | None = None
        images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
        self.examples: dict[str, Any] = {
            split: [
                {"image": image, "label": index % 3}
                for index, image in enumerate(images)
            ]
            for split in ("train", "test")
        }
        self.features = {
            "image": None,
            "label": types.SimpleNamespace(names=["cat", "dog", "emu"]),
        }

    @property
    def info(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            features=self.features, splits=self.examples, full_name="pets/1.0.0"
        )

    def is_prepared(self) -> bool:
        return self.prepared

    def download_and_prepare(self, *, file_format: str) -> None:
        assert file_format == "array_record"
        if self.failure is not None:
            raise self.failure

    def as_data_source(self, split: str) -> Any:
        if self.failure is not None:
            raise self.failure
        return self.examples[split]


@pytest.fixture
def pets(monkeypatch) -> Builder:
    """The one data set that the stand-in knows."""
    builder = Builder()

    def find(name: str, *, file_format: str) -> Builder:
        assert file_format == "array_record"
        if name == "pets":
            return builder
        if name.startswith("pets"):
            raise AssertionError(f"cannot be loaded as {name}\nonly: 1.0.0")
        raise NotFound(f"{name} not found\nAvailable: pets")

    names = ("tensorflow_datasets", "tensorflow_datasets.core")
    for name in (*names, "tensorflow_datasets.core.registered"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    vars(sys.modules[names[0]])["builder"] = find
    registered = sys.modules["tensorflow_datasets.core.registered"]
    vars(registered)["DatasetNotFoundError"] = NotFound
    return builder


def refused(name: str = "pets") -> str:
    with pytest.raises(errors.DataError, match=f"^tfds:{name}( |: )") as caught:
        data.load(f"tfds:{name}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prepared", [True, False])
def test_examples_become_arrays(pets: Builder, prepared: bool) -> None:
    pets.prepared = prepared
    dataset = data.load("tfds:pets")
    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog", "emu"))
    assert dataset.source == "tensorflow-datasets, pets/1.0.0"
    np.testing.assert_array_equal(dataset.train.labels, [0, 1, 2, 0, 1, 2])
    for image, example in zip(dataset.test.images, pets.examples["test"], strict=True):
        np.testing.assert_array_equal(image, example["image"])


def test_validation_stands_in_for_test(pets: Builder) -> None:
    pets.examples["validation"] = pets.examples.pop("test")[:5]
    assert len(data.load("tfds:pets").test.labels) == 5


def test_an_unknown_name_points_to_the_catalogue(pets: Builder) -> None:
    assert "knows no data set 'petz'" in refused("petz")


def test_another_version_is_named_with_advice_on_the_format(pets: Builder) -> None:
    message = refused("pets:9.9.9")
    assert "cannot be loaded as pets:9.9.9; check name, config" in message
    assert "file_format='array_record'" in message


def test_a_copy_in_another_format_is_named_with_advice(pets: Builder) -> None:
    pets.failure = NotImplementedError("tfrecord is not supported\nPossible causes:")
    message = refused()
    assert "train cannot be read: tfrecord is not supported; a copy in" in message
    assert "file_format='array_record'" in message


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ImportError("No module named 'tensorflow'"), "pip install tensorflow-cpu"),
        (OSError("no route\nto host"), "downloaded and prepared: no route; prepare"),
        (RuntimeError(), "could not be downloaded and prepared: RuntimeError; "),
        (ValueError("\n\n"), "could not be downloaded and prepared: ValueError; "),
    ],
)
def test_what_stops_the_preparation_is_named(pets, failure, message) -> None:
    pets.prepared, pets.failure = False, failure
    assert message in refused()


def test_without_tensorflow_datasets_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets" in refused()


def test_images_of_mixed_sizes_are_named(pets: Builder) -> None:
    pets.examples["test"][2]["image"] = np.zeros((7, 4, 3), np.uint8)
    assert "its images have 2 different sizes" in refused()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_or_empty_split_is_named(pets: Builder, split: str) -> None:
    pets.examples[split] = []
    assert f"{split} is empty" in refused()
    del pets.examples[split]
    assert "expected features image and label (a class label) and spl" in refused()


def test_labels_that_are_no_classes_are_named(pets: Builder) -> None:
    pets.features["label"] = types.SimpleNamespace()
    assert "features ['image', 'label'], splits ['train', 'test']" in refused()


def test_labels_that_were_withheld_are_named(pets: Builder) -> None:
    for example in pets.examples["test"]:
        example["label"] = -1
    assert "(test): label of example 0 is -1, expected 0 to 2" in refused()
