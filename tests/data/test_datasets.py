"""Data sets by name and path, and what is refused."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flaxnets import data, errors
from flaxnets.data import official


def arrays_of_npz(count: int = 8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 6, 6)).astype(np.uint8)
    labels = np.arange(count) % 4
    return {
        "x_train": images,
        "y_train": labels,
        "x_test": images[:3],
        "y_test": labels[:3].astype(np.uint8),
    }


def write_npz(path: Path, **changes) -> Path:
    np.savez(path, **{**arrays_of_npz(), **changes})
    return path


def test_npz_holds_the_arrays_that_were_saved(tmp_path: Path) -> None:
    dataset = data.load(str(write_npz(tmp_path / "mine.npz")))
    np.testing.assert_array_equal(
        dataset.train.images[..., 0], arrays_of_npz()["x_train"]
    )
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int32
    assert (dataset.name, dataset.class_names) == ("mine", ("0", "1", "2", "3"))


LABELS = arrays_of_npz()["y_train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.where(LABELS == 2, -1, LABELS)}, "example 2 is -1"),
        ({"y_test": np.array([0, 4, 1])}, r"\(test\): label of example 1 is 4.*0 to 3"),
        ({"y_train": LABELS / 1.0}, "labels are float64"),
        ({"y_train": LABELS[:5]}, "8 images and 5 labels"),
        ({"x_train": arrays_of_npz()["x_train"] / 255.0}, "images are float64"),
        ({"x_test": np.zeros((0, 6, 6), np.uint8)}, "0 images"),
        ({"x_train": np.zeros((8, 36), np.uint8)}, r"uint8\[8, 36\]"),
        ({"y_train": LABELS * 0, "y_test": np.zeros(3, int)}, "2 classes or more"),
        ({"x_test": np.zeros((3, 8, 6), np.uint8)}, r"\[6, 6, 1\].*\[8, 6, 1\]"),
        ({"x_test": np.zeros((3, 6, 6, 3), np.uint8)}, r"\[6, 6, 1\].*\[6, 6, 3\]"),
        ({"y_train": LABELS + 2 * 10**9}, "a label is 2000000003.*8 examples"),
    ],
)
def test_unusable_arrays_are_named(tmp_path, changes, message) -> None:
    path = write_npz(tmp_path / "mine.npz", **changes)
    with pytest.raises(errors.DataError, match=f"mine.npz.*{message}"):
        data.load(str(path))


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    forged = np.array([Canary()] * 8, dtype=object)
    path = write_npz(tmp_path / "mine.npz", y_train=forged)
    with pytest.raises(errors.DataError, match="y_train holds Python objects"):
        data.load(str(path))
    assert not (tmp_path / "executed").exists()


def test_more_declared_than_stored_is_refused_before_memory_is_taken(tmp_path) -> None:
    path = tmp_path / "mine.npz"
    header = io.BytesIO()
    shape = (10**6, 1000, 1000)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", header.getvalue() + b"few")
    with pytest.raises(errors.DataError, match="declares 1,000,000,000,000 bytes"):
        data.load(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>not found</html>", "not a readable .npz"), (b"", "not a readable .npz")],
)
def test_what_is_no_npz_is_said(tmp_path, content, message) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        data.load(str(tmp_path / "x.npz"))


def test_flipped_bytes_are_reported_as_nothing_but_data_errors(tmp_path: Path) -> None:
    """Any byte changed at random: read, or refused in one line that names the file."""
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    # Long enough that headers are parsed before the check sum of the whole is known.
    np.savez_compressed(path, **arrays_of_npz(count=300))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    headers = rng.integers(0, 160, 200)
    refused = 0
    for place in [*headers, *rng.integers(0, len(whole), 400)]:
        content = whole.copy()
        content[place] ^= rng.integers(1, 256, dtype=np.uint8)
        path.write_bytes(content.tobytes())
        try:
            data.load(str(path))
        except errors.DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 400


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mine.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"y_train.npy") + 150] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match="mine.npz: y_train cannot be read.*CRC"):
        data.load(str(path))


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(errors.DataError, match="x_train is missing; found images"):
        data.load(str(tmp_path / "x.npz"))


def test_digits_are_scikit_learns_whole_and_split_by_class() -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    expected = load_digits(return_X_y=True)[1]
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(expected))
    shares = np.bincount(digits.test.labels) / np.bincount(labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    assert digits.train.images.shape[1:] == (28, 28, 1)
    border = digits.train.images.copy()
    border[:, 4:24, 4:24] = 0
    assert not border.any()


def test_mnist_is_found_and_is_the_official_one(real_data: Path) -> None:
    mnist = data.load("mnist")
    sums = [hashlib.md5(split.images.tobytes()).hexdigest() for split in mnist[1:3]]
    # The decompressed official IDX files hash to these behind their 16-byte headers.
    assert [split.images.shape for split in mnist[1:3]] == [
        (60000, 28, 28, 1),
        (10000, 28, 28, 1),
    ]
    headers = [
        bytes.fromhex("00000803") + np.array(shape, ">u4").tobytes()
        for shape in ((60000, 28, 28), (10000, 28, 28))
    ]
    whole = [
        hashlib.md5(header + split.images.tobytes()).hexdigest()
        for header, split in zip(headers, mnist[1:3], strict=True)
    ]
    official_sums = [
        "6bbc9ace898e44ae57da46a324031adb",
        "2646ac647ad5339dbf082846283269ea",
    ]
    assert official_sums in (sums, whole)


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path: Path) -> Path:
    """No data folder, an empty cache, and a server that is not there."""
    monkeypatch.delenv("FLAXNETS_DATA", raising=False)
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path / "cache"))
    source = official.SOURCES["mnist"]
    monkeypatch.setitem(
        official.SOURCES, "mnist", source._replace(base="http://127.0.0.1:9/")
    )
    monkeypatch.setattr("flaxnets.data.download.time.sleep", lambda seconds: None)
    return tmp_path


def test_offline_names_file_url_and_place(nothing_at_hand: Path) -> None:
    with pytest.raises(
        errors.DownloadError,
        match=r"http://127.0.0.1:9/train-images-idx3-ubyte.gz.*by hand at "
        rf"{nothing_at_hand}/cache/mnist/train-images-idx3-ubyte.gz",
    ):
        data.load("mnist")


def test_auto_falls_back_to_digits_and_says_so(nothing_at_hand: Path) -> None:
    dataset = data.load("auto")
    assert dataset.name == "digits"
    assert "MNIST is not at hand" in dataset.source and "\n" not in dataset.source


def test_auto_takes_mnist_from_the_data_folder(nothing_at_hand, monkeypatch) -> None:
    write_npz(nothing_at_hand / "mnist.npz")
    monkeypatch.setenv("FLAXNETS_DATA", str(nothing_at_hand))
    dataset = data.load("auto")
    assert dataset.name == "mnist"
    assert str(nothing_at_hand) in dataset.source


FASHION = official.SOURCES["fashion_mnist"].class_names


def test_the_data_folders_own_files_are_mnist_and_nothing_else(
    nothing_at_hand, monkeypatch, write_idx
) -> None:
    folder = write_idx(nothing_at_hand / "files", count=12)
    monkeypatch.setenv("FLAXNETS_DATA", str(folder))
    source = official.SOURCES["fashion_mnist"]._replace(base="http://127.0.0.1:9/")
    monkeypatch.setitem(official.SOURCES, "fashion_mnist", source)
    assert data.load("mnist").class_names == tuple("0123456789")
    with pytest.raises(errors.DownloadError, match="could not be fetched"):
        data.load("fashion_mnist")
    write_idx(folder / "fashion_mnist", count=15)
    fashion = data.load("fashion_mnist")
    assert len(fashion.train.labels) == 15 and fashion.class_names == FASHION
    write_npz(folder / "fashion_mnist.npz")
    fashion = data.load("fashion_mnist")
    assert len(fashion.train.labels) == 8 and fashion.class_names == FASHION


def test_labels_beyond_the_published_classes_are_refused(
    nothing_at_hand, monkeypatch
) -> None:
    write_npz(nothing_at_hand / "mnist.npz", y_train=np.arange(8) + 3)
    monkeypatch.setenv("FLAXNETS_DATA", str(nothing_at_hand))
    with pytest.raises(errors.DataError, match="example 7 is 10, expected 0 to 9"):
        data.load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "auto"])
def test_a_data_folder_that_is_not_there_is_named(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setenv("FLAXNETS_DATA", str(tmp_path / "absent"))
    with pytest.raises(errors.DataError, match=f"FLAXNETS_DATA is {tmp_path}/absent"):
        data.load(name)


def test_a_folder_is_named_as_it_is_called_wherever_one_stands(
    tmp_path, monkeypatch, write_idx
) -> None:
    monkeypatch.chdir(write_idx(tmp_path / "shapes"))
    assert data.load(".").name == "shapes"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(errors.ArgumentError, match="did you mean fashion_mnist"):
        data.load("fashion-mnist")
