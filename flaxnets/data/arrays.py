"""The shape of a data set in memory, and the checks that every source passes."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxnets import errors


class Split(NamedTuple):
    """Examples: images uint8[N, H, W, C] and labels int32[N].

    Features stand in the images' place where a network is trained on them,
    float32[N, D].
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set for classification.

    Attributes:
        name: such as `mnist`.
        train, test: its two splits.
        class_names: one a class; labels index them.
        source: in plain words, where the data came from.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    source: str


def assembled(
    name: str,
    origin: str,
    arrays: Sequence[np.ndarray],
    class_names: tuple[str, ...] | None,
    source: str,
) -> Dataset:
    """A data set of arrays as they were found, or an error that names what is wrong.

    Args:
        name: of the data set.
        origin: the file or folder, for messages.
        arrays: images and labels to train on, images and labels to test with; see
            `checked_split`.
        class_names: by default the numbers from 0 to the largest training label.
        source: for people.

    Raises:
        DataError: see `checked_split`; or one class only, or splits that differ in
            the shape of their images.
    """
    train_images, train_labels, test_images, test_labels = arrays
    count = None if class_names is None else len(class_names)
    train = checked_split(f"{origin} (train)", train_images, train_labels, count)
    if class_names is None:
        class_names = tuple(str(label) for label in range(train.labels.max() + 1))
    test = checked_split(f"{origin} (test)", test_images, test_labels, len(class_names))
    if (train.labels == train.labels[0]).all():
        raise errors.DataError(
            f"{origin}: all training labels are {train.labels[0]}, expected 2 classes "
            "or more"
        )
    _check_same_shape(origin, train, test)
    return Dataset(name, train, test, class_names, source)


def fingerprint(dataset: Dataset) -> str:
    """The SHA-256 of a data set's arrays, hexadecimal."""
    digest = hashlib.sha256()
    for array in (*dataset.train, *dataset.test):
        update_digest(digest, array)
    return digest.hexdigest()


def update_digest(digest: Any, images: Any) -> None:
    """Adds an array, or what stands for one and has a `fingerprint`, to a digest."""
    if isinstance(images, np.ndarray):
        digest.update(np.ascontiguousarray(images).data)
    else:
        digest.update(images.fingerprint().encode())


def check_dataset(dataset: Dataset) -> None:
    """Checks a data set that did not come from `data.load`.

    Raises:
        DataError: images or labels of a split are of another type or shape than a
            `Split` has, or there are none; features are not finite; a label names no
            class; or the splits differ in the shape of their images.
    """
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        origin = f"{dataset.name} ({part})"
        if split.images.dtype == np.float32 and split.images.ndim == 2:
            # Some rows at a time, since a file may be mapped here.
            rows = range(0, len(split.images), 1024)
            if not all(np.isfinite(split.images[i : i + 1024]).all() for i in rows):
                raise errors.DataError(
                    f"{origin}: features are not finite, expected numbers; look at "
                    "the weights that they were computed with"
                )
            # What else is asked of images is asked of features too.
            stand_in = np.zeros((len(split.images), 1, 1, 1), np.uint8)
            checked_split(origin, stand_in, split.labels, len(dataset.class_names))
            continue
        checked = checked_split(origin, *split, len(dataset.class_names))
        if split.images.ndim != 4 or split.labels.ndim != 1:
            raise errors.DataError(
                f"{origin}: images are {list(split.images.shape)} and labels "
                f"{list(split.labels.shape)}, expected [N, H, W, C] and [N]; reshape "
                f"them to {list(checked.images.shape)} and "
                f"{list(checked.labels.shape)}"
            )
    _check_same_shape(dataset.name, dataset.train, dataset.test)


def _check_same_shape(origin: str, train: Split, test: Split) -> None:
    if train.images.shape[1:] != test.images.shape[1:]:
        raise errors.DataError(
            f"{origin}: training images are {list(train.images.shape[1:])}, test "
            f"images {list(test.images.shape[1:])}, expected one height, width and "
            "number of channels; bring them to the same shape"
        )


def checked_split(
    origin: str, images: np.ndarray, labels: np.ndarray, class_count: int | None = None
) -> Split:
    """A split of arrays as they were found, or an error that names what is wrong.

    Args:
        origin: file and split, for messages.
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: integers [N] or [N, 1].
        class_count: labels must be below it; by default, at most N.

    Raises:
        DataError: an empty split, other shapes or types, counts that differ, a label
            out of range, or more classes than examples.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise errors.DataError(
            f"{origin}: images are {images.dtype}{list(images.shape)}, expected uint8 "
            "[N, H, W] or [N, H, W, C]; convert them to whole numbers from 0 to 255"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise errors.DataError(
            f"{origin}: labels are {labels.dtype}{list(labels.shape)}, expected "
            "integers [N], one class number an image"
        )
    if len(images) == 0 or len(images) != len(labels):
        raise errors.DataError(
            f"{origin}: {len(images)} images and {len(labels)} labels, expected the "
            "same number of each, and at least one"
        )
    check_labels(origin, labels, class_count)
    if class_count is None and labels.max() >= len(labels):
        raise errors.DataError(
            f"{origin}: a label is {labels.max()}, but there are only {len(labels)} "
            "examples; expected classes numbered from 0 without gaps, renumber them"
        )
    return Split(images, labels.astype(np.int32))


def check_labels(origin: str, labels: np.ndarray, class_count: int | None) -> None:
    """Raises DataError for the first label that is negative or not below class_count.

    Such a label would give NaN, or a plausible but wrong loss.
    """
    bad = labels < 0
    if class_count is not None:
        bad = bad | (labels >= class_count)
    if bad.any():
        first = int(np.argmax(bad))
        top = "any number" if class_count is None else str(class_count - 1)
        raise errors.DataError(
            f"{origin}: label of example {first} is {labels[first]}, expected 0 to "
            f"{top}; {int(bad.sum())} labels are out of range"
        )
