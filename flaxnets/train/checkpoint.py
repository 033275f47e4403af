"""Checkpoints: written by orbax, proved by a manifest of hashes.

A step counts as saved once its manifest stands beside its data, so a run that is
killed at any moment leaves only whole steps. Orbax itself does not notice a flipped
byte; the manifest's SHA-256 sums, its own among them, do.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import math
import os
import re
import shutil
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxnets
from flaxnets import errors, files
from flaxnets import params as trees

FORMAT = 1
_MANIFEST = "manifest.json"
_DATA = "state"
_UNFINISHED = ".unfinished-"
_SIGNS_OF_NO_ROOM = ("RESOURCE_EXHAUSTED", "No space left", "File too large")


class Checkpoints:
    """The saved steps of one run; a context manager that waits for the last save.

    Saves run in the background, one at a time. The `keep` latest steps, the last good
    one, and the one with the best (largest finite) metric are kept. Only `save` and
    `clean` write, so that a run's steps can be read while it saves others.

    Args:
        directory: where the steps are; the first save makes it.
        keep: how many of the latest steps to keep.

    Raises:
        CheckpointError: a step's manifest is damaged, cannot be read, or is of
            another format.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory.absolute()
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="flaxnets-save")
        self._pending: Future | None = None
        self._waits_at_exit = False
        # Replaced, never changed: the thread that saves does so while others read.
        self._manifests: Mapping[int, dict[str, Any]] = {}
        with _reading(self._directory):
            if self._directory.is_dir():
                self._take_stock()

    def __enter__(self) -> "Checkpoints":
        self._waits_at_exit = True
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def steps(self) -> tuple[int, ...]:
        """Saved steps in ascending order, a save under way included."""
        return tuple(sorted(self._manifests))

    def latest(self) -> int | None:
        """The last saved step."""
        return max(self._manifests, default=None)

    def best(self) -> int | None:
        """The saved step with the largest finite metric; of equal ones, the first."""
        return _best(self._manifests)

    def last_good(self) -> int | None:
        """The last saved step whose metadata does not say `"finite": False`."""
        return _last_good(self._manifests)

    def metadata(self, step: int) -> dict[str, Any]:
        """What `save` was given with a step."""
        self._check_step(step)
        return self._manifests[step]["metadata"]

    def save(
        self,
        step: int,
        state: Any,
        *,
        metric: float | None,
        metadata: Mapping[str, Any],
    ) -> None:
        """Saves a state; returns once it is copied, and writes in the background.

        Outside a `with` statement nothing would wait for it at the process's end, so
        there it returns once the step is saved.

        Args:
            step: the state's step, not saved before.
            state: any pytree of arrays and typed PRNG keys.
            metric: what `best` compares, larger is better; None or not finite never
                counts as best.
            metadata: values for JSON, kept with the step.

        Raises:
            CheckpointError: the step exists.
            RunFolderError: the previous save (outside `with`, this one) could not be
                written; earlier steps are intact, and it can be saved again.
        """
        if step in self._manifests:
            raise errors.CheckpointError(
                f"{self._directory}: step {step} is saved already; a step is never "
                "overwritten"
            )
        self.wait()
        leaves = _host_leaves(state)
        manifest = {
            "format": FORMAT,
            "flaxnets": flaxnets.__version__,
            "step": step,
            "metric": metric if metric is None or math.isfinite(metric) else None,
            "metadata": dict(metadata),
            "leaves": {name: _kind(leaf) for name, leaf in leaves.items()},
        }
        self._make_way(step)
        self._manifests = {**self._manifests, step: manifest}
        self._pending = self._writer.submit(self._write, step, leaves, manifest)
        if not self._waits_at_exit:
            self.wait()

    def clean(self) -> None:
        """Removes what saves that were killed have left; for the one that saves.

        Raises:
            RunFolderError: it cannot be removed.
        """
        self.wait()
        with files.writing(self._directory):
            self._remove_unfinished(ignore_errors=False)

    def wait(self) -> None:
        """Waits for the save under way; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, target: Any, step: int | None = None) -> Any:
        """The state of a step, with the structure of `target`.

        Args:
            target: a state of the run as it begins: names, shapes and types to expect.
            step: which one; the latest by default.

        Raises:
            CheckpointError: no such step, a damaged file, or another model's state.
        """
        leaves = self.leaves(step)
        expected = _host_leaves(target)
        if wrong := trees.differences(expected, leaves):
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise errors.CheckpointError(
                f"{self._directory}: the checkpoint is of another model or optimizer: "
                f"{'; '.join(wrong[:5])}{more}. Resume with the options that the run "
                "was begun with"
            )
        return _rebuilt(target, leaves)

    def leaves(self, step: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of a step by name, such as `params/conv1/kernel`, verified.

        Args:
            step: which one; the latest by default.

        Raises:
            CheckpointError: no such step, or a file that is damaged or cannot be read.
        """
        self.wait()
        step = self.latest() if step is None else step
        self._check_step(step)
        assert step is not None
        with _reading(self._directory):
            self._verify(step)
            return self._read(step)

    def _check_step(self, step: int | None) -> None:
        if not self._manifests:
            raise errors.CheckpointError(
                f"{self._directory}: no checkpoint is saved here yet; train the run "
                "until its first one, or name another run"
            )
        if step not in self._manifests:
            found = ", ".join(map(str, self.steps()))
            raise errors.CheckpointError(
                f"{self._directory}: there is no checkpoint of step {step}; the steps "
                f"that exist are: {found}"
            )

    def _take_stock(self) -> None:
        """Notes the saved steps; warns of what is none, but for unfinished saves."""
        found, damaged = {}, []
        for entry in sorted(self._directory.iterdir()):
            content = _read_manifest(entry / _MANIFEST) if _is_step(entry) else {}
            # Another process may train here, and remove old steps meanwhile.
            if not entry.exists():
                continue
            if content is None:
                damaged.append(entry)
            elif entry.name == str(content.get("step")):
                found[content["step"]] = content
            elif not entry.name.startswith(_UNFINISHED):
                warnings.warn(
                    f"{entry} is no checkpoint of this run and is ignored", stacklevel=4
                )
        self._manifests = found
        if damaged:
            manifest = damaged[0] / _MANIFEST
            state = "is damaged" if manifest.exists() else "is missing"
            hint = _way_out(damaged[0], self.steps())
            raise errors.CheckpointError(f"{manifest} {state}; {hint}")

    def _make_way(self, step: int) -> None:
        """Moves aside what is foreign and stands where a step will be."""
        place = self._directory / str(step)
        if not os.path.lexists(place):
            return
        names = (f"{place}.foreign-{number}" for number in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        with files.writing(place):
            os.rename(place, aside)
        warnings.warn(
            f"{place} is no checkpoint of this run and was moved to {aside}",
            stacklevel=3,
        )

    def _write(
        self, step: int, leaves: dict[str, np.ndarray], manifest: dict[str, Any]
    ) -> None:
        unfinished = self._directory / f"{_UNFINISHED}{step}"
        size = sum(leaf.nbytes for leaf in leaves.values())
        try:
            self._remove_unfinished(ignore_errors=True)
            # Orbax, where a write fails, prints tracebacks of its own besides. What
            # it compresses trained parameters by is a few percent.
            if not files.has_room(self._directory, size):
                raise OSError(errno.ENOSPC, "No room")
            unfinished.mkdir(parents=True)
            _orbax().save(unfinished / _DATA, leaves)
            manifest["files"] = _hashes(unfinished)
            with (unfinished / _MANIFEST).open("wb") as file:
                file.write(_sealed(manifest))
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._directory / str(step))
            _sync(self._directory)
        except Exception as error:
            self._forget(step)
            shutil.rmtree(unfinished, ignore_errors=True)
            raise _write_error(self._directory, step, size, error) from None
        self._remove_old()

    def _remove_old(self) -> None:
        kept = {*self.steps()[-self._keep :], self.best(), self.last_good()}
        for step in set(self._manifests) - kept:
            # Renamed first, so that a kill in between leaves no half of a step. What
            # cannot be removed now (another process may read it) can be later.
            doomed = self._directory / f"{_UNFINISHED}{step}"
            with contextlib.suppress(OSError):
                os.replace(self._directory / str(step), doomed)
                self._forget(step)
            shutil.rmtree(doomed, ignore_errors=True)

    def _remove_unfinished(self, *, ignore_errors: bool) -> None:
        for left in self._directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=ignore_errors)

    def _forget(self, step: int) -> None:
        self._manifests = {
            other: manifest
            for other, manifest in self._manifests.items()
            if other != step
        }

    def _verify(self, step: int) -> None:
        folder = self._directory / str(step)
        recorded = self._manifests[step]["files"]
        found = _hashes(folder)
        for name in recorded:
            if found.get(name) != recorded[name]:
                state = "is missing" if name not in found else "is damaged"
                others = [other for other in self.steps() if other != step]
                raise errors.CheckpointError(
                    f"{folder / name} {state}: expected {recorded[name]}, found "
                    f"{found.get(name, 'no file')}; {_way_out(folder, others)}"
                )

    def _read(self, step: int) -> dict[str, np.ndarray]:
        shapes = {
            name: np.zeros(shape, dtype)
            for name, (dtype, shape) in (
                (name, _parse_kind(kind))
                for name, kind in self._manifests[step]["leaves"].items()
            )
        }
        return _orbax().restore(self._directory / str(step) / _DATA, shapes)


def _best(manifests: Mapping[int, Mapping[str, Any]]) -> int | None:
    scored = [
        (manifest["metric"], -step)
        for step, manifest in manifests.items()
        if manifest["metric"] is not None
    ]
    return -max(scored)[1] if scored else None


def _last_good(manifests: Mapping[int, Mapping[str, Any]]) -> int | None:
    good = (
        step
        for step, manifest in manifests.items()
        if manifest["metadata"].get("finite") is not False
    )
    return max(good, default=None)


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.CheckpointError(
            f"{error.filename or directory}: cannot be read ({error.strerror}); see "
            "that this user may read it, and that its disk works"
        ) from None


def _is_step(entry: Path) -> bool:
    """Whether a folder is a step of this library, even one without its manifest."""
    parts = (entry / _MANIFEST, entry / _DATA)
    return entry.name.isdecimal() and any(part.exists() for part in parts)


def _sealed(content: Mapping[str, Any]) -> bytes:
    """A manifest as it is written: the content, and the SHA-256 of its text."""
    digest = hashlib.sha256(_text(content)).hexdigest()
    return _text({**content, "sha256": digest})


def _text(content: Mapping[str, Any]) -> bytes:
    # Sums of an epoch under way may hold NaN, which Python's JSON reads back.
    return json.dumps(content, indent=1).encode()


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The content of a manifest; None where a byte is not as it was written.

    Raises:
        CheckpointError: it is of another format.
    """
    try:
        written = path.read_bytes()
        content = json.loads(written)
        del content["sha256"]
        intact = _sealed(content) == written
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if intact and content["format"] != FORMAT:
        raise errors.CheckpointError(
            f"{path}: format {content['format']} of flaxnets {content['flaxnets']}, "
            f"but flaxnets {flaxnets.__version__} reads format {FORMAT}; install "
            f"flaxnets {content['flaxnets']} to use this run"
        )
    return content if intact else None


def _way_out(folder: Path, others: Sequence[int]) -> str:
    """What to do about a damaged step, given the other saved ones in order."""
    if not others:
        return f"no other step is saved: remove {folder} to begin anew"
    return f"remove {folder} to go back to step {others[-1]}"


def _orbax() -> Any:
    """Orbax's synchronous checkpointer of trees; imported late, since it is slow."""
    from orbax import checkpoint

    logging.getLogger("absl").addFilter(_says_more_than_raised)
    return checkpoint.Checkpointer(checkpoint.PyTreeCheckpointHandler())


def _says_more_than_raised(record: logging.LogRecord) -> bool:
    """False for orbax's log of an error that it raises as well."""
    return "_SignalingThread" not in record.getMessage()


def _host_leaves(state: Any) -> dict[str, np.ndarray]:
    """Copies of all leaves by path; a typed PRNG key becomes its numbers."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in paths]
    names = [_name(path) for path, _ in paths]
    return {
        name: np.array(leaf, copy=True)
        for name, leaf in zip(names, jax.device_get(data), strict=True)
    }


def _rebuilt(target: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    def leaf(path: Any, old: Any) -> Any:
        value = leaves[_name(path)]
        if _is_key(old):
            return jax.random.wrap_key_data(
                jnp.asarray(value), impl=jax.random.key_impl(old)
            )
        return jax.device_put(value)

    return jax.tree_util.tree_map_with_path(leaf, target)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _name(path: Any) -> str:
    return "/".join(
        str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part))))
        for part in path
    )


def _kind(leaf: np.ndarray) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _parse_kind(kind: str) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, _, shape = kind.partition("[")
    return np.dtype(dtype), tuple(json.loads("[" + shape))


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder but the manifest, by relative path."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[str(path.relative_to(folder))] = f"sha256 {digest}"
    return sums


def _write_error(
    directory: Path, step: int, size: int, error: Exception
) -> errors.RunFolderError:
    reason, full = _reason(error)
    if full:
        free = files.free_bytes(directory)
        return errors.RunFolderError(
            f"{directory}: the disk is full ({reason}): step {step} needs about "
            f"{size:,} bytes, {free:,} are free; earlier checkpoints are intact, so "
            "free some space and resume"
        )
    return errors.RunFolderError(
        f"{directory}: step {step} could not be saved ({reason}); earlier checkpoints "
        "are intact"
    )


def _reason(error: Exception) -> tuple[str, bool]:
    """Why a write failed, in a few words, and whether for want of space."""
    text = str(error)
    # TensorStore gives the system's number in a page of text.
    found = re.search(r"os_error_code='(\d+)'", text)
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number is None and any(sign in text for sign in _SIGNS_OF_NO_ROOM):
        number = errno.ENOSPC
    if number is not None:
        return os.strerror(number), number in files.NO_ROOM
    first = f"{type(error).__name__}: {text}".partition("\n")[0]
    return textwrap.shorten(first, 100, placeholder=" ..."), False


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
