"""IDX files, whole and damaged in every way."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from flaxnets import errors
from flaxnets.data import idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encoded(values: np.ndarray = VALUES, kind: int = 0x08) -> bytes:
    header = bytes([0, 0, kind, values.ndim])
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write(folder: Path, content: bytes, name: str = "file-idx3-ubyte") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_reads_what_was_written(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(idx.read(write(tmp_path, encoded(), name)), VALUES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with bytes"),
        (b"<!doctype html>", "expected an IDX file"),
        (encoded(kind=0x0D), "0000 08"),
        (bytes([0, 0, 8, 200]) + bytes([0, 0, 0, 1] * 200) + b"x", "1 to 4"),
        (encoded()[:10], "ends within its header"),
        (encoded()[:-1], "holds 23 bytes of values, expected 24"),
        (encoded() + b"x", "holds more bytes of values, expected 24"),
        (encoded()[:4] + b"\xff" * 12 + encoded()[16:], "more than its size allows"),
    ],
)
@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_damage_names_the_file(tmp_path, name, content, message) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(errors.DataError, match=f"{name}: .*{message}"):
        idx.read(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match=f"{tmp_path}: cannot be read"):
        idx.read(tmp_path)


def test_cut_off_gzip_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(), "file.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(errors.DataError, match="file.gz: the gzip data are damaged"):
        idx.read(path)


def test_a_folder_of_four_files_is_a_data_set(tmp_path: Path, write_idx) -> None:
    write_idx(tmp_path)
    dataset = idx.load_folder(tmp_path, "mine")
    assert dataset.train.images.shape == (12, 5, 5, 1)
    assert dataset.test.labels.dtype == np.int32
    assert dataset.class_names == ("0", "1", "2")


def test_a_missing_file_is_named(tmp_path: Path, write_idx) -> None:
    write_idx(tmp_path)
    (tmp_path / idx.FILES[2]).unlink()
    assert not idx.is_folder(tmp_path)
    with pytest.raises(errors.DataError, match=f"{idx.FILES[2]} .* is missing"):
        idx.load_folder(tmp_path, "mine")


def test_counts_that_differ_are_named(tmp_path: Path, write_idx) -> None:
    write_idx(tmp_path)
    write(tmp_path, encoded(np.zeros(5, np.uint8)), idx.FILES[1])
    with pytest.raises(errors.DataError, match="12 images and 5 labels"):
        idx.load_folder(tmp_path, "mine")
