"""Files written whole or not at all, with errors that say why."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flaxnets import errors

# What the system says where there is no room: disk, quota, limit of a file's size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of a write into a RunFolderError with the file and free space.

    Args:
        path: what is written.
    """
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in NO_ROOM:
            hint = f"; {free_bytes(path):,} bytes are free, free some and try again"
        raise errors.RunFolderError(
            f"{path}: cannot be written ({error.strerror or error}){hint}"
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; what was written there then takes the place of `path`.

    Args:
        path: the file to make or replace; as it was if anything fails.

    Raises:
        RunFolderError: the file cannot be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            yield fresh
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()


def free_bytes(path: Path) -> int:
    """Bytes free where a file or folder is, or would be."""
    return shutil.disk_usage(_existing(path)).free


def has_room(path: Path, size: int) -> bool:
    """Whether so many bytes are free there, as far as the file system tells."""
    usage = shutil.disk_usage(_existing(path))
    # Some that are mounted from elsewhere say that they have no bytes at all.
    return usage.total == 0 or usage.free >= size


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())
