"""Image data sets by name or path."""

import difflib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import errors
from flaxnets.data import idx, npz, official
from flaxnets.data.arrays import Dataset as Dataset
from flaxnets.data.arrays import Split as Split
from flaxnets.data.arrays import assembled

DIGITS = tuple("0123456789")


def load(name: str) -> Dataset:
    """Loads a data set.

    Args:
        name: `mnist` or `fashion_mnist` (looked for in `$FLAXNETS_DATA`, then in the
            cache, then downloaded and verified); `digits` (scikit-learn's 1,797 real
            digits, at 28x28, nothing to download); `auto` (MNIST where it is at hand
            or its server answers at once, else `digits`, and `source` says why); an
            `.npz` file in Keras's layout; a folder with four IDX files; or
            `tfds:NAME`.

    Raises:
        ArgumentError: the name is unknown.
        DataError: a file is broken, or `$FLAXNETS_DATA` is no folder.
        DownloadError: MNIST can be neither found nor downloaded.
    """
    if name == "auto":
        return _automatic()
    if name in _NAMED:
        return _NAMED[name]()
    if name.startswith("tfds:"):
        from flaxnets.data import tfds

        return tfds.load(name.removeprefix("tfds:"))
    path = Path(name)
    if path.suffix == ".npz":
        return npz.load(path)
    if path.is_dir():
        return idx.load_folder(path, path.resolve().name)
    close = difflib.get_close_matches(name, [*_NAMED, "auto"], n=1)
    hint = f"; did you mean {close[0]}" if close else ""
    raise errors.ArgumentError(
        f"no data set {name!r}{hint}; known are auto, {', '.join(_NAMED)}, tfds:NAME, "
        "the path of an .npz file, or of a folder with four IDX files"
    )


def _automatic() -> Dataset:
    try:
        return _published("mnist", hurried=True)
    except errors.DownloadError as error:
        digits = _digits()
        reason = str(error).split(";")[0]
        return digits._replace(
            source=f"{digits.source} (MNIST is not at hand: {reason})"
        )


def _digits() -> Dataset:
    """scikit-learn's digits, drawn as MNIST's: 20x20 in the middle of 28x28.

    Every fifth example of each class is a test example.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    small = np.round(found.images * (255 / 16)).astype(np.uint8)
    images = np.zeros((len(small), 28, 28), np.uint8)
    for large, digit in zip(images, small, strict=True):
        scaled = Image.fromarray(digit).resize((20, 20), Image.Resampling.BICUBIC)
        large[4:24, 4:24] = np.asarray(scaled)
    rank = np.zeros(len(images), int)
    for digit in range(10):
        rank[found.target == digit] = np.arange(np.sum(found.target == digit))
    test = rank % 5 == 4
    return assembled(
        "digits",
        "scikit-learn's digits",
        (images[~test], found.target[~test], images[test], found.target[test]),
        DIGITS,
        "1,797 real digits that come with scikit-learn, enlarged to 28x28",
    )


def _published(name: str, *, hurried: bool = False) -> Dataset:
    """`mnist` or `fashion_mnist` from `$FLAXNETS_DATA`, the cache, or the network."""
    class_names = official.SOURCES[name].class_names
    given = os.environ.get("FLAXNETS_DATA")
    if given:
        folder = Path(given)
        if not folder.is_dir():
            raise errors.DataError(
                f"FLAXNETS_DATA is {given}, which is no folder; set it to a folder "
                "that holds data sets, or unset it"
            )
        if (folder / f"{name}.npz").is_file():
            return npz.load(folder / f"{name}.npz", class_names)
        if idx.is_folder(folder / name):
            return idx.load_folder(folder / name, name, class_names)
        # IDX files do not say what they hold; without a folder's name it is MNIST.
        if name == "mnist" and idx.is_folder(folder):
            return idx.load_folder(folder, name, class_names)
    return official.load(name, hurried=hurried)


_NAMED: dict[str, Callable[[], Dataset]] = {
    "mnist": functools.partial(_published, "mnist"),
    "fashion_mnist": functools.partial(_published, "fashion_mnist"),
    "digits": _digits,
}
