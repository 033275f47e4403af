"""Features in files, each under a key of everything that they come from."""

import fcntl
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flaxnets import console, files


def kept(
    folder: Path, key: str, shape: tuple[int, int], pieces: Iterable[np.ndarray]
) -> np.ndarray:
    """Features from a file, which is written first where there is none.

    A file is found by its key, so what comes from other weights, pictures or
    preprocessing is another file. Beside it lies its SHA-256, which is looked at
    before it is used.

    Args:
        folder: made if absent.
        key: a SHA-256 of everything that the features depend on.
        shape: [N, D].
        pieces: f32[n, D], one after the other; looked at only where there is no file.

    Returns:
        f32[N, D], mapped from the file and read-only.

    Raises:
        RunFolderError: the file cannot be written.
    """
    path = folder / f"{key[:32]}.npy"
    record = path.with_suffix(".json")
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    # Of two runs that want the same features, one computes them, and one waits.
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and record.exists():
            if (found := _mapped(path, record, shape)) is not None:
                return found
            console.say(f"{path}: is damaged; its features are computed again")
        with files.replacing(path) as fresh, fresh.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            digest = hashlib.sha256()
            # Written and not mapped, since a full disk ends a process that maps.
            for piece in pieces:
                content = np.ascontiguousarray(piece, "<f4").data
                digest.update(content)
                file.write(content)
        described = {"key": key, "shape": shape, "sha256": digest.hexdigest()}
        with files.replacing(record) as fresh:
            fresh.write_text(json.dumps(described, indent=1))
        return np.load(path, mmap_mode="r")


def _mapped(path: Path, record: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The features in a file; None where they are not what its record says."""
    try:
        expected = json.loads(record.read_text())["sha256"]
        found = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    if found.shape != shape or found.dtype != np.float32:
        return None
    digest = hashlib.sha256()
    for start in range(0, len(found), 1024):
        digest.update(np.ascontiguousarray(found[start : start + 1024]).data)
    return found if digest.hexdigest() == expected else None
