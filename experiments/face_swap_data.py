"""Whose faces the face swap is studied on: rendered ones, Yale's, or one's own."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxnets import console, errors
from flaxnets.data import Listing, faces, folders, npz, preprocessing
from flaxnets.data.folders import ImageFolder

TEST_VIEWS = 200
# Of Yale's 64 lights, and the share of one's own pictures, that are not trained on.
TEST_LIGHTS = 16
TEST_SHARE = 0.2
FEWEST = 8


class Case(NamedTuple):
    """Pictures of some people who are to be turned into one another.

    Attributes:
        name: of the case, for the table.
        people: their names, which are those of their decoders.
        train: of each person, uint8[N, H, W, C]; pictures of two people at one place
            have nothing in common.
        test: of each person, likewise.
        true: whether test pictures at one place show the same pose, mood and light, so
            that one person's is what the other's should become.
        poses: of each person's training pictures, yaw and pitch f32[N, 2] in degrees;
            None where they are not known.
        test_poses: of the test pictures, f32[N, 2].
    """

    name: str
    people: tuple[str, ...]
    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    true: bool
    poses: tuple[np.ndarray, ...] | None = None
    test_poses: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.train[0].shape[1:]


def rendered(number: int, *, pictures: int, size: int, seed: int) -> Case:
    """Two people who exist nowhere, each seen in views of their own.

    Args:
        number: of the pair; no two numbers share a person.
        pictures: of each person to train on.
        size: height and width in pixels.
        seed: of the people and of the views.
    """
    first = 1000 * seed + 2 * number
    people = [faces.identity(first), faces.identity(first + 1)]
    views = [faces.views(3 * first + place, pictures) for place in range(2)]
    unseen = faces.views(3 * first + 2, TEST_VIEWS)
    return Case(
        f"rendered {number + 1}",
        ("a", "b"),
        tuple(
            _bytes(faces.render(person, seen, size))
            for person, seen in zip(people, views, strict=True)
        ),
        tuple(_bytes(faces.render(person, unseen, size)) for person in people),
        true=True,
        poses=tuple(_poses(seen) for seen in views),
        test_poses=_poses(unseen),
    )


def _bytes(rendered: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(rendered, 0, 1)).astype(np.uint8)


def _poses(views: faces.Views) -> np.ndarray:
    return np.stack([views.yaw, views.pitch], axis=1)


def yale(path: Path, *, size: int, seed: int) -> Case:
    """People photographed under the same lights, some of which are set aside.

    Each person's training pictures are in an order of their own.

    Args:
        path: an `.npz` file of `images` uint8[N, H, W], `person` [N], and `azimuth` and
            `elevation` [N] of the light in degrees, such as the Extended Yale Face
            Database B (Lee, Ho and Kriegman 2005) in that form.
        size: height in pixels; the width follows.
        seed: of the lights that are set aside, and of the orders.

    Raises:
        DataError: the file is damaged, people have other lights than one another, or
            one twice.
    """
    held = npz.arrays(path, ("images", "person", "azimuth", "elevation"))
    images, person = held["images"], held["person"]
    if images.ndim != 3 or images.dtype != np.uint8 or person.shape != images.shape[:1]:
        raise errors.DataError(
            f"{path}: images are {images.dtype}{list(images.shape)} and person is "
            f"{list(person.shape)}, expected uint8[N, H, W] and [N]"
        )
    lights = np.stack([held["azimuth"], held["elevation"]], axis=1).astype(float)
    numbers = sorted(set(person.tolist()))
    sorted_ = [
        np.flatnonzero(person == one)[
            np.lexsort(lights[person == one].T)  # the same order for everyone
        ]
        for one in numbers
    ]
    if len(numbers) < 2 or len({lights[one].tobytes() for one in sorted_}) != 1:
        raise errors.DataError(
            f"{path}: {len(numbers)} people do not have the same lights; expected two "
            "people or more, each once under each light"
        )
    count = len(sorted_[0])
    different = len(np.unique(lights[sorted_[0]], axis=0))
    if different < count:
        raise errors.DataError(
            f"{path}: {count} pictures of each person under {different} lights; "
            "expected one under each, since a light that is set aside must not be seen"
        )
    if count < TEST_LIGHTS + FEWEST:
        raise errors.DataError(
            f"{path}: {count} lights are too few; {TEST_LIGHTS} of them are to be set "
            f"aside, and {FEWEST} must be left"
        )
    width = round(size * images.shape[2] / images.shape[1])
    smaller = preprocessing.Preprocessing(resize=(size, width), crop=None)
    images = np.stack([smaller.cropped(image) for image in images])[..., None]
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    order = generator.permutation(count)
    aside, rest = np.sort(order[:TEST_LIGHTS]), np.sort(order[TEST_LIGHTS:])
    return Case(
        "yale",
        tuple(f"p{one}" for one in numbers),
        tuple(images[one[generator.permutation(rest)]] for one in sorted_),
        tuple(images[one[aside]] for one in sorted_),
        true=True,
    )


def own(first: Path, second: Path, *, size: int, seed: int) -> Case:
    """The pictures in two folders, or zips, of one person each.

    The middle square of each picture is brought to the size; grey pictures and
    transparent ones are taken as `data.pictures.read_image` reads them. What cannot be
    read is named and left out, and so are copies. A share is set aside.

    Args:
        first, second: the folders; what lies in folders below them counts.
        size: height and width in pixels.
        seed: of what is set aside.

    Raises:
        ArgumentError: both are the same folder, or one lies in the other.
        DataError: a folder is missing, or too few pictures in it can be read.
    """
    if first.resolve() == second.resolve():
        raise errors.ArgumentError(
            f"--a and --b are both {first}; give the folders of two people"
        )
    for inner, outer in ((first, second), (second, first)):
        if inner.resolve().is_relative_to(outer.resolve()):
            raise errors.ArgumentError(
                f"{inner} lies in {outer}, so that its pictures would be of both "
                "people; give folders that lie beside each other"
            )
    train, test = [], []
    for place, (option, path) in enumerate((("--a", first), ("--b", second))):
        images = _read(option, path, size)
        generator = np.random.Generator(np.random.Philox(key=[seed, 3 + place]))
        order = generator.permutation(len(images))
        aside = max(1, round(TEST_SHARE * len(images)))
        test.append(images[order[:aside]])
        train.append(images[order[aside:]])
    return Case("own", ("a", "b"), tuple(train), tuple(test), true=False)


def _read(option: str, path: Path, size: int) -> np.ndarray:
    if not path.exists():
        raise errors.DataError(
            f"{option} {path}: there is no such folder or zip; name one that holds "
            f"{FEWEST} pictures or more of one person's face"
        )
    names = sorted(
        name
        for name in folders.file_names(path)
        if name.lower().endswith(folders.SUFFIXES)
    )
    listing = Listing((name, 0) for name in names)
    square = preprocessing.Preprocessing(resize=size, crop=size)
    images: np.ndarray | tuple[()] = ()
    if names:
        folder = ImageFolder(path, (option,), listing, Listing(()), others=0)
        read = folder.read(listing, square.cropped, on_bad="skip")
        for message in read.skipped:
            console.say(f"left out: {message}")
        images = read.split.images
        # A copy could lie on both sides of what is set aside.
        once = {image.tobytes(): place for place, image in enumerate(images)}
        if len(once) < len(images):
            console.say(f"left out: {len(images) - len(once)} copies in {path}")
            images = images[sorted(once.values())]
    if len(images) < FEWEST:
        raise errors.DataError(
            f"{option} {path}: {len(images)} pictures ({', '.join(folders.SUFFIXES)}) "
            f"can be read, but at least {FEWEST} different ones of one person's face "
            "are needed, and some hundreds are better"
        )
    return np.asarray(images)
