"""Image data sets by name or path."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import errors
from flaxnets.data import idx, npz, official
from flaxnets.data.arrays import Dataset as Dataset
from flaxnets.data.arrays import Split as Split
from flaxnets.data.arrays import checked_split

DIGITS = tuple("0123456789")


def load(name: str) -> Dataset:
    """Loads a data set.

    Args:
        name: `mnist` or `fashion_mnist` (looked for in `$FLAXNETS_DATA`, then in the
            cache, then downloaded and verified); `digits` (scikit-learn's 1,797 real
            digits, at 28x28, nothing to download); `auto` (MNIST where it can be had,
            else `digits`, and `source` says why); an `.npz` file in Keras's layout; a
            folder with four IDX files; or `tfds:NAME`.

    Raises:
        ArgumentError: the name is unknown.
        DataError: a file is broken.
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
        return idx.load_folder(path, path.name)
    close = difflib.get_close_matches(name, [*_NAMED, "auto"], n=1)
    hint = f"; did you mean {close[0]}" if close else ""
    raise errors.ArgumentError(
        f"no data set {name!r}{hint}; known are auto, {', '.join(_NAMED)}, tfds:NAME, "
        "the path of an .npz file, or of a folder with four IDX files"
    )


def _automatic() -> Dataset:
    try:
        return load("mnist")
    except errors.DownloadError as error:
        digits = load("digits")
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
    origin = "scikit-learn's digits"
    train = checked_split(origin, images[~test], found.target[~test], 10)
    held_out = checked_split(origin, images[test], found.target[test], 10)
    source = "1,797 real digits that come with scikit-learn, enlarged to 28x28"
    return Dataset("digits", train, held_out, DIGITS, source)


def _official(name: str) -> Callable[[], Dataset]:
    def find() -> Dataset:
        given = os.environ.get("FLAXNETS_DATA")
        if given:
            folder = Path(given)
            if (folder / f"{name}.npz").is_file():
                return npz.load(folder / f"{name}.npz")
            for place in (folder / name, folder):
                if idx.is_folder(place):
                    return idx.load_folder(place, name)
        return official.load(name)

    return find


_NAMED: dict[str, Callable[[], Dataset]] = {
    "mnist": _official("mnist"),
    "fashion_mnist": _official("fashion_mnist"),
    "digits": _digits,
}
