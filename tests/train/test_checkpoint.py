"""Checkpoints under every fault that a disk or a kill can bring."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxnets
from flaxnets import errors
from flaxnets.train import Checkpoints, checkpoint


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
    found = (path for path in (directory / str(step)).rglob("*") if path.is_file())
    return sorted(path for path in found if path.name != "manifest.json")


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


def refusal(directory: Path) -> str:
    """What the error says that reading the latest step raises, one line."""
    with (
        pytest.raises(errors.CheckpointError) as caught,
        Checkpoints(directory) as checkpoints,
    ):
        checkpoints.leaves()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_a_flipped_byte_in_any_file_is_found_and_named(tmp_path) -> None:
    save(tmp_path, 1, 2, metrics=(0.25, 0.5))
    found = data_files(tmp_path, 2)
    assert len(found) >= 3
    for path in found:
        original = path.read_bytes()
        for position in np.unique(np.linspace(0, len(original) - 1, 20, dtype=int)):
            flipped = bytearray(original or b"\0")
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            message = refusal(tmp_path)
            assert f"{path} is damaged" in message
            assert f"remove {tmp_path / '2'} to go back to step 1" in message
            assert "ocdbt" not in message.replace(str(path), "")
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(state(), 1)
        path.write_bytes(original)


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(tmp_path) -> None:
    save(tmp_path, 1, 2, metrics=(0.25, 0.5))
    path = tmp_path / "2" / "manifest.json"
    original = path.read_bytes()
    for position, byte in enumerate(original):
        # The fifth bit turns a small letter into its capital.
        bit = 5 if chr(byte).isalpha() else position % 8
        flipped = bytearray(original)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        assert f"{path} is damaged" in refusal(tmp_path)
    path.write_bytes(original)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best() == 2


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"7", b'{"step": 2}', b"\xff", b"[" * 100_000]
)
def test_a_manifest_of_something_else_names_the_folder_to_remove(
    tmp_path, content: bytes
) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "2" / "manifest.json").write_bytes(content)
    assert f"remove {tmp_path / '2'} to go back to step 1" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "2")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(state())


@pytest.mark.parametrize("fault", ["delete", "truncate", "empty"])
def test_a_missing_or_short_file_is_named(tmp_path, fault: str) -> None:
    save(tmp_path, 1, 2)
    for path in (*data_files(tmp_path, 2), tmp_path / "2" / "manifest.json"):
        original = path.read_bytes()
        if fault == "delete" or not original:
            path.unlink()
        else:
            path.write_bytes(original[:-1] if fault == "truncate" else b"")
        message = refusal(tmp_path)
        assert f"{path} is {'damaged' if path.exists() else 'missing'}" in message
        assert f"remove {tmp_path / '2'} to go back to step 1" in message
        assert "ocdbt" not in message.replace(str(path), "")
        path.write_bytes(original)


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.hashlib, "file_digest", fail)
        assert "a file: cannot be read (Input/output error)" in refusal(tmp_path)
    manifest = tmp_path / "1" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    assert f"{manifest}: cannot be read (Is a directory)" in refusal(tmp_path)


def test_damage_of_the_only_step_says_that_there_is_no_other(tmp_path) -> None:
    save(tmp_path, 1)
    data_files(tmp_path, 1)[0].unlink()
    assert f"no other step is saved: remove {tmp_path / '1'}" in refusal(tmp_path)


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


def test_the_last_good_step_is_told_and_kept(tmp_path) -> None:
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.last_good() is None
        for step, finite in ((1, True), (2, True), (3, False), (4, False)):
            checkpoints.save(
                step, state(step), metric=None, metadata={"finite": finite}
            )
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == (2, 4)
        assert checkpoints.last_good() == 2


def test_without_any_step_it_says_so(tmp_path) -> None:
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(
            errors.CheckpointError, match="no checkpoint is saved here yet; train"
        ),
    ):
        checkpoints.leaves()
    assert not list(tmp_path.iterdir())


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
    save(tmp_path, 22)
    (tmp_path / "9" / "default").mkdir(parents=True)
    (tmp_path / "7").write_text("seven")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    shutil.copytree(tmp_path / "22", tmp_path / "23")
    shutil.copytree(tmp_path / "22", tmp_path / "022")
    with pytest.warns(UserWarning) as warned:
        checkpoints = Checkpoints(tmp_path)
    assert sorted(str(warning.message) for warning in warned) == [
        f"{tmp_path / name} is no checkpoint of this run and is ignored"
        for name in (".DS_Store", "022", "23", "7", "9")
    ]
    with checkpoints:
        assert checkpoints.steps() == (22,)


def test_what_stands_in_a_steps_place_is_moved_aside(tmp_path) -> None:
    (tmp_path / "1").write_text("a file")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "thesis.txt").write_text("mine")
    (tmp_path / "2.foreign-1").write_text("older")
    with pytest.warns(UserWarning, match="is ignored"):
        checkpoints = Checkpoints(tmp_path)
    with checkpoints:
        for step, aside in ((1, "1.foreign-1"), (2, "2.foreign-2")):
            with pytest.warns(UserWarning, match=f"moved to {tmp_path / aside}"):
                checkpoints.save(step, state(step), metric=None, metadata={})
        checkpoints.wait()
        checkpoints.restore(state())
        assert checkpoints.steps() == (1, 2)
    assert (tmp_path / "1.foreign-1").read_text() == "a file"
    assert (tmp_path / "2.foreign-1").read_text() == "older"
    assert (tmp_path / "2.foreign-2" / "thesis.txt").read_text() == "mine"


def test_another_format_names_the_version_that_reads_it(tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        patch.setattr(flaxnets, "__version__", "7.0")
        save(tmp_path, 1)
    with pytest.raises(errors.CheckpointError, match="format 99.*flaxnets 7.0"):
        Checkpoints(tmp_path)


def script(code: str, *arguments: object, **options: Any) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


WRITER = """
import sys
from pathlib import Path
import numpy as np
from flaxnets.train import Checkpoints
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    for step in range(1, 1000):
        weights = np.full(500_000, step, np.float32)
        checkpoints.save(step, {"w": weights}, metric=None, metadata={})
        checkpoints.wait()
        print(step, flush=True)
"""


@pytest.mark.parametrize("delay_ms", [0, 1, 3, 7, 12, 20, 33, 47, 68, 95, 140])
def test_killed_in_a_save_the_previous_step_is_whole(tmp_path, delay_ms: int) -> None:
    with script(WRITER, tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
        printed = (first + process.stdout.read()).split()
    with Checkpoints(tmp_path) as checkpoints:
        latest = checkpoints.latest()
        assert latest is not None
        assert int(printed[-1]) <= latest <= int(printed[-1]) + 1
        restored = checkpoints.restore({"w": jnp.zeros(500_000)})
        np.testing.assert_array_equal(restored["w"], np.full(500_000, float(latest)))
        checkpoints.clean()
        assert not list(tmp_path.glob(".unfinished-*"))
        checkpoints.save(latest + 1, restored, metric=None, metadata={})


def test_only_cleaning_removes_an_unfinished_save(tmp_path) -> None:
    """Whoever only reads leaves alone what another process may be writing."""
    save(tmp_path, 1)
    unfinished = tmp_path / ".unfinished-2"
    shutil.copytree(tmp_path / "1", unfinished)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.leaves()
        assert unfinished.exists()
        checkpoints.clean()
        assert not unfinished.exists()
        assert checkpoints.steps() == (1,)


ENDING = """
import sys
from pathlib import Path
import numpy as np
from flaxnets.train import Checkpoints
weights = {"w": np.random.default_rng(0).normal(size=1_000_000)}
directory = Path(sys.argv[1])
"""
EXIT_INSIDE = """
with Checkpoints(directory) as checkpoints:
    checkpoints.save(1, weights, metric=None, metadata={})
    sys.exit(0)
"""
NEVER_CLOSED = """
Checkpoints(directory).save(1, weights, metric=None, metadata={})
"""


@pytest.mark.parametrize("ending", [EXIT_INSIDE, NEVER_CLOSED])
def test_a_process_that_ends_right_after_a_save_keeps_it(tmp_path, ending) -> None:
    with script(ENDING + ending, tmp_path) as process:
        assert process.communicate() == ("", "")
    assert process.returncode == 0
    with Checkpoints(tmp_path) as checkpoints:
        expected = np.random.default_rng(0).normal(size=1_000_000)
        np.testing.assert_array_equal(checkpoints.leaves(1)["w"], expected)


UNABLE = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
"""


def test_a_save_that_fails_outside_with_raises(tmp_path) -> None:
    with script(ENDING + UNABLE + NEVER_CLOSED, tmp_path) as process:
        output, complaints = process.communicate()
    assert (process.returncode, output) == (1, "")
    told = complaints.splitlines()[-1]
    assert f"RunFolderError: {tmp_path}: the disk is full" in told


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from flaxnets import errors
from flaxnets.train import Checkpoints
# Random numbers, since equal ones would be compressed to nothing.
big = {"w": np.random.default_rng(0).normal(size=500_000)}
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
    assert checkpoints.steps() == (1,)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for step in (2, 3):
        checkpoints.save(step, big, metric=None, metadata={})
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    assert checkpoints.steps() == (2, 3)
    checkpoints.leaves(2)
"""


def test_no_room_for_a_file_is_reported_and_can_be_retried(tmp_path) -> None:
    with script(FULL, tmp_path) as process:
        output, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert re.fullmatch(
        rf"{tmp_path}: the disk is full \(File too large\): step 2 needs about "
        r"4,000,000 bytes, [\d,]+ are free; earlier checkpoints are intact, .*\n",
        output,
    )


class Failing:
    """In orbax's place."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def save(self, *_: object) -> None:
        raise self._error


TENSORSTORE = (
    '{}: Error writing "w/0" in OCDBT database at local file "/x/ocdbt.process_0/": '
    'Failed writing: "/x/ocdbt.process_0/d/2370": Failed to write 37 bytes{}\n'
    "[source locations='tensorstore/kvstore/ocdbt/non_distributed.cc:1']"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space"), "No space left on device"),
        (
            ValueError(TENSORSTORE.format("OUT_OF_RANGE", " [os_error_code='28']")),
            "No space left on device",
        ),
        (
            ValueError(TENSORSTORE.format("X", f" [os_error_code='{errno.EDQUOT}']")),
            os.strerror(errno.EDQUOT),
        ),
        (
            ValueError(TENSORSTORE.format("RESOURCE_EXHAUSTED", "")),
            "No space left on device",
        ),
    ],
)
def test_every_kind_of_full_disk_tells_the_bytes(
    tmp_path, monkeypatch, error: Exception, reason: str
) -> None:
    save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_orbax", lambda: Failing(error))
            checkpoints.save(2, state(2), metric=None, metadata={})
            with pytest.raises(
                errors.RunFolderError,
                match=re.escape(reason) + r".*needs about \d+ bytes, [\d,]+ are free",
            ) as caught:
                checkpoints.wait()
        assert "ocdbt" not in str(caught.value).lower()
        assert checkpoints.steps() == (1,)
        checkpoints.save(2, state(2), metric=None, metadata={})
        checkpoints.restore(state())


class Usage(NamedTuple):
    total: int
    free: int


def test_a_save_that_there_is_no_room_for_is_not_begun(tmp_path, monkeypatch) -> None:
    big, size = {"w": np.ones(1000)}, 8000
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: Usage(2 * size, size - 1))
            patch.setattr(checkpoint, "_orbax", lambda: pytest.fail("it was begun"))
            checkpoints.save(1, big, metric=None, metadata={})
            with pytest.raises(
                errors.RunFolderError,
                match="disk is full .*about 8,000 bytes, 7,999 are free",
            ):
                checkpoints.wait()
        # Just enough, and a file system that does not tell.
        for step, usage in enumerate((Usage(2 * size, size), Usage(0, 0)), 1):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            checkpoints.save(step, big, metric=None, metadata={})
            checkpoints.wait()
    assert checkpoints.steps() == (1, 2)


def test_no_room_even_for_the_folder_is_told(tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space")

    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", fail)
            checkpoints.save(1, state(), metric=None, metadata={})
            with pytest.raises(errors.RunFolderError, match=r"[\d,]+ are free"):
                checkpoints.wait()
        checkpoints.save(1, state(), metric=None, metadata={})
        checkpoints.restore(state())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "I/O"), r"\(Input/output error\)"),
        (
            ValueError(TENSORSTORE.format("UNKNOWN", " [os_error_code='5']")),
            r"\(Input/output error\)",
        ),
        (
            ValueError(TENSORSTORE.format("ABORTED", "")),
            r"\(ValueError: ABORTED: Error writing .{,90} \.\.\.\)",
        ),
        (KeyError(), r"\(KeyError:?\)"),
    ],
)
def test_any_other_failing_save_has_a_short_reason(
    tmp_path, monkeypatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(checkpoint, "_orbax", lambda: Failing(error))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(), metric=None, metadata={})
        with pytest.raises(
            errors.RunFolderError, match=f"step 2 could not be saved {reason}; earlier"
        ):
            checkpoints.wait()
        assert not list(tmp_path.iterdir())


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
