"""Files of weights against those who write them: PyTorch and Keras."""

from pathlib import Path

import numpy as np
import pytest

from flaxnets import errors, weights

# Keras's variables do not know numpy 2's `copy`; nothing of this library's.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@FORMS
def test_state_dicts_of_pytorch(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    shared = torch.randn(4, 6)
    modules = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2)
    )
    kinds = "float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    tensors = {
        **modules.state_dict(),
        "transposed": shared.T,
        "part": shared[1:3, ::2],
        "tied": shared,
        "parameter": torch.nn.Parameter(torch.randn(3, 2).T),
        "empty": torch.zeros(0, 3),
        **{kind: torch.randn(5, 3).to(getattr(torch, kind)) for kind in kinds},
    }
    for content in (tensors, {"state_dict": tensors, "epoch": 3}):
        path = tmp_path / "w.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        arrays = weights.read(path)
        assert list(arrays) == list(tensors)
        for name, tensor in tensors.items():
            array = arrays[name]
            assert array.dtype.name == str(tensor.dtype).removeprefix("torch.")
            assert array.shape == tuple(tensor.shape)
            flat = tensor.detach().contiguous().flatten().view(torch.uint8)
            assert array.tobytes() == flat.numpy().tobytes(), name
        assert np.shares_memory(arrays["tied"], arrays["part"])


@FORMS
def test_whole_modules_of_pytorch_are_refused(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(errors.WeightsError, match="nn.modules.linear"):
        weights.read(path)


@pytest.mark.parametrize("name", ["lenet_mnist_legacy.pth", "lenet_mnist_zip.pth"])
def test_files_of_other_people(real_data: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    arrays = weights.read(real_data / name)
    expected = torch.load(real_data / name, weights_only=True, map_location="cpu")
    assert list(arrays) == list(expected)
    for key, tensor in expected.items():
        assert arrays[key].dtype == tensor.numpy().dtype
        assert arrays[key].shape == tuple(tensor.shape)
        assert arrays[key].tobytes() == tensor.numpy().tobytes()


def test_safetensors_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.randn(5, 3).to(torch.bfloat16)
    save_file({"a": tensor}, tmp_path / "w", metadata={"format": "pt"})
    array = weights.read(tmp_path / "w")["a"]
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


@pytest.fixture
def keras_model():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="last")], name="inner"
    )
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, name="block1_conv1"),
            layers.BatchNormalization(name="bn"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="fc"),
            inner,
        ]
    )


def assert_holds(arrays: dict, layer, names: list[str]) -> None:
    values = layer.get_weights()
    assert len(values) == len(names)
    for name, value in zip(names, values, strict=True):
        np.testing.assert_array_equal(arrays[name], value)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras"])
def test_keras_3_formats(tmp_path: Path, keras_model, name: str) -> None:
    keras_model.compile("adam", "mse")
    path = str(tmp_path / name)
    keras_model.save(path) if name == "w.keras" else keras_model.save_weights(path)
    arrays = weights.read(path)
    conv, bn, _, fc, inner = keras_model.layers
    assert_holds(arrays, conv, ["conv2d/0", "conv2d/1"])
    assert_holds(arrays, bn, [f"batch_normalization/{i}" for i in range(4)])
    assert_holds(arrays, fc, ["dense/0", "dense/1"])
    assert_holds(arrays, inner, [f"sequential/layers/dense/{i}" for i in range(2)])
    assert len(arrays) == 10


def test_keras_legacy_format(tmp_path: Path, keras_model) -> None:
    keras_model.compile("adam", "mse")
    keras_model.save(str(tmp_path / "w.h5"))
    arrays = weights.read(tmp_path / "w.h5")
    conv, bn, _, fc, inner = keras_model.layers
    statistics = "gamma", "beta", "moving_mean", "moving_variance"
    assert_holds(arrays, conv, ["block1_conv1/kernel", "block1_conv1/bias"])
    assert_holds(arrays, bn, [f"bn/{name}" for name in statistics])
    assert_holds(arrays, fc, ["fc/kernel", "fc/bias"])
    assert_holds(arrays, inner, ["inner/last/kernel", "inner/last/bias"])
    assert len(arrays) == 10


def test_keras_bfloat16(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, dtype="bfloat16")]
    )
    model.save_weights(str(tmp_path / "w.weights.h5"))
    array = weights.read(tmp_path / "w.weights.h5")["dense/0"]
    np.testing.assert_array_equal(array, model.get_weights()[0])
    assert array.dtype.name == "bfloat16"
