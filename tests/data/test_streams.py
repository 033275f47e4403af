"""Pictures decoded when they are asked for: the same as read at once."""

import os
from pathlib import Path

import grain
import numpy as np
import pytest
from PIL import Image

from flaxnets import data, errors
from flaxnets.data import arrays, preprocessing

PREPARE = preprocessing.Preprocessing(resize=8, crop=6)


def _folder(root: Path, count: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for index in range(count):
        for split, name in (("train", "ant"), ("train", "bee"), ("val", "ant")):
            path = root / split / name / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (9, 7 + index % 3, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    (root / "val" / "bee").mkdir()
    Image.new("RGB", (9, 9)).save(root / "val" / "bee" / "black.png")
    return root


def _pictures(root: Path, **options) -> data.Pictures:
    folder = data.image_folder(root)
    return data.Pictures(folder, folder.train, PREPARE.cropped, **options)


def test_they_stand_where_an_array_does(tmp_path: Path) -> None:
    found = _pictures(_folder(tmp_path), workers=3)
    folder = data.image_folder(tmp_path)
    images, labels = folder.read(folder.train, PREPARE.cropped).split
    assert (found.shape, found.dtype, found.ndim) == (images.shape, images.dtype, 4)
    assert (len(found), found.nbytes) == (24, images.nbytes)
    np.testing.assert_array_equal(np.asarray(found), images)
    np.testing.assert_array_equal(found[5], images[5])
    np.testing.assert_array_equal(found[-1], images[-1])
    np.testing.assert_array_equal(found[3:9], images[3:9])
    grid = np.random.default_rng(1).integers(0, 24, (4, 5))
    np.testing.assert_array_equal(found[grid], images[grid])
    np.testing.assert_array_equal(found.split().labels, labels)
    with pytest.raises(IndexError):
        found[24]


def test_they_are_a_source_of_other_pipelines(tmp_path: Path) -> None:
    found = _pictures(_folder(tmp_path))
    pipeline = grain.MapDataset.source(found).shuffle(seed=3).batch(4)
    batch = next(iter(pipeline))
    assert batch.shape == (4, 6, 6, 3)


def test_a_bad_picture_is_an_error_or_has_its_place_taken(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    whole = _pictures(root)[:]
    for name in ("ant/00.png", "ant/11.png", "bee/03.png", "bee/04.png"):
        (root / "train" / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(errors.DataError, match="ant/00.png.*web page"):
        _pictures(root)
    found = _pictures(root, on_bad="skip")
    # The next of the same class, also where that means beginning anew.
    expected = whole.copy()
    expected[[0, 11, 15, 16]] = whole[[1, 1, 17, 17]]
    np.testing.assert_array_equal(found[:], expected)
    assert sorted(found.skipped) == [0, 11, 15, 16]
    assert "bee/03.png" in found.skipped[15]
    for path in (root / "train" / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(errors.DataError, match="none of the pictures of class 'bee'"):
        _pictures(root, on_bad="skip")[:]


def test_other_sizes_are_named(tmp_path: Path) -> None:
    folder = data.image_folder(_folder(tmp_path))
    found = data.Pictures(folder, folder.train, lambda image: image)
    with pytest.raises(errors.DataError, match=r"01.png: was prepared to \[9, 8, 3\]"):
        found[:]
    with pytest.raises(errors.ArgumentError, match="workers is 0"):
        _pictures(tmp_path, workers=0)


def test_a_fingerprint_tells_what_changed(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    before = _pictures(root).fingerprint()
    assert _pictures(root).fingerprint() == before
    folder = data.image_folder(root)
    other = preprocessing.Preprocessing(resize=9, crop=6)
    changed = data.Pictures(folder, folder.train, other.cropped)
    assert changed.fingerprint() != before
    part = data.Listing(folder.train[:-1])
    assert data.Pictures(folder, part, PREPARE.cropped).fingerprint() != before
    # One value of one pixel, in a file of the same size and age.
    path = root / "train" / "bee" / "07.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    age = path.stat()
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(age.st_atime_ns, age.st_mtime_ns))
    assert _pictures(root).fingerprint() != before


def test_a_data_set_of_pictures_has_a_fingerprint(tmp_path: Path) -> None:
    folder = data.image_folder(_folder(tmp_path))
    train, test = (
        data.Pictures(folder, part, PREPARE.cropped)
        for part in (folder.train, folder.validation)
    )
    found = data.Dataset("it", train.split(), test.split(), folder.class_names, "")
    arrays.check_dataset(found)
    other = found._replace(test=train.split())
    assert data.fingerprint(found) != data.fingerprint(other)
