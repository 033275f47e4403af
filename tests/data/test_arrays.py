"""Data sets made by hand: what is accepted, and how each fault is named."""

from typing import Any

import numpy as np
import pytest

from flaxnets import data, errors
from flaxnets.data import arrays

IMAGES = np.zeros((6, 4, 4, 1), np.uint8)
LABELS = np.arange(6) % 3


def made(**changes: Any) -> data.Dataset:
    split = data.Split(IMAGES, LABELS)
    whole = data.Dataset("mine", split, split, ("a", "b", "c"), "made here")
    return whole._replace(**changes)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_labels_of_any_whole_numbers_are_accepted(kind: type) -> None:
    split = data.Split(IMAGES, LABELS.astype(kind))
    arrays.check_dataset(made(train=split))


@pytest.mark.parametrize(
    ("part", "images", "labels", "message"),
    [
        ("train", IMAGES[:0], LABELS[:0], "0 images and 0 labels"),
        ("test", IMAGES[:0], LABELS[:0], "0 images and 0 labels"),
        ("train", IMAGES / 255, LABELS, r"images are float64\[6, 4, 4, 1\]"),
        ("test", IMAGES, LABELS / 1, r"labels are float64\[6\]"),
        ("test", IMAGES, LABELS[:2], "6 images and 2 labels"),
        ("train", IMAGES, LABELS - 1, "label of example 0 is -1, expected 0 to 2"),
        ("test", IMAGES, LABELS + 1, "label of example 2 is 3, expected 0 to 2"),
        ("train", IMAGES[..., 0], LABELS, r"reshape them to \[6, 4, 4, 1\]"),
        ("train", IMAGES, LABELS[:, None], r"labels \[6, 1\].*and \[6\]"),
        ("train", IMAGES[:, :0], LABELS, r"images are uint8\[6, 0, 4, 1\]"),
    ],
)
def test_a_fault_is_named_with_its_split(part, images, labels, message) -> None:
    dataset = made(**{part: data.Split(images, labels)})
    with pytest.raises(errors.DataError, match=rf"^mine \({part}\): .*{message}"):
        arrays.check_dataset(dataset)


@pytest.mark.parametrize("shape", [(6, 8, 8, 1), (6, 4, 4, 3)])
def test_splits_that_differ_in_shape_are_named_with_both(shape) -> None:
    dataset = made(test=data.Split(np.zeros(shape, np.uint8), LABELS))
    with pytest.raises(errors.DataError) as caught:
        arrays.check_dataset(dataset)
    assert str([4, 4, 1]) in str(caught.value)
    assert str(list(shape[1:])) in str(caught.value)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("label", [6, 2 * 10**9, 2**40])
def test_a_label_beyond_the_number_of_examples_is_refused(label, kind) -> None:
    """Not cut to 32 bits, and before that many classes get names."""
    labels = np.array([0, 1, 2, 0, 1, label]).astype(kind)
    with pytest.raises(errors.DataError, match=f"here: a label is {label}.*6 examples"):
        arrays.checked_split("here", IMAGES, labels)


def test_labels_are_checked_without_a_class_count() -> None:
    with pytest.raises(errors.DataError, match="example 1 is -3"):
        arrays.check_labels("here", np.array([0, -3]), None)


def test_a_fingerprint_changes_with_any_pixel_and_label() -> None:
    images = np.zeros((2, 3, 3, 1), np.uint8)
    split = arrays.Split(images, np.array([0, 1], np.int32))
    whole = arrays.Dataset("one", split, split, ("a", "b"), "made here")
    known = arrays.fingerprint(whole)
    other_pixel = images.copy()
    other_pixel[1, 2, 2, 0] = 1
    other_label = np.array([1, 1], np.int32)
    for changed in (
        whole._replace(test=split._replace(images=other_pixel)),
        whole._replace(train=split._replace(labels=other_label)),
    ):
        assert arrays.fingerprint(changed) != known
    assert arrays.fingerprint(whole._replace(name="another name")) == known
