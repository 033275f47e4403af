"""MNIST and Fashion-MNIST as their authors publish them: found, fetched, verified."""

import os
from pathlib import Path
from typing import NamedTuple

from flaxnets import console, files
from flaxnets.data import download, idx
from flaxnets.data.arrays import Dataset

# How long a hurried load waits for the server.
REACH_SECONDS = 3.0


class Source(NamedTuple):
    """Where a data set's four files are, and what they must be.

    Attributes:
        base: URL that each file's name is appended to.
        files: what each gzipped file must be, in the order of `idx.FILES`.
        class_names: one a class.
    """

    base: str
    files: tuple[download.Expected, ...]
    class_names: tuple[str, ...]


# SHA-256 and sizes as in tensorflow-datasets' url_checksums/mnist.txt and
# url_checksums/fashion_mnist.txt.
SOURCES = {
    "mnist": Source(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            download.Expected(
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9912422,
            ),
            download.Expected(
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28881,
            ),
            download.Expected(
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1648877,
            ),
            download.Expected(
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542
            ),
        ),
        tuple("0123456789"),
    ),
    "fashion_mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            download.Expected(
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26421880,
            ),
            download.Expected(
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29515,
            ),
            download.Expected(
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4422102,
            ),
            download.Expected(
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148
            ),
        ),
        (
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
    ),
}


def load(name: str, *, hurried: bool = False) -> Dataset:
    """The data set from the cache, after downloading what is missing there.

    Args:
        name: a key of SOURCES.
        hurried: give up after REACH_SECONDS without an answer from the server, and
            after one attempt.

    Raises:
        DownloadError: a file cannot be had; the message names its URL and what to do.
    """
    source = SOURCES[name]
    folder = download.cache_folder() / name
    missing = [
        (f"{file}.gz", expected)
        for file, expected in zip(idx.FILES, source.files, strict=True)
        if not expected.holds(folder / f"{file}.gz")
    ]
    if missing:
        megabytes = sum(expected.size or 0 for _, expected in missing) / 1e6
        console.say_error(
            f"downloading {name} ({megabytes:.1f} MB, {source.base}) to {folder}"
        )
        if hurried:
            download.check_reachable(source.base + missing[0][0], REACH_SECONDS)
    attempts = 1 if hurried else download.ATTEMPTS
    for file, expected in missing:
        url = source.base + file
        download.fetch(url, folder / file, expected, attempts=attempts, show=True)
    dataset = idx.load_folder(folder, name, source.class_names)
    return dataset._replace(source=f"official files in {folder}, SHA-256 verified")


# The lecture's 3,000 photographs, as Google's machine-learning course hands them out.
# No digest is published; the size is what its server says.
_CATS_AND_DOGS = (
    "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
)
_CATS_AND_DOGS_BYTES = 68_606_236


def cats_and_dogs() -> Path:
    """The zip of the lecture's cats and dogs, for `data.image_folder`.

    `$FLAXNETS_DATA` is looked at first, for `cats_and_dogs_filtered.zip` or its smaller
    pictures in `cats_and_dogs_small.zip`. Else it is downloaded once; its SHA-256 is
    noted then, and checked from then on.

    Raises:
        DownloadError: it cannot be had; the message says where to put it by hand.
    """
    given = os.environ.get("FLAXNETS_DATA")
    for name in ("cats_and_dogs_filtered.zip", "cats_and_dogs_small.zip"):
        if given and (Path(given) / name).is_file():
            return Path(given) / name
    path = download.cache_folder() / "cats_and_dogs" / "cats_and_dogs_filtered.zip"
    record = path.with_suffix(".sha256")
    known = record.read_text().strip() if record.exists() else ""
    expected = download.Expected(known, _CATS_AND_DOGS_BYTES)
    if not path.exists():
        console.say(f"downloading {_CATS_AND_DOGS} ({expected})")
    download.fetch(_CATS_AND_DOGS, path, expected, show=True)
    if not known:
        with files.replacing(record) as fresh:
            fresh.write_text(download.digest(path) + "\n")
    return path
