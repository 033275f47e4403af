"""The folder that a run leaves: config, metrics, results; locked while in use."""

import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import flaxnets
from flaxnets import console, errors, files

CONFIG = "config.json"
METRICS = "metrics.jsonl"
_LOCK = "lock"
_VERSION = "flaxnets"

# What a run may write; `overwrite` removes these and nothing else.
OWN = (
    CONFIG,
    METRICS,
    "result.json",
    "report.html",
    "figures",
    "pictures",
    "checkpoints",
    "events",
    "wandb",
)


def read_config(directory: Path) -> dict[str, Any]:
    """The stored config of a run, with the version that began it as `flaxnets`.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    path = directory / CONFIG
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise errors.RunFolderError(
            f"{directory}: there is no run here ({CONFIG} is missing); name the folder "
            "of a run"
        ) from None
    except (ValueError, TypeError) as error:
        raise errors.RunFolderError(
            f"{path}: damaged ({error}); restore it, or begin a new run elsewhere"
        ) from None


class RunFolder:
    """An open run folder; a context manager. Made by `RunFolder.open`.

    Attributes:
        resumed: whether it goes on with a run; False if one begins.
    """

    def __init__(self, directory: Path, lock: BinaryIO) -> None:
        self._directory, self._lock = directory, lock
        self.resumed = False
        self._unwritten = b""

    @classmethod
    def open(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> "RunFolder":
        """Opens a folder for a run, before anything is trained.

        A folder where nothing has been trained holds no run, even if a config is
        there.

        Args:
            directory: made if absent.
            config: what the run is; stored, and compared at a resume.
            resume: go on with the run that is there; without one, begin it.
            overwrite: remove the run that is there first; not that of another study.
            defaults: values that options had before they existed, for resuming runs
                of an older flaxnets.

        Raises:
            RunFolderError: cannot be written, is in use, holds a run already, or one
                with another config.
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
            folder._begin(config, resume, overwrite, defaults)
        except BaseException:
            lock.close()
            raise
        return folder

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._lock.truncate(0)
        self._lock.close()
        if isinstance(error, KeyboardInterrupt) or (
            isinstance(error, SystemExit) and error.code
        ):
            console.say(
                f"{self._directory}: what is finished is kept; go on with the same "
                "options and --resume"
            )

    def path(self, name: str) -> Path:
        """The path of a file or folder in the run folder."""
        return self._directory / name

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl; a number that is not finite becomes null.

        Raises:
            RunFolderError: it cannot be written; the next call writes it too.
        """
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        self._unwritten += line.encode()
        path = self.path(METRICS)
        with files.writing(path), path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            written = 0
            try:
                while written < len(self._unwritten):
                    written += file.write(self._unwritten[written:])
            except OSError:
                # A part of a line would spoil the next one.
                file.truncate(end)
                raise
        self._unwritten = b""

    def truncate_metrics(self, step: int | None = None) -> list[dict[str, Any]]:
        """Drops the lines past a step (and a torn last one); returns those kept.

        Args:
            step: None to keep all whole lines.
        """
        kept = []
        if self.path(METRICS).exists():
            for line in self.path(METRICS).read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    reached = record["step"]
                except (ValueError, KeyError, TypeError):
                    break
                if step is None or reached <= step:
                    kept.append(record)
        self._replace(METRICS, "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of JSON, whole or not at all."""
        self._replace(name, json.dumps(_finite(content), indent=1, allow_nan=False))

    def _begin(
        self,
        config: Mapping[str, Any],
        resume: bool,
        overwrite: bool,
        defaults: Mapping[str, Any],
    ) -> None:
        here = self._directory
        held = [name for name in OWN if name != CONFIG and _holds(self.path(name))]
        if held and resume:
            self._compare(config, defaults)
            self.resumed = True
            return
        if held and self.path(CONFIG).exists():
            self._same_study(config)
        if held and not overwrite:
            raise errors.RunFolderError(
                f"{here} holds a run already ({', '.join(held)}); go on with it "
                "(--resume), replace it (--overwrite), or choose another folder (--out)"
            )
        if held and not self.path(CONFIG).exists():
            raise errors.RunFolderError(
                f"{here} holds {', '.join(held)}, but no {CONFIG}, so it is not a run "
                "to be replaced; choose another folder with --out"
            )
        with files.writing(here):
            for path in map(self.path, OWN):
                whole = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if whole else path.unlink(missing_ok=True)
        self.write_json(CONFIG, {_VERSION: flaxnets.__version__, **config})

    def _same_study(self, config: Mapping[str, Any]) -> None:
        """Raises RunFolderError where the run is one that another study reads."""
        stored = read_config(self._directory).get("study")
        if stored != config.get("study"):
            raise errors.RunFolderError(
                f"{self._directory} holds a run of another study, {stored}, which is "
                "neither gone on with nor replaced; choose another folder with --out"
            )

    def _compare(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        stored = read_config(self._directory)
        version = stored.pop(_VERSION, None)
        begun_by = f"flaxnets {version}" if version else "an older flaxnets"
        given = json.loads(json.dumps(config))
        stored = {**json.loads(json.dumps(dict(defaults))), **stored}
        if unknown := [name for name in given if name not in stored]:
            raise errors.RunFolderError(
                f"{self._directory}: the run to resume was begun by {begun_by}, which "
                f"had no option {', '.join(unknown)}; resume it with that version, or "
                "choose another --out"
            )
        changed = [
            f"{name} is {given.get(name)!r}, was {value!r}"
            for name, value in stored.items()
            if given.get(name) != value
        ]
        if changed:
            raise errors.RunFolderError(
                f"{self._directory}: the run to resume was begun with other options "
                f"(by {begun_by}): {'; '.join(changed)}. Give the same options, or "
                "choose another --out"
            )

    def _replace(self, name: str, text: str) -> None:
        with files.replacing(self.path(name)) as fresh:
            fresh.write_text(text)


def _holds(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0


def _lock(directory: Path) -> BinaryIO:
    """Takes the folder's lock; the kernel lets go of a dead process's.

    The file stays: were it removed, two processes could each lock another file of its
    name.
    """
    lock = (directory / _LOCK).open("a+b", buffering=0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().decode(errors="replace").strip() or "another process"
        lock.close()
        raise errors.RunFolderError(
            f"{directory} is in use by {holder}; wait for it, stop it, or choose "
            "another folder with --out"
        ) from None
    except OSError:
        lock.close()
        raise
    return lock


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
