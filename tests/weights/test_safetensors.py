"""safetensors files, whole and bad in every way; built here byte by byte."""

import json
import pickle
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from flaxnets import errors, weights

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def entry(begin: int, end: int, shape: list, kind: str = "F32") -> dict:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def encoded(header: dict | str | bytes, content: bytes) -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + content


VALUES = np.arange(6, dtype=np.float32)
TWO = {"kernel": entry(0, 16, [2, 2]), "bias": entry(16, 24, [2])}
WHOLE = encoded(TWO, VALUES.tobytes())


def one(**changes) -> bytes:
    return encoded({"kernel": {**entry(0, 24, [6]), **changes}}, VALUES.tobytes())


@pytest.mark.parametrize(("kind", "dtype"), TYPES.items())
def test_values_of_every_type(tmp_path: Path, kind: str, dtype) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    header = {"a": entry(0, values.nbytes, [2, 3], kind)}
    (tmp_path / "w").write_bytes(encoded(header, values.tobytes()))
    array = weights.read(tmp_path / "w")["a"]
    assert array.dtype == values.dtype and not array.flags.writeable
    np.testing.assert_array_equal(array, values)


def test_arrays_by_name_and_no_metadata(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, **TWO}
    (tmp_path / "w").write_bytes(encoded(header, VALUES.tobytes()))
    arrays = weights.read(tmp_path / "w")
    assert {name: array.shape for name, array in arrays.items()} == {
        "kernel": (2, 2),
        "bias": (2,),
    }
    np.testing.assert_array_equal(arrays["bias"], VALUES[4:])


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


BAD = {
    "truncated": (WHOLE[:-4], "not a whole safetensors file"),
    "cut off in its header": (WHOLE[:30], "not a whole safetensors file"),
    "tail": (WHOLE + b"x", "not a whole safetensors file"),
    "empty": (b"", "is empty"),
    "huge header": (b"\xff" * 8 + WHOLE[8:], "not a whole safetensors file"),
    "bad json": (encoded("{'kernel'", b""), "not a whole safetensors file"),
    "names twice": (
        encoded(json.dumps(TWO)[:-1] + ", " + json.dumps(TWO)[1:], VALUES.tobytes()),
        "its header gives a name twice",
    ),
    "overlap": (
        encoded({**TWO, "bias": entry(12, 20, [2])}, VALUES.tobytes()[:20]),
        "not a whole safetensors file",
    ),
    "hole": (
        encoded({"kernel": entry(0, 16, [4]), "b": entry(20, 24, [1])}, bytes(24)),
        "not a whole safetensors file",
    ),
    "shape lies": (one(shape=[7]), "not a whole safetensors file"),
    "offsets lie": (one(data_offsets=[0, 400]), "not a whole safetensors file"),
    "shape bomb": (one(shape=[10**12]), "not a whole safetensors file"),
    "overflow": (one(shape=[2**40, 2**40]), "not a whole safetensors file"),
    "type": (one(dtype="F33"), "not a whole safetensors file"),
    "odd type": (
        encoded({"a": entry(0, 6, [6], "F8_E5M2")}, bytes(6)),
        "type F8_E5M2, expected one of F64",
    ),
    "non-utf8": (encoded(b'{"\xff\xfe": 1}', b""), "not a whole safetensors file"),
    "page": (b"<!DOCTYPE html><title>404</title>", "is a web page"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 553433881\n",
        "is a pointer of Git LFS.*git lfs pull",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vgg16.safetensors"
    path.write_bytes(content)
    with pytest.raises(errors.WeightsError, match=f"vgg16.safetensors: .*{message}"):
        weights.read(path)


def test_a_pickle_under_this_name_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.safetensors"
    path.write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    with pytest.raises(errors.WeightsError, match="vgg16.*is a bare pickle"):
        weights.read(path)
    assert not (tmp_path / "ran").exists()
    # The same bytes do harm where they are trusted.
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


def test_a_changed_bit_in_the_values_is_for_checksums(tmp_path: Path) -> None:
    content = bytearray(WHOLE)
    content[-1] ^= 1
    (tmp_path / "w").write_bytes(content)
    assert weights.read(tmp_path / "w")["bias"][1] != VALUES[5]
