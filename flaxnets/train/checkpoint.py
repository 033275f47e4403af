"""Checkpoints: written by orbax, proved by a manifest of hashes.

A step counts as saved once its manifest stands beside its data, so a run that is
killed at any moment leaves only whole steps. Orbax itself does not notice a flipped
byte; the manifest's SHA-256 sums do.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxnets
from flaxnets import errors
from flaxnets import params as trees

FORMAT = 1
_MANIFEST = "manifest.json"
_DATA = "state"
_UNFINISHED = ".unfinished-"


class Checkpoints:
    """The saved steps of one run; a context manager that waits for the last save.

    Saves run in the background, one at a time. The `keep` latest steps and the step
    with the best (largest finite) metric are kept.

    Args:
        directory: where the steps are; made if absent.
        keep: how many of the latest steps to keep.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory.absolute()
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="flaxnets-save")
        self._pending: Future | None = None
        self._directory.mkdir(parents=True, exist_ok=True)
        self._manifests: dict[int, dict[str, Any]] = {}
        for entry in sorted(self._directory.iterdir()):
            self._take_stock(entry)

    def __enter__(self) -> "Checkpoints":
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

        Args:
            step: the state's step, not saved before.
            state: any pytree of arrays and typed PRNG keys.
            metric: what `best` compares, larger is better; None or not finite never
                counts as best.
            metadata: values for JSON, kept with the step.

        Raises:
            CheckpointError: the step exists.
            RunFolderError: this or the previous save could not be written; earlier
                steps are intact.
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
        self._manifests[step] = manifest
        self._pending = self._writer.submit(self._write, step, leaves, manifest)

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
            CheckpointError: no such step, or a damaged file.
        """
        self.wait()
        step = self.latest() if step is None else step
        self._check_step(step)
        assert step is not None
        self._verify(step)
        return self._read(step)

    def _check_step(self, step: int | None) -> None:
        if step not in self._manifests:
            found = ", ".join(map(str, self.steps())) or "none"
            raise errors.CheckpointError(
                f"{self._directory}: there is no checkpoint of step {step}; the steps "
                f"that exist are: {found}"
            )

    def _take_stock(self, entry: Path) -> None:
        """Notes a saved step; warns of what is none. Unfinished saves stay unseen."""
        if entry.name.startswith(_UNFINISHED):
            return
        manifest = entry / _MANIFEST
        if not entry.name.isdecimal() or not manifest.is_file():
            warnings.warn(
                f"{entry} is no checkpoint of this run and is ignored", stacklevel=4
            )
            return
        try:
            content = json.loads(manifest.read_bytes())
            version, step = content["format"], content["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.CheckpointError(
                f"{manifest}: damaged ({error}); remove {entry} to go on from the "
                "previous step"
            ) from None
        if version != FORMAT:
            raise errors.CheckpointError(
                f"{manifest}: format {version} of flaxnets {content['flaxnets']}, but "
                f"flaxnets {flaxnets.__version__} reads format {FORMAT}; install "
                f"flaxnets {content['flaxnets']} to use this run"
            )
        self._manifests[step] = content

    def _write(
        self, step: int, leaves: dict[str, np.ndarray], manifest: dict[str, Any]
    ) -> None:
        unfinished = self._directory / f"{_UNFINISHED}{step}"
        try:
            for left in self._directory.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
            unfinished.mkdir()
            _orbax().save(unfinished / _DATA, leaves)
            manifest["files"] = _hashes(unfinished)
            text = json.dumps(manifest, indent=1, allow_nan=False)
            with (unfinished / _MANIFEST).open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._directory / str(step))
            _sync(self._directory)
        except Exception as error:
            del self._manifests[step]
            size = sum(leaf.nbytes for leaf in leaves.values())
            shutil.rmtree(unfinished, ignore_errors=True)
            raise _write_error(self._directory, step, size, error) from error
        self._remove_old()

    def _remove_old(self) -> None:
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in set(self._manifests) - kept:
            del self._manifests[step]
            # Renamed first, so that a kill in between leaves no half of a step.
            doomed = self._directory / f"{_UNFINISHED}{step}"
            os.replace(self._directory / str(step), doomed)
            shutil.rmtree(doomed)

    def _verify(self, step: int) -> None:
        folder = self._directory / str(step)
        recorded = self._manifests[step]["files"]
        found = _hashes(folder)
        for name in recorded:
            if found.get(name) != recorded[name]:
                state = "is missing" if name not in found else "is damaged"
                others = [other for other in self.steps() if other != step]
                hint = "no other step is saved"
                if others:
                    hint = f"go back to step {others[-1]}: remove {folder}, then resume"
                raise errors.CheckpointError(
                    f"{folder / name} {state}: expected {recorded[name]}, found "
                    f"{found.get(name, 'no file')}; {hint}"
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


def _orbax() -> Any:
    """Orbax's synchronous checkpointer of trees; imported late, since it is slow."""
    from orbax import checkpoint

    return checkpoint.Checkpointer(checkpoint.PyTreeCheckpointHandler())


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
) -> errors.FlaxnetsError:
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "RESOURCE_EXHAUSTED" in text or "No space left" in text:
        free = shutil.disk_usage(directory).free
        return errors.RunFolderError(
            f"{directory}: the disk is full: step {step} needs about {size:,} bytes, "
            f"{free:,} are free; earlier checkpoints are intact, so free some space "
            "and resume"
        )
    first = text.splitlines()[0] if text else type(error).__name__
    return errors.RunFolderError(
        f"{directory}: step {step} could not be saved ({first}); earlier checkpoints "
        "are intact"
    )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
