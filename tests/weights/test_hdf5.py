"""Keras's HDF5 files in each layout, and what must never be read from one."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from flaxnets import errors, weights

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.arange(4, dtype=np.float32)


def legacy(path: Path, layers: dict[str, dict], top: str = "/") -> None:
    with h5py.File(path, "w") as root:
        group = root.require_group(top)
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            inner = group.create_group(layer)
            # As Keras does; an empty list becomes one of floats.
            inner.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inner[name] = array


@pytest.mark.parametrize("top", ["/", "model_weights"])
@pytest.mark.parametrize(
    ("layer", "kernel", "bias"),
    [
        ("block1_conv1", "block1_conv1_W_1:0", "block1_conv1_b_1:0"),
        ("block1_conv1", "block1_conv1_W", "block1_conv1_b"),
        ("conv1", "conv1/kernel:0", "conv1/bias:0"),
        ("conv1", "sequential/conv1/kernel", "sequential/conv1/bias"),
    ],
)
def test_layers_and_weights_by_name(tmp_path, top, layer, kernel, bias) -> None:
    layers = {"input_1": {}, layer: {kernel: KERNEL, bias: BIAS}, "pool": {}}
    legacy(tmp_path / "w.h5", layers, top)
    arrays = weights.read(tmp_path / "w.h5")
    assert set(arrays) == {f"{layer}/kernel", f"{layer}/bias"}
    np.testing.assert_array_equal(arrays[f"{layer}/kernel"], KERNEL)


def test_statistics_of_keras_1_and_a_model_within_a_model(tmp_path: Path) -> None:
    names = "gamma_1:0", "beta_1:0", "running_mean_1:0", "running_std_1:0"
    old = {f"bn_conv1_{name}": BIAS for name in names}
    inner = {"block1_conv1/kernel:0": KERNEL, "block1_conv2/kernel:0": KERNEL}
    legacy(tmp_path / "w.h5", {"bn_conv1": old, "vgg16": inner})
    assert set(weights.read(tmp_path / "w.h5")) == {
        "bn_conv1/gamma",
        "bn_conv1/beta",
        "bn_conv1/moving_mean",
        "bn_conv1/moving_variance",
        "vgg16/block1_conv1/kernel",
        "vgg16/block1_conv2/kernel",
    }


def test_a_long_list_of_layers_comes_in_pieces(tmp_path: Path) -> None:
    legacy(tmp_path / "w.h5", {name: {f"{name}/bias:0": BIAS} for name in "abc"})
    with h5py.File(tmp_path / "w.h5", "r+") as root:
        del root.attrs["layer_names"]
        root.attrs["layer_names0"] = [b"a", b"b"]
        root.attrs["layer_names1"] = [b"c"]
    assert list(weights.read(tmp_path / "w.h5")) == ["a/bias", "b/bias", "c/bias"]


def keras_3() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["layers/conv2d/vars/0"] = KERNEL
        root["layers/conv2d/vars/1"] = BIAS
        root["layers/inner/layers/dense/vars/0"] = KERNEL
        root.create_dataset("layers/packed/vars/0", data=KERNEL, compression="gzip")
        root["layers/count/vars/0"] = np.int64(7)
        root["head/vars/0"] = BIAS
        root["optimizer/vars/0"] = BIAS
        root.create_group("vars")
    return file.getvalue()


def archived(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        # A layer that would run code where the configuration is followed.
        archive.writestr("config.json", '{"class_name": "Lambda", "module": "os"}')
        archive.writestr("model.weights.h5", content)
    return file.getvalue()


@pytest.mark.parametrize("content", [keras_3(), archived(keras_3())])
def test_variables_of_keras_3(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    arrays = weights.read(tmp_path / "w")
    assert sorted(arrays) == [
        "conv2d/0",
        "conv2d/1",
        "count/0",
        "head/0",
        "inner/layers/dense/0",
        "packed/0",
    ]
    np.testing.assert_array_equal(arrays["conv2d/0"], KERNEL)
    np.testing.assert_array_equal(arrays["packed/0"], KERNEL)
    assert arrays["count/0"].shape == () and arrays["count/0"] == 7


def test_compressed_keras_archive_is_refused(tmp_path: Path) -> None:
    content = archived(keras_3(), zipfile.ZIP_DEFLATED)
    (tmp_path / "w.keras").write_bytes(content)
    with pytest.raises(errors.WeightsError, match="model.weights.h5 is compressed"):
        weights.read(tmp_path / "w.keras")


SECRET = b"the content of a file of this machine"


def long_text(path: Path) -> None:
    """Makes the file's only text of its own length one of 16 MiB."""
    content = path.read_bytes()
    # In the file, such a text is its length, where it is, and which one there.
    where = content.index(b"\x0b\0\0\0", content.index(b"layer_names"))
    path.write_bytes(content[:where] + b"\0\0\0\x01" + content[where + 4 :])


def test_a_text_that_claims_a_length_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    legacy(path, {"conv1": {"conv1/kernel:0": KERNEL}})
    with h5py.File(path, "r+") as root:
        root.attrs["layer_names"] = ["eleven_long"]
    long_text(path)
    with h5py.File(path) as root, pytest.raises(OSError, match="heap object size"):
        root.attrs["layer_names"]
    np.testing.assert_array_equal(weights.read(path)["conv1/kernel"], KERNEL)


def external(root: h5py.File, folder: Path) -> None:
    root.create_dataset(
        "layers/a/vars/0",
        (len(SECRET),),
        "u1",
        external=[(str(folder / "secret"), 0, len(SECRET))],
    )


def virtual(root: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret"), "x", (4,))
    root.create_virtual_dataset("layers/a/vars/0", layout)


def external_link(root: h5py.File, folder: Path) -> None:
    root["layers/a"] = h5py.ExternalLink(str(folder / "other.h5"), "/layers/a")


def soft_link(root: h5py.File, folder: Path) -> None:
    root["layers/a"] = h5py.SoftLink("/layers/b")


def loop(root: h5py.File, folder: Path) -> None:
    root["layers/b/again"] = root["layers"]


def same_array_again(root: h5py.File, folder: Path) -> None:
    root["layers/b/vars/1"] = root["layers/b/vars/0"]


def bomb(root: h5py.File, folder: Path) -> None:
    root.create_dataset("layers/a/vars/0", (2**40,), "f4")


def chunked_bomb(root: h5py.File, folder: Path) -> None:
    array = root.create_dataset("layers/a/vars/0", (2**40,), "f4", compression="gzip")
    array[:10] = 1


def text(root: h5py.File, folder: Path) -> None:
    root["layers/a/vars/0"] = "a text"


def records(root: h5py.File, folder: Path) -> None:
    root["layers/a/vars/0"] = np.zeros(3, [("x", "f4"), ("y", "i4")])


def nothing(root: h5py.File, folder: Path) -> None:
    root["layers/a/vars/0"] = h5py.Empty("f4")


def named_type(root: h5py.File, folder: Path) -> None:
    root["layers/a"] = np.dtype("f4")


FORGED = {
    external: "takes its values from the file '.*secret'",
    virtual: "takes its values from other arrays",
    external_link: r"is a link \(ExternalLink\), which is never followed",
    soft_link: r"is a link \(SoftLink\)",
    loop: "already there under another name",
    same_array_again: "already there under another name",
    bomb: r"declares 4,398,046,511,104 bytes .* but stores 0",
    chunked_bomb: r"declares 4,398,046,511,104 bytes",
    text: "holds values of type object, expected numbers",
    records: "expected numbers",
    nothing: "has no shape",
    named_type: "is neither a group nor an array",
}


@pytest.mark.parametrize("archive", [False, True], ids=["h5", "keras"])
@pytest.mark.parametrize("forge", FORGED, ids=lambda forge: forge.__name__)
def test_forged_files_are_refused(tmp_path: Path, forge, archive: bool) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "other.h5").write_bytes(keras_3())
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as root:
        root["layers/b/vars/0"] = BIAS
        forge(root, tmp_path)
    if archive:
        path.write_bytes(archived(path.read_bytes()))
    message = f"w.h5: 'layers/.*{FORGED[forge]}"
    with pytest.raises(errors.WeightsError, match=message) as raised:
        weights.read(path)
    assert SECRET.decode() not in str(raised.value)


def test_h5py_alone_would_read_the_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(tmp_path / "w.h5", "w") as root:
        external(root, tmp_path)
    with h5py.File(tmp_path / "w.h5") as root:
        array = root["layers/a/vars/0"]
        assert isinstance(array, h5py.Dataset)
        assert array[()].tobytes() == SECRET


def test_what_is_no_file_of_keras_is_said(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"

    def refused(message: str) -> None:
        with pytest.raises(errors.WeightsError, match=f"w.h5: .*{message}"):
            weights.read(path)

    twice = {"conv1/kernel:0": KERNEL, "conv1_W_1:0": KERNEL}
    legacy(path, {"conv1": twice})
    refused("two arrays that are 'conv1/kernel'")
    with h5py.File(path, "w") as root:
        root["images"] = KERNEL
    refused("without layer_names and without vars groups, holding images")
    path.write_bytes(keras_3()[:-100])
    refused("cannot be read .*truncated file")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 100)
    refused("cannot be read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": (2**21,), "maxshape": (None,)}, "in chunks of 8,388,608 bytes"),
    ],
)
def test_chunks_far_larger_than_the_array(tmp_path: Path, options, message) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", data=np.ones(4, np.float32), **options)
    with pytest.raises(errors.WeightsError, match=message):
        weights.read(path)
