"""Arrays read some rows at a time are those read whole, in every format."""

import io
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flaxnets import errors
from flaxnets.weights import files, tensors

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "wide": GENERATOR.normal(size=(3, 1000)).astype(np.float32),
    "high": GENERATOR.normal(size=(501, 2, 3)).astype(np.float16),
    "short": GENERATOR.normal(size=7).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.array(3.0, np.float32),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(tensors, "_BLOCK", 1000)


def check(path: Path, least: int) -> None:
    """Compares blocks with whole arrays; of the longest there must be some."""
    with files.opened(path) as found:
        most = 0
        for tensor in found.values():
            blocks = list(tensor.blocks())
            whole = tensor.read()
            assert whole.shape == tensor.shape and whole.dtype == tensor.dtype
            if tensor.shape:
                assert sum(map(len, blocks)) == tensor.shape[0]
            most = max(most, len(blocks))
            joined = np.concatenate(blocks) if tensor.shape and blocks else whole
            np.testing.assert_array_equal(joined, whole)
        assert most >= least
        # By turns, none disturbs the other.
        pairs = [t for t in found.values() if t.shape and t.shape[0]][:2]
        whole = [tensor.read() for tensor in pairs]
        blocks = [tensor.blocks() for tensor in pairs]
        parts = [[next(blocks[0])], [next(blocks[1])]]
        for index in (0, 1):
            parts[index] += blocks[index]
            np.testing.assert_array_equal(np.concatenate(parts[index]), whole[index])


def test_safetensors(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "w")
    check(tmp_path / "w", 6)


@pytest.mark.parametrize("packed", [False, True])
def test_npz(packed: bool, tmp_path: Path) -> None:
    kept = {name: array for name, array in ARRAYS.items() if name != "short"}
    kept["fortran"] = np.asfortranarray(ARRAYS["wide"])
    save = np.savez_compressed if packed else np.savez
    save(tmp_path / "w.npz", **kept)
    check(tmp_path / "w.npz", 6)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
def test_hdf5(options: dict, archive: bool, tmp_path: Path) -> None:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for index, name in enumerate(("wide", "high")):
            group = file.create_group(f"layers/dense_{index}/vars")
            group.create_dataset("0", data=ARRAYS[name], **options)
    path = tmp_path / "w.h5"
    path.write_bytes(content.getvalue())
    if archive:
        path = tmp_path / "w.keras"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("config.json", "{}")
            file.writestr("model.weights.h5", content.getvalue())
    check(path, 6)


@pytest.mark.parametrize("name", ["lenet_mnist_legacy.pth", "lenet_mnist_zip.pth"])
def test_state_dicts(name: str, real_data: Path) -> None:
    check(real_data / name, 30)


def test_a_damaged_array_is_said_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, wide=ARRAYS["wide"])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    with (
        files.opened(path) as found,
        pytest.raises(errors.WeightsError, match=f"{path}: wide cannot be read"),
    ):
        list(found["wide"].blocks())


def test_an_archives_damaged_entry_is_seen_at_once(tmp_path: Path) -> None:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_group("layers/dense/vars")["0"] = ARRAYS["wide"]
    path = tmp_path / "w.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", content.getvalue())
    changed = bytearray(path.read_bytes())
    at = changed.index(ARRAYS["wide"].tobytes()[:64])
    changed[at] ^= 1
    path.write_bytes(changed)
    with (
        pytest.raises(errors.WeightsError, match="CRC"),
        files.opened(path),
    ):
        pass


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.zeros(3, complex), np.zeros(3, "datetime64[s]")]
)
def test_npz_of_anything_but_numbers_is_refused(array, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=array)
    with (
        pytest.raises(errors.WeightsError, match="a holds values of type .*real numb"),
        files.opened(tmp_path / "w.npz"),
    ):
        pass


def test_only_shared_storages_are_kept(real_data: Path) -> None:
    """What tied weights share is read once; everything else is let go."""
    with files.opened(real_data / "lenet_mnist_zip.pth") as found:
        for tensor in found.values():
            assert tensor.read() is not tensor.read()
            assert not np.shares_memory(tensor.read(), tensor.read())
