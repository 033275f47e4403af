"""The shape of a data set in memory, and the checks that every source passes."""

from typing import NamedTuple

import numpy as np

from flaxnets import errors


class Split(NamedTuple):
    """Examples: images uint8[N, H, W, C] and labels int32[N]."""

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


def checked_split(
    origin: str, images: np.ndarray, labels: np.ndarray, class_count: int | None = None
) -> Split:
    """A split of arrays as they were found, or an error that names what is wrong.

    Args:
        origin: file and split, for messages.
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: integers [N] or [N, 1].
        class_count: labels must be below it.

    Raises:
        DataError: an empty split, other shapes or types, counts that differ, or a
            label out of range.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
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
