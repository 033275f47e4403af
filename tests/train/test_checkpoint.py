"""Checkpoints under every fault that a disk or a kill can bring."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors
from flaxnets.train import Checkpoints


class State(NamedTuple):
    weights: dict
    key: jax.Array


def state(value: float = 1.0, shape: tuple[int, ...] = (3, 2)) -> State:
    weights = {"dense": {"kernel": jnp.full(shape, float(value)), "bias": jnp.zeros(2)}}
    return State(weights, jax.random.key(int(value)))


def save(directory: Path, *steps: int, metrics: tuple = (), keep: int = 5) -> None:
    metrics = metrics or (None,) * len(steps)
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step, metric in zip(steps, metrics, strict=True):
            checkpoints.save(step, state(step), metric=metric, metadata={"at": step})


def data_files(directory: Path, step: int) -> list[Path]:
    files = (path for path in (directory / str(step)).rglob("*") if path.is_file())
    return sorted(path for path in files if path.name != "manifest.json")


def test_round_trip_is_bit_equal_with_typed_keys(tmp_path) -> None:
    save(tmp_path, 1, 2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == (1, 2)
        assert checkpoints.metadata(1) == {"at": 1}
        for step in (1, 2):
            restored = checkpoints.restore(state(0.0), step)
            jax.tree.map(
                np.testing.assert_array_equal, restored.weights, state(step).weights
            )
            assert restored.key == state(step).key
            assert isinstance(restored.weights["dense"]["bias"], jax.Array)


def test_a_flipped_byte_in_any_file_is_found_and_named(tmp_path) -> None:
    save(tmp_path, 1, 2)
    files = data_files(tmp_path, 2)
    assert len(files) >= 3
    for path in files:
        original = path.read_bytes()
        flipped = bytearray(original or b"\0")
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(
                errors.CheckpointError, match=f"{path.name} is damaged.*step 1"
            ):
                checkpoints.restore(state())
            checkpoints.restore(state(), 1)
        path.write_bytes(original)


@pytest.mark.parametrize("fault", ["delete", "truncate", "empty"])
def test_a_missing_or_short_file_is_named(tmp_path, fault: str) -> None:
    save(tmp_path, 1)
    path = max(data_files(tmp_path, 1), key=lambda path: path.stat().st_size)
    if fault == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:10] if fault == "truncate" else b"")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.CheckpointError, match=f"{path.name} is.*no other step"),
    ):
        checkpoints.restore(state())


def test_best_is_never_a_number_that_is_not_finite(tmp_path) -> None:
    nan, infinite = float("nan"), float("inf")
    save(tmp_path, 1, 2, 3, 4, metrics=(0.5, nan, 0.3, infinite), keep=1)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == (1, 4)
        assert (checkpoints.best(), checkpoints.latest()) == (1, 4)


def test_a_step_is_never_overwritten(tmp_path) -> None:
    save(tmp_path, 1)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.CheckpointError, match="step 1 is saved already"),
    ):
        checkpoints.save(1, state(9.0), metric=None, metadata={})


def test_absent_step_lists_those_that_exist(tmp_path) -> None:
    save(tmp_path, 3, 7)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.CheckpointError, match="no checkpoint of step 5.*3, 7"),
    ):
        checkpoints.restore(state(), 5)


def test_another_shape_type_or_name_is_named(tmp_path) -> None:
    save(tmp_path, 1)
    other_type = state()
    other_type.weights["dense"]["bias"] = jnp.zeros(2, jnp.int32)
    other_name = state()
    other_name.weights["head"] = other_name.weights.pop("dense")
    for target, message in (
        (state(shape=(4, 2)), r"dense/kernel: expected float32\[4, 2\], found float32"),
        (other_type, r"dense/bias: expected int32\[2\], found float32\[2\]"),
        (other_name, "head/kernel: missing|head/bias: missing"),
    ):
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(errors.CheckpointError, match=message):
                checkpoints.restore(target)


def test_foreign_entries_are_ignored_with_a_warning(tmp_path) -> None:
    save(tmp_path, 1)
    (tmp_path / "9" / "default").mkdir(parents=True)
    with pytest.warns(UserWarning, match="9 is no checkpoint"):
        checkpoints = Checkpoints(tmp_path)
    with checkpoints:
        assert checkpoints.latest() == 1


def test_another_format_names_the_version_that_reads_it(tmp_path) -> None:
    save(tmp_path, 1)
    manifest = tmp_path / "1" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99, "flaxnets": "7.0"}))
    with pytest.raises(errors.CheckpointError, match="format 99.*flaxnets 7.0"):
        Checkpoints(tmp_path)


WRITER = """
import sys
import jax.numpy as jnp
from flaxnets.train import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
    for step in range(1, 100):
        checkpoints.save(
            step, {"w": jnp.full((500_000,), float(step))}, metric=None, metadata={}
        )
        checkpoints.wait()
        print(step, flush=True)
""".replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")


def test_killed_in_a_save_the_previous_step_is_whole(tmp_path) -> None:
    """SIGKILL at several moments of a save; what is there restores bit-equal."""
    for delay in (0.0, 0.01, 0.03, 0.08):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Checkpoints(tmp_path) as checkpoints:
            step = checkpoints.latest()
            assert step is not None
            restored = checkpoints.restore({"w": jnp.zeros(500_000)})
            np.testing.assert_array_equal(restored["w"], np.full(500_000, float(step)))
            after = checkpoints.steps()[-1] + 1
            checkpoints.save(after, {"w": jnp.zeros(500_000)}, metric=None, metadata={})
        assert not list(tmp_path.glob(".unfinished-*"))
        for entry in tmp_path.iterdir():
            subprocess.run(["rm", "-r", str(entry)], check=True)


FULL = """
import resource, sys, signal
from pathlib import Path
import jax.numpy as jnp
from flaxnets import errors
from flaxnets.train import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np
# Random numbers, since equal ones would be compressed to nothing.
big = {"w": np.random.default_rng(0).normal(size=500_000)}
small = {"w": np.zeros(500_000)}
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(1, big, metric=None, metadata={})
    checkpoints.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    checkpoints.save(2, big, metric=None, metadata={})
    try:
        checkpoints.wait()
    except errors.RunFolderError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.steps() == (1,)
    checkpoints.save(2, big, metric=None, metadata={})
    checkpoints.wait()
    assert checkpoints.steps() == (1, 2)
    checkpoints.restore(small, 1)
"""


def test_no_room_for_a_file_is_reported_and_can_be_retried(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "earlier checkpoints are intact" in done.stdout


def test_saved_on_four_devices_restored_on_one(tmp_path) -> None:
    code = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from flaxnets.train import Checkpoints
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(1, {"x": x}, metric=None, metadata={})
"""
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, env=environment
    )
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"x": jnp.zeros(8)})
    np.testing.assert_array_equal(restored["x"], np.arange(8.0))
