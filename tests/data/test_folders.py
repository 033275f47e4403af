"""Folders and zips of pictures: what is a class, what is a picture, what is broken."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxnets import data, errors
from flaxnets.data import folders, preprocessing


def _picture(value: int, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, format)
    return file.getvalue()


def _tree(root: Path, names: dict[str, bytes]) -> Path:
    for name, content in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _zip(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def _made(kind: str, where: Path, names: dict[str, bytes]) -> Path:
    if kind == "zip":
        return _zip(where / "pictures.zip", names)
    return _tree(where / "pictures", names)


SPLITS = {
    f"{split}/{name}/{index}.png": _picture(40 * index + 10 * label)
    for split, count in (("train", 3), ("validation", 2))
    for label, name in enumerate(("cats", "dogs"))
    for index in range(count)
}


def whole(image: np.ndarray) -> np.ndarray:
    return image


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("around", ["", "outer/", "outer/inner/"])
def test_splits_and_classes_are_found(kind: str, around: str, tmp_path: Path) -> None:
    names = {around + name: content for name, content in SPLITS.items()}
    found = data.image_folder(_made(kind, tmp_path, names))
    assert found.class_names == ("cats", "dogs")
    assert list(found.train) == [
        (f"{around}train/{name}/{index}.png", label)
        for label, name in enumerate(("cats", "dogs"))
        for index in range(3)
    ]
    assert len(found.validation) == 4
    read = found.read(found.train, whole)
    assert read.split.images.shape == (6, 6, 8, 3)
    assert read.split.images[:, 0, 0, 0].tolist() == [0, 40, 80, 10, 50, 90]
    assert read.split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert read.skipped == ()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_without_splits_a_share_of_each_class_is_set_aside(
    kind: str, tmp_path: Path
) -> None:
    names = {
        f"{name}/{index}.png": _picture(index)
        for name, count in (("ant", 10), ("bee", 20))
        for index in range(count)
    }
    path = _made(kind, tmp_path, names)
    found = data.image_folder(path, validation=0.2, seed=3)
    assert np.bincount(found.train.labels).tolist() == [8, 16]
    assert np.bincount(found.validation.labels).tolist() == [2, 4]
    assert not {name for name, _ in found.train} & {n for n, _ in found.validation}
    assert list(data.image_folder(path, seed=3).train) == list(found.train)
    assert list(data.image_folder(path, seed=4).train) != list(found.train)


def test_litter_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    names = {
        **SPLITS,
        "train/cats/Thumbs.db": b"x",
        "train/cats/.hidden.png": b"x",
        "train/.ipynb_checkpoints/0.png": _picture(0),
        "__MACOSX/train/cats/._0.png": b"x",
        "train/cats/notes.txt": b"notes",
        "readme.md": b"about",
    }
    for kind in ("folder", "zip"):
        found = data.image_folder(_made(kind, tmp_path, names))
        assert found.class_names == ("cats", "dogs")
        assert len(found.train) == 6
        assert found.others == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"cats/0.png": b""}, "has 1 folders .cats., expected one for each"),
        ({"0.png": b""}, "has 0 folders"),
        (
            {"cats/0.png": b"", "dogs/a.txt": b""},
            r"no picture .* lies in the class dogs",
        ),
        (
            {
                "train/a/0.png": b"",
                "train/b/0.png": b"",
                "val/a/0.png": b"",
                "val/c/0.png": b"",
            },
            "train alone has b; val alone has c",
        ),
        ({"train/a/0.png": b"", "train/b/0.png": b"", "x/1.png": b""}, "but none of"),
        ({"a/0.png": b"", "b/0.png": b"", "b/1.png": b""}, "'a' has 1 picture, too"),
    ],
)
def test_what_cannot_be_classes_is_named(names, message: str, tmp_path: Path) -> None:
    for kind in ("folder", "zip"):
        path = _made(kind, tmp_path, names)
        with pytest.raises(errors.DataError, match=message):
            data.image_folder(path)


BROKEN = {
    "empty": (b"", "is empty"),
    "truncated": (_picture(9, (64, 64), "JPEG")[:400], "truncated or damaged"),
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "text": (b"not a picture", "not a picture that can be read"),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named_or_skipped(
    kind: str, name: str, tmp_path: Path
) -> None:
    content, message = BROKEN[name]
    names = {**SPLITS, "train/cats/1.png": content}
    found = data.image_folder(_made(kind, tmp_path, names))
    with pytest.raises(errors.DataError, match=rf"train/cats/1.png.*{message}"):
        found.read(found.train, whole)
    read = found.read(found.train, whole, on_bad="skip")
    assert len(read.split.images) == len(read.names) == 5
    assert "train/cats/1.png" not in read.names
    assert len(read.skipped) == 1 and "train/cats/1.png" in read.skipped[0]


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    names = dict.fromkeys(SPLITS, b"broken")
    found = data.image_folder(_tree(tmp_path, names))
    with pytest.raises(errors.DataError, match="none of 6 pictures could be read"):
        found.read(found.train, whole, on_bad="skip")


def test_a_changed_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in SPLITS.items():
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    at = content.index(SPLITS["train/dogs/2.png"]) + 60
    content[at] ^= 1
    path.write_bytes(content)
    found = data.image_folder(path)
    with pytest.raises(errors.DataError, match=r"train/dogs/2.png: cannot be read"):
        found.read(found.train, whole)


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="no such folder or zip"):
        data.image_folder(tmp_path / "absent")
    (tmp_path / "text").write_text("text")
    with pytest.raises(errors.DataError, match="neither a folder nor an undamaged zip"):
        data.image_folder(tmp_path / "text")
    with pytest.raises(errors.ArgumentError, match="validation is 1.0"):
        data.image_folder(tmp_path, validation=1.0)


def test_odd_names_and_links(tmp_path: Path) -> None:
    """Names that are no UTF-8, long ones, other alphabets; links that go round."""
    odd = [b"\xff\xfe.png", "кот 猫.png".encode(), b"a" * 200 + b".JPG"]
    for folder in ("cats", "dogs"):
        (tmp_path / folder).mkdir()
        for index, name in enumerate(odd):
            path = os.fsencode(tmp_path / folder) + b"/" + name
            with open(path, "wb") as file:
                file.write(_picture(index))
    os.symlink(tmp_path, tmp_path / "cats/around")
    os.symlink("loop.png", tmp_path / "dogs/loop.png")
    found = data.image_folder(tmp_path, validation=0.34)
    assert len(found.train) + len(found.validation) == 7
    entries = [*found.train, *found.validation]
    read = found.read(entries, whole, on_bad="skip")
    assert len(read.split.images) == 6
    assert len(read.skipped) == 1 and "loop.png" in read.skipped[0]
    assert sorted(os.fsencode(name.split("/")[-1]) for name in read.names) == sorted(
        2 * odd
    )


def test_a_listing_takes_a_few_bytes_besides_the_names() -> None:
    entries = [(f"train/cats/cat.{index}.jpg", index % 2) for index in range(10_000)]
    listing = folders.Listing(entries)
    assert list(listing) == entries
    assert listing[-1] == entries[-1] and listing[5:8] == entries[5:8]
    names = sum(len(name) for name, _ in entries)
    assert listing.nbytes == names + 12 * len(entries)


def test_cats_and_dogs(real_data: Path) -> None:
    found = data.image_folder(real_data / "cats_and_dogs_small.zip")
    assert found.class_names == ("cats", "dogs")
    assert np.bincount(found.train.labels).tolist() == [1000, 1000]
    assert np.bincount(found.validation.labels).tolist() == [500, 500]
    read = found.read(found.validation[:20], preprocessing.TORCHVISION.cropped)
    assert read.split.images.shape == (20, 224, 224, 3)
    with zipfile.ZipFile(real_data / "cats_and_dogs_small.zip") as archive:
        with archive.open(found.validation[7][0]) as file:
            expected = np.asarray(Image.open(file).convert("RGB"))
    expected = preprocessing.TORCHVISION.cropped(expected)
    np.testing.assert_array_equal(read.split.images[7], expected)
