"""Features in files: the same as computed, found again, and never those of others."""

import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params, transfer
from flaxnets.data import Split, augmentation
from flaxnets.transfer import store

SHAPE = (12, 12, 3)
MODEL = models.WithHead(
    models.CNN(widths=(4, 6), dense=(), num_classes=None), models.Head(2, "mean", ())
)


def _variables(key: int = 0):
    return params.initialize(MODEL, jax.random.key(key), (1, *SHAPE))


def _split(key: int = 0) -> Split:
    generator = np.random.default_rng(key)
    images = generator.integers(0, 256, (10, *SHAPE), np.uint8)
    return Split(images, np.arange(10, dtype=np.int32) % 2)


def _plan() -> transfer.Plan:
    return transfer.Plan(MODEL, SHAPE, "feature_extraction")


def test_a_file_holds_what_was_computed_and_is_used(tmp_path: Path) -> None:
    plan, variables, split = _plan(), _variables(), _split()
    expected = plan.seen(variables, split, batch_size=4)
    found = plan.seen(variables, split, batch_size=4, folder=tmp_path)
    np.testing.assert_array_equal(found.images, expected.images)
    (path,) = tmp_path.glob("*.npy")
    # What is read the second time is the file: its own change shows, with its record.
    changed = np.load(path) + 1
    np.save(path, changed)
    record = json.loads(path.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256(changed.tobytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(record))
    again = _plan().seen(variables, split, batch_size=4, folder=tmp_path)
    np.testing.assert_array_equal(again.images, changed)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize("what", ["weight", "picture", "operations", "augmentation"])
def test_what_changed_is_noticed(what: str, tmp_path: Path) -> None:
    variables, split = _variables(), _split()
    _plan().seen(variables, split, folder=tmp_path)
    plan, options = _plan(), {}
    if what == "weight":
        kernel = variables["params"]["backbone"]["conv1"]["kernel"]
        kernel = kernel.at[0, 0, 0, 0].add(1e-3)
        variables["params"]["backbone"]["conv1"]["kernel"] = kernel
    elif what == "picture":
        split.images[7, 3, 3, 1] ^= 1
    elif what == "operations":
        other = MODEL.clone(prepare=lambda images: images - 0.5)
        plan = transfer.Plan(other, SHAPE, "feature_extraction")
    else:
        options = {"augment": augmentation.flip(), "key": jax.random.key(0)}
    found = plan.seen(variables, split, folder=tmp_path, **options)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    expected = plan.seen(variables, split, **options)
    np.testing.assert_array_equal(found.images, expected.images)


def test_numbers_inside_jitted_functions_are_part_of_the_key(tmp_path: Path) -> None:
    """A jaxpr's text tells the shapes of such constants, but not their values."""
    variables, split = _variables(), _split()

    def prepared(value: float) -> transfer.Plan:
        table = np.full((1, 1, 1, 3), value, np.float32)
        inner = jax.checkpoint(jax.jit(lambda images: images + table))
        return transfer.Plan(MODEL.clone(prepare=inner), SHAPE, "feature_extraction")

    for value in (0.0, 0.5):
        found = prepared(value).seen(variables, split, folder=tmp_path)
        expected = prepared(value).seen(variables, split)
        np.testing.assert_array_equal(found.images, expected.images)
    assert len(list(tmp_path.glob("*.npy"))) == 2

    def augmenting(value: float):
        table = np.full((1, 1, 1, 3), value, np.float32)
        return jax.jit(lambda key, images: images + table)

    key = jax.random.key(0)
    for value in (0.0, 0.5):
        options = {"augment": augmenting(value), "key": key}
        found = _plan().seen(variables, split, folder=tmp_path, **options)
        expected = _plan().seen(variables, split, **options)
        np.testing.assert_array_equal(found.images, expected.images)
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_what_calls_back_to_python_is_not_stored(tmp_path: Path) -> None:
    def prepare(images):
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
        return jax.pure_callback(np.negative, shape, images)

    plan = transfer.Plan(MODEL.clone(prepare=prepare), SHAPE, "feature_extraction")
    with pytest.raises(errors.ArgumentError, match="a pure_callback, which may give"):
        plan.seen(_variables(), _split(), folder=tmp_path)


def test_two_runs_at_once_compute_once_and_agree(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()
    computed = []

    def pieces(number: int):
        computed.append(number)
        began.set()
        go_on.wait(20)
        yield np.full((2, 3), 1.0, np.float32)

    def run(number: int) -> np.ndarray:
        return store.kept(tmp_path, "2" * 64, (2, 3), pieces(number))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, 0)
        assert began.wait(20)
        second = pool.submit(run, 1)
        go_on.set()
        assert first.result().tolist() == second.result().tolist() == [[1.0] * 3] * 2
    assert computed == [0]


def test_a_trained_head_changes_no_key(tmp_path: Path) -> None:
    variables, split = _variables(), _split()
    _plan().seen(variables, split, folder=tmp_path)
    variables["params"]["head"] = jax.tree.map(jnp.ones_like, _variables(1))["params"][
        "head"
    ]
    _plan().seen(variables, split, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_the_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    _plan().seen(_variables(), _split(), folder=tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import test_store as t, pathlib; "
        "t._plan().seen(t._variables(), t._split(), folder=pathlib.Path(sys.argv[1]))"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, str(tmp_path), here], check=True)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "record", "other"])
def test_a_damaged_file_is_computed_again(damage: str, tmp_path: Path, capsys) -> None:
    pieces = [np.arange(6, dtype=np.float32).reshape(2, 3)] * 2
    key = "0" * 64
    expected = np.concatenate(pieces)
    store.kept(tmp_path, key, (4, 3), pieces)
    (path,) = tmp_path.glob("*.npy")
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-4])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "record":
        path.with_suffix(".json").write_text("{")
    else:
        np.save(path, np.zeros((4, 2), np.float32))
    found = store.kept(tmp_path, key, (4, 3), pieces)
    np.testing.assert_array_equal(found, expected)
    assert "computed again" in capsys.readouterr().out
    assert store.kept(tmp_path, key, (4, 3), iter(())).tolist() == expected.tolist()


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    def pieces():
        yield np.zeros((1, 3), np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.kept(tmp_path, "1" * 64, (2, 3), pieces())
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / "file").touch()
    with pytest.raises(errors.RunFolderError, match="cannot be written"):
        store.kept(tmp_path / "file", "1" * 64, (1, 3), [np.zeros((1, 3))])


def test_views_are_augmented_images_each_by_its_own_draw() -> None:
    plan, variables, split = _plan(), _variables(), _split()
    key = jax.random.key(5)
    seen = plan.seen(
        variables, split, batch_size=4, augment=augmentation.flip(), views=3, key=key
    )
    assert seen.images.shape[0] == 30
    np.testing.assert_array_equal(seen.labels, np.tile(split.labels, 3))
    plain = plan.seen(variables, split, batch_size=4).images
    flipped = split._replace(images=split.images[:, :, ::-1])
    mirrored = plan.seen(variables, flipped, batch_size=4).images
    views = seen.images.reshape(3, 10, -1)
    # Float tolerance: the division by 255 happens in another program.
    as_is = np.isclose(views, plain, atol=1e-5).all(axis=2)
    turned = np.isclose(views, mirrored, atol=1e-5).all(axis=2)
    assert (as_is | turned).all()
    # Thirty fair coins: neither side is empty, and no two views are drawn alike.
    assert 5 < turned.sum() < 25
    assert len({tuple(row) for row in turned.tolist()}) == 3
    with pytest.raises(errors.ArgumentError, match="views is 2"):
        plan.seen(variables, split, views=2)
    with pytest.raises(errors.ArgumentError, match="needs a key"):
        plan.seen(variables, split, augment=augmentation.flip())
