"""PyTorch's two formats, built here without PyTorch, whole and forged."""

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flaxnets import errors, weights

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Global:
    """A name that the pickle asks for, called with arguments where there are any."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    def __init__(self, function: Any, arguments: tuple, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state


class Storage:
    def __init__(self, kind: str, key: str, values: np.ndarray, **changes: Any) -> None:
        self.kind, self.key, self.values = kind, key, values
        self.count = changes.get("count", values.size)
        self.view = changes.get("view")


# The one in Python: what it writes for an object can be changed.
Pickler: Any = pickle._Pickler  # type: ignore[attr-defined]


class Writer(Pickler):
    """Writes what PyTorch writes, for objects that stand for its own."""

    legacy = False

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = Global("torch", obj.kind)
        identifier = ("storage", kind, obj.key, "cpu", obj.count)
        return (*identifier, obj.view) if self.legacy else identifier

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def pickled(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, 2)
    writer.legacy = legacy
    writer.dump(content)
    return file.getvalue()


ORDERED = Global("collections", "OrderedDict")


def tensor(storage: Any, shape: Any, strides: Any, offset: Any = 0, *more: Any) -> Call:
    arguments = (storage, offset, shape, strides, False, Call(ORDERED, ()), *more)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def zip_file(content: Any, storages: tuple | list = (), **members: bytes) -> bytes:
    file = io.BytesIO()
    description = content if isinstance(content, bytes) else pickled(content)
    every = {"data.pkl": description, "version": b"3\n", "byteorder": b"little"}
    every |= {f"data/{s.key}": s.values.tobytes() for s in storages}
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in (every | members).items():
            archive.writestr(f"archive/{name}", member)
    return file.getvalue()


def legacy_file(content: Any, storages: list[Storage]) -> bytes:
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [pickle.dumps(part, 2) for part in header]
    description = content if isinstance(content, bytes) else pickled(content, True)
    parts += [description, pickle.dumps([s.key for s in storages], 2)]
    for storage in storages:
        parts += [struct.pack("<q", storage.values.size), storage.values.tobytes()]
    return b"".join(parts)


def written(folder: Path, form: str, content: Any, storages: list[Storage]) -> Path:
    path = folder / "lenet.pth"
    make = zip_file if form == "zip" else legacy_file
    path.write_bytes(make(content, storages))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(errors.WeightsError, match=f"{path.name}: .*{message}"):
        weights.read(path)


FORMS = pytest.mark.parametrize("form", ["zip", "legacy"])


def floats(count: int = 6, key: str = "0", **changes: Any) -> Storage:
    return Storage("FloatStorage", key, np.arange(count, dtype=np.float32), **changes)


@FORMS
@pytest.mark.parametrize(("kind", "dtype"), STORAGES.items())
def test_values_of_every_type(tmp_path: Path, form: str, kind: str, dtype) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    storage = Storage(kind, "7", values)
    path = written(tmp_path, form, {"a": tensor(storage, (2, 3), (3, 1))}, [storage])
    array = weights.read(path)["a"]
    assert array.dtype == values.dtype and not array.flags.writeable
    np.testing.assert_array_equal(array, values)


@FORMS
def test_strides_offsets_scalars_and_shared_memory(tmp_path: Path, form: str) -> None:
    one, two = floats(), Storage("LongStorage", "1", np.array([5]))
    data = tensor(one, (2,), (1,), 4)
    content = {
        "transposed": tensor(one, (3, 2), (1, 3)),
        "tied": tensor(one, (2, 3), (3, 1)),
        "parameter": Call(
            Global("torch._utils", "_rebuild_parameter"),
            (data, True, Call(ORDERED, ())),
        ),
        "count": tensor(two, (), ()),
        "none": tensor(two, (0, 3), (3, 1), 1),
    }
    path = written(tmp_path, form, content, [one, two])
    arrays = weights.read(path)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(arrays["transposed"], values.T)
    np.testing.assert_array_equal(arrays["parameter"], [4, 5])
    assert np.shares_memory(arrays["tied"], arrays["transposed"])
    assert arrays["count"].shape == () and arrays["count"] == 5
    assert arrays["none"].shape == (0, 3)


@FORMS
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_checkpoints_and_names_of_parallel_training(tmp_path, form, nested) -> None:
    storage = floats()
    content: Any = Call(
        ORDERED,
        ([["module.conv.weight", tensor(storage, (6,), (1,))]],),
        {"_metadata": {"": {"version": 1}}},
    )
    if nested:
        content = {"epoch": 3, nested: content, "best": 0.5}
    path = written(tmp_path, form, content, [storage])
    assert list(weights.read(path)) == ["conv.weight"]


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    storage = floats()
    value = tensor(storage, (6,), (1,))
    path = written(tmp_path, "zip", {"module.a": value, "b": value}, [storage])
    assert list(weights.read(path)) == ["module.a", "b"]


def test_big_endian_values(tmp_path: Path) -> None:
    big = Storage("FloatStorage", "0", np.arange(3, dtype=">f4"))
    content = {"a": tensor(big, (3,), (1,))}
    path = tmp_path / "w.pth"
    path.write_bytes(zip_file(content, [big], byteorder=b"big"))
    np.testing.assert_array_equal(weights.read(path)["a"], [0, 1, 2])
    path.write_bytes(zip_file(content, [big], byteorder=b"middle"))
    refused(path, "byte order is 'middle'")


def test_a_part_of_a_storage_as_before_pytorch_0_4(tmp_path: Path) -> None:
    storage = floats(view=("9", 2, 3))
    content = {"a": tensor(storage, (2,), (1,), 1)}
    path = written(tmp_path, "legacy", content, [storage])
    np.testing.assert_array_equal(weights.read(path)["a"], [3, 4])
    storage.view = ("9", 4, 3)
    refused(written(tmp_path, "legacy", content, [storage]), "part of storage 0 is not")


def test_real_files(real_data: Path) -> None:
    legacy = weights.read(real_data / "lenet_mnist_legacy.pth")
    assert legacy["fc1.weight"].shape == (500, 800)
    assert sum(array.size for array in legacy.values()) == 431_080
    arrays = weights.read(real_data / "lenet_mnist_zip.pth")
    assert sum(array.size for array in arrays.values()) == 21_840
    assert all(np.isfinite(array).all() for array in arrays.values())


@FORMS
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("os", "system", ("touch {ran}",)),
        ("posix", "system", ("touch {ran}",)),
        ("builtins", "eval", ("open({ran!r}, 'w')",)),
        ("builtins", "getattr", (1, "real")),
        ("torch.nn.modules.linear", "Linear", ()),
        ("torch.storage", "_load_from_bytes", (b"",)),
        ("numpy.core.multiarray", "_reconstruct", ()),
        ("__main__", "Net", ()),
    ],
)
def test_a_foreign_name_is_refused_and_not_run(
    tmp_path: Path, form: str, module: str, name: str, arguments: tuple
) -> None:
    ran = str(tmp_path / "ran")
    filled = tuple(a.format(ran=ran) if type(a) is str else a for a in arguments)
    storage = floats()
    content = {
        "a": tensor(storage, (6,), (1,)),
        "b": Call(Global(module, name), filled),
    }
    path = written(tmp_path, form, content, [storage])
    refused(path, f"asks for {module}.{name},.*nothing was run")
    assert not os.path.exists(ran)


@FORMS
def test_the_canary_would_sing(tmp_path: Path, form: str) -> None:
    ran = tmp_path / "ran"
    content = Call(Global("os", "system"), (f"touch {ran}",))
    refused(written(tmp_path, form, content, []), "asks for os.system")
    assert not ran.exists()
    pickle.loads(pickled(content))
    assert ran.exists()


PROGRAMS = {
    "a newer operation for a global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an old operation that calls": b"(S'true'\nios\nsystem\n.",
    "an object made at once": b"(cos\nsystem\nS'true'\no.",
    "a class without its constructor": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a registered extension": b"\x80\x02\x82\x01.",
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02}q\x00",
    "unknown bytes": b"\x80\x02\xff\xfe.",
}


@FORMS
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_that_no_state_dict_is(tmp_path, form, program: bytes) -> None:
    refused(
        written(tmp_path, form, program, []),
        "no state dict|has no end|asks for",
    )


def test_stand_ins_cannot_be_changed(tmp_path: Path) -> None:
    storage = floats()
    shape = tensor(storage, (6,), (1,))
    path = written(tmp_path, "zip", {"a": shape}, [storage])
    for target in (
        Global("torch._utils", "_rebuild_tensor_v2"),
        Global("torch", "FloatStorage"),
        ORDERED,
        shape,
    ):
        for state in ({"shape": (10**12,)}, (None, {"shape": (10**12,), "call": None})):
            forged = pickled(target)[:-1] + pickled(state)[2:-1] + b"b."
            refused(written(tmp_path, "zip", forged, [storage]), "no state dict")
    path = written(tmp_path, "zip", {"a": shape}, [storage])
    assert weights.read(path)["a"].shape == (6,)


@FORMS
@pytest.mark.parametrize(
    ("shape", "strides", "offset", "message"),
    [
        ((7,), (1,), 0, r"a declares 7 values \[7\] up to position 6"),
        ((6,), (1,), 1, "up to position 6 of a storage of 6"),
        ((2, 3), (4, 1), 0, "up to position 6 of a storage of 6"),
        ((10**12,), (1,), 0, "declares 1,000,000,000,000 values"),
        ((10**12,), (0,), 0, "declares 1,000,000,000,000 values"),
        ((2**40, 2**40), (0, 0), 0, "declares 1,208,925,819"),
        ((2,), (2**62,), 0, "up to position 4,611,686,018,427,387,904"),
        ((2,), (-1,), 3, "is not described by"),
        ((-2, -3), (3, 1), 0, "is not described by"),
        ((6,), (1,), -1, "is not described by"),
        ((6,), (1, 1), 0, "is not described by"),
        ((1,) * 65, (1,) * 65, 0, "is not described by"),
        ((2**70,), (0,), 0, "is not described by"),
        ((2.0,), (1,), 0, "is not described by"),
        ([6], [1], 0, "is not described by"),
    ],
)
def test_tensors_stay_within_their_storage(
    tmp_path: Path, form: str, shape, strides, offset, message: str
) -> None:
    storage = floats()
    content = {"a": tensor(storage, shape, strides, offset)}
    refused(written(tmp_path, form, content, [storage]), message)


@FORMS
def test_what_is_no_state_dict_is_said(tmp_path: Path, form: str) -> None:
    storage = floats()
    value = tensor(storage, (6,), (1,))
    for content, message in (
        ([value], "holds a list, expected a state dict"),
        ({"a": value, "epoch": 3}, "holds 'epoch' of type int"),
        ({3: value}, "holds 3 of type _Tensor, expected tensors by name"),
        ({"a": tensor("no storage", (6,), (1,)), "b": value}, "is not described by"),
        ({"a": tensor(storage, (6,), (1,), 0, {"neg": True})}, "has metadata"),
    ):
        refused(written(tmp_path, form, content, [storage]), message)
    refused(written(tmp_path, form, {}, []), "holds no arrays")


@FORMS
def test_storages_that_are_described_wrongly(tmp_path: Path, form: str) -> None:
    storage = floats()
    again = Storage("DoubleStorage", "0", np.arange(6.0))
    content = {"a": tensor(storage, (6,), (1,)), "b": tensor(again, (6,), (1,))}
    refused(written(tmp_path, form, content, [storage]), "described in two ways")
    for change in (-1, 6.0, True, None):
        storage.count = change
        content = {"a": tensor(storage, (6,), (1,))}
        refused(written(tmp_path, form, content, [storage]), "described wrongly")
    storage.count = 10**12
    content = {"a": tensor(storage, (10**12,), (1,))}
    refused(
        written(tmp_path, form, content, [storage]),
        "holds 24 bytes, expected 4,000,000,000,000|expected 1,000,000,000,000 values",
    )


def test_archives_that_lack_or_pack_something(tmp_path: Path) -> None:
    storage = floats()
    content = {"a": tensor(storage, (6,), (1,))}
    path = tmp_path / "w.pth"
    path.write_bytes(zip_file(content))
    refused(path, "archive/data/0 is missing")
    storage.key = "../../secret"
    path.write_bytes(zip_file(content))
    refused(path, r"archive/data/../../secret is missing")
    path.write_bytes(zip_file(b"." * (4 * 2**20 + 1)))
    refused(path, "data.pkl has 4,194,305 bytes, expected at most 4,194,304")
    path.write_bytes(zip_file({}, (), **{"inner/data.pkl": b""}))
    refused(path, "holds 2 pickles, expected one")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({}))
    refused(path, "archive/data.pkl is compressed")


def test_a_changed_byte_in_an_archive(tmp_path: Path) -> None:
    storage = floats(1000)
    path = written(tmp_path, "zip", {"a": tensor(storage, (1000,), (1,))}, [storage])
    content = bytearray(path.read_bytes())
    content[content.index(storage.values.tobytes()) + 99] ^= 1
    path.write_bytes(content)
    refused(path, "CRC")


def test_a_legacy_file_that_is_cut_off_or_too_long(tmp_path: Path) -> None:
    storage = floats()
    content = {"a": tensor(storage, (6,), (1,))}
    path = written(tmp_path, "legacy", content, [storage])
    whole = path.read_bytes()
    for end in (15, 20, 60, 130, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "cut off")
    path.write_bytes(whole + b"x")
    refused(path, "holds 1 bytes after its last tensor")
    path.write_bytes(whole.replace(b"M\xe9\x03", b"M\xea\x03"))
    refused(path, "its protocol is 1002, expected 1001")
    path.write_bytes(legacy_file(pickled(content, True), []))
    refused(path, "storages that it lists are not those")


def test_the_builder_writes_what_pickle_reads() -> None:
    content = Call(ORDERED, ([["a", 1]],))
    assert pickle.loads(pickled(content)) == collections.OrderedDict(a=1)
