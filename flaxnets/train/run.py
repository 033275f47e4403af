"""The folder that a run leaves: config, metrics, results; locked while in use."""

import errno
import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from flaxnets import errors

CONFIG = "config.json"
METRICS = "metrics.jsonl"
_LOCK = "lock"

# What a run may write; `overwrite` removes these and nothing else.
OWN = (
    CONFIG,
    METRICS,
    "result.json",
    "report.html",
    "figures",
    "checkpoints",
    "events",
    "wandb",
)


def read_config(directory: Path) -> dict[str, Any]:
    """The stored config of a run.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    path = directory / CONFIG
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise errors.RunFolderError(
            f"{directory}: there is no run here ({CONFIG} is missing); name the folder "
            "of a run"
        ) from None
    except ValueError as error:
        raise errors.RunFolderError(
            f"{path}: damaged ({error}); restore it, or begin a new run elsewhere"
        ) from None


class RunFolder:
    """An open run folder; a context manager. Made by `RunFolder.open`."""

    def __init__(self, directory: Path, lock: TextIO) -> None:
        self._directory, self._lock = directory, lock

    @classmethod
    def open(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> "RunFolder":
        """Opens a folder for a run, before anything is trained.

        Args:
            directory: made if absent.
            config: what the run is; stored, and compared at a resume.
            resume: go on with the run that is there.
            overwrite: remove the run that is there first.

        Raises:
            RunFolderError: cannot be written, is in use, holds a run already, holds
                none to resume, or one with another config.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = _lock(directory)
        except OSError as error:
            raise errors.RunFolderError(
                f"{directory}: cannot be used as a run folder ({error.strerror}); "
                "choose another with --out"
            ) from None
        folder = cls(directory, lock)
        try:
            folder._begin(config, resume, overwrite)
        except BaseException:
            lock.close()
            raise
        return folder

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        (self._directory / _LOCK).unlink(missing_ok=True)
        self._lock.close()

    def path(self, name: str) -> Path:
        """The path of a file or folder in the run folder."""
        return self._directory / name

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl; a number that is not finite becomes null."""
        with self._writing(METRICS), self.path(METRICS).open("a") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops the lines past a step (and a torn last one); returns those kept."""
        kept = []
        if self.path(METRICS).exists():
            for line in self.path(METRICS).read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if record["step"] <= step:
                    kept.append(record)
        self._replace(METRICS, "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of JSON, whole or not at all."""
        self._replace(name, json.dumps(_finite(content), indent=1, allow_nan=False))

    def _begin(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        here = self._directory
        held = [name for name in OWN if self.path(name).exists()]
        if resume:
            self._compare(config)
            return
        if held and not overwrite:
            raise errors.RunFolderError(
                f"{here} holds a run already ({', '.join(held)}); go on with it "
                "(--resume), replace it (--overwrite), or choose another folder (--out)"
            )
        for name in held:
            path = self.path(name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.write_json(CONFIG, config)

    def _compare(self, config: Mapping[str, Any]) -> None:
        stored = read_config(self._directory)
        given = json.loads(json.dumps(config))
        changed = [
            f"{name} is {given.get(name)!r}, was {stored.get(name)!r}"
            for name in {**stored, **given}
            if stored.get(name) != given.get(name)
        ]
        if changed:
            raise errors.RunFolderError(
                f"{self._directory}: the run to resume was begun with other options: "
                f"{'; '.join(changed)}. Give the same options, or choose another --out"
            )

    def _replace(self, name: str, text: str) -> None:
        with self._writing(name):
            fresh = self.path(f".{name}.new")
            with fresh.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.path(name))

    def _writing(self, name: str) -> "_Writing":
        return _Writing(self.path(name))


class _Writing:
    """Turns an OSError of a write into a message with the file and free space."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):
            hint = ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                free = shutil.disk_usage(self._path.parent).free
                hint = f"; {free:,} bytes are free, free some and resume"
            raise errors.RunFolderError(
                f"{self._path}: cannot be written ({error.strerror}){hint}"
            ) from None


def _lock(directory: Path) -> TextIO:
    """Takes the folder's lock; the kernel lets go of a dead process's."""
    lock = (directory / _LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise errors.RunFolderError(
            f"{directory} is in use by {holder}; wait for it, stop it, or choose "
            "another folder with --out"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
