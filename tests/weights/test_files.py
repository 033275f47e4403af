"""Which reader a file gets, and what is said of one that gets none."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flaxnets import errors, weights


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def refused(folder: Path, content: bytes, message: str) -> None:
    path = folder / "some.weights"
    path.write_bytes(content)
    with pytest.raises(errors.WeightsError, match=f"some.weights: .*{message}"):
        weights.read(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_under_any_name(tmp_path: Path, save) -> None:
    file = io.BytesIO()
    save(file, **{"conv1/w": np.eye(3), "conv1/b": np.zeros(3, np.float16)})
    (tmp_path / "x.pth").write_bytes(file.getvalue())
    arrays = weights.read(str(tmp_path / "x.pth"))
    assert list(arrays) == ["conv1/w", "conv1/b"]
    np.testing.assert_array_equal(arrays["conv1/w"], np.eye(3))
    assert arrays["conv1/b"].dtype == np.float16


def test_real_squeezenet(real_data: Path) -> None:
    arrays = weights.read(real_data / "squeezenet_v1_caffe.npz")
    assert sum(array.size for array in arrays.values()) == 1_248_424
    assert arrays["fire2/conv1x1_1/w"].shape[1:] == (96, 1, 1)


def test_npz_with_objects_or_a_shape_bomb(tmp_path: Path) -> None:
    objects = saved(np.array([{"a": 1}], object))
    refused(tmp_path, zipped({"a.npy": objects}), "a holds Python objects")
    bomb = saved(np.zeros(3)).replace(b"(3,)", b"(10**12,)"[:4])
    assert bomb == saved(np.zeros(3)).replace(b"(3,)", b"(10*")
    refused(tmp_path, zipped({"a.npy": bomb}), "a cannot be read")
    bomb = saved(np.zeros(3)).replace(b"(3,), }         ", b"(3000000000,), }")
    refused(tmp_path, zipped({"a.npy": bomb}), "a declares 24,000,000,000 bytes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty.*; expected a file of weights"),
        (b"  \n<HTML><body>Sign in</body>", "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is an XML document"),
        (b'{"error": "Repository not found"}', "is JSON text"),
        (b'{"meta":{"error": "Not found"}}', "is JSON text"),
        (saved(np.zeros(3)), "is a single .npy array"),
        (gzip.compress(b"weights", mtime=0), "is packed with gzip"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0", "is a bare pickle"),
        (b"abc", "ends after 3 bytes"),
        (bytes(100), "begins with bytes 00 00 00 00 00 00 00 00"),
        (zipped({}), "is an empty zip archive"),
        (
            zipped({"photo.jpg": b"x", "b.npy": b""}),
            "a zip archive of photo.jpg, b.npy",
        ),
        (zipped({"a.npy": b"xyz" * 9})[:-30], "no readable directory at its end"),
        (zipped({"a.npy": b"xyz" * 9}), "a cannot be read"),
    ],
)
def test_what_is_no_file_of_weights_is_said(tmp_path, content, message) -> None:
    refused(tmp_path, content, message)


def test_a_tar_archive_is_said(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    refused(tmp_path, file.getvalue(), "is a tar archive")


def test_what_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.WeightsError, match="absent.pth: no such file"):
        weights.read(tmp_path / "absent.pth")
    with pytest.raises(errors.WeightsError, match=f"{tmp_path}: cannot be read"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.npy", "/a.npy", "a/../../b.npy", "..\\a.npy", "C:a.npy"]
)
def test_an_archive_that_leads_out_of_itself(tmp_path: Path, name: str) -> None:
    refused(tmp_path, zipped({name: saved(np.zeros(3))}), "leads out of it")
    assert os.listdir(tmp_path) == ["some.weights"]


def test_a_link_in_an_archive(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a.npy")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    refused(tmp_path, file.getvalue(), "is a link")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", saved(np.zeros(3)))
        archive.writestr("a.npy", saved(np.ones(3)))
    refused(tmp_path, file.getvalue(), "'a.npy' is there twice")


def directory_forged(content: bytes, at: int, value: bytes) -> bytes:
    """A zip with other bytes `at` an offset of its directory's first entry."""
    start = content.index(b"PK\x01\x02") + at
    return content[:start] + value + content[start + len(value) :]


def test_an_archive_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    content = zipped({"a.npy": saved(np.zeros(3))})
    # Offsets in the directory's entry: flags 8, packed size 20, size 24.
    refused(
        tmp_path,
        directory_forged(content, 24, b"\0\0\0\x7f"),
        "declares 2,130,706,432 bytes but stores 152",
    )
    both = directory_forged(content, 20, b"\0\0\0\x7f" * 2)
    refused(tmp_path, both, "claim 2,130,706,432 bytes of a file of")
    refused(tmp_path, directory_forged(content, 8, b"\1"), "is encrypted")


def test_changed_bytes_in_an_archive(tmp_path: Path) -> None:
    content = zipped({"a.npy": saved(np.arange(30.0))})
    where = content.index(np.arange(30.0).tobytes()) + 50
    damaged = content[:where] + b"\xff" + content[where + 1 :]
    refused(tmp_path, damaged, "CRC")
