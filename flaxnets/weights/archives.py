"""Zip archives, looked at before anything in them is read; nothing is ever unpacked."""

import collections
import contextlib
import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from flaxnets import errors

# deflate cannot compress below about 1/1032 of the size (the format's limit).
_DEFLATE_LIMIT = 1032

_ENCRYPTED = 0x1

# Where in an entry's header the lengths of its name and of what follows it are.
_NAME_LENGTH = 26

_PIECE = 2**20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose directory tells a possible story.

    Raises:
        WeightsError: the directory is missing, or an entry leads out of the archive,
            is a link, is encrypted, comes twice, or declares more than the file holds.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise errors.WeightsError(
            f"{path}: begins like a zip archive but has no readable directory at its "
            f"end ({error}); it is cut off or damaged, get it again"
        ) from None
    with archive:
        times = collections.Counter(archive.namelist())
        for entry in archive.infolist():
            fault = _fault(entry)
            if times[entry.filename] > 1:
                fault = "is there twice"
            if fault:
                raise errors.WeightsError(
                    f"{path}: the archive's {entry.filename!r:.200} {fault}; the file "
                    "is damaged or forged, get it from its publisher"
                )
        # Entries that overlap would be read many times over.
        size = path.stat().st_size
        packed = sum(entry.compress_size for entry in archive.infolist())
        if packed > size:
            raise errors.WeightsError(
                f"{path}: its entries claim {packed:,} bytes of a file of {size:,}; "
                "it is cut off or forged, get it again"
            )
        yield archive


def stored(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    """An entry that is stored as it is: it takes no more memory than the file does.

    Raises:
        WeightsError: there is no such entry, or it is compressed.
    """
    if name not in archive.NameToInfo:
        raise errors.WeightsError(
            f"{path}: {name} is missing from the archive; the file is damaged, get it "
            "again"
        )
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise errors.WeightsError(
            f"{path}: {name} is compressed, expected it stored as PyTorch and Keras "
            "do; get the file as its publisher made it, not packed again"
        )
    return entry


@contextlib.contextmanager
def window(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path
) -> Iterator["Window"]:
    """A stored entry as a file of its own, without a copy of it in memory.

    The entry's checksum is compared first, since nobody else will.

    Raises:
        BadZipFile: the entry is damaged.
    """
    with archive.open(entry) as packed:
        while packed.read(_PIECE):
            pass
    with path.open("rb") as file:
        file.seek(entry.header_offset + _NAME_LENGTH)
        name, extra = struct.unpack("<HH", file.read(4))
        yield Window(file, file.tell() + name + extra, entry.file_size)


class Window(io.RawIOBase):
    """A part of a file as a file of its own.

    Args:
        file: the whole, which stays open.
        start: where the part begins.
        size: its length in bytes.
    """

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = max(0, base[whence] + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._start + self._place)
        piece = self._file.read(count)
        memoryview(buffer)[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


def _fault(entry: zipfile.ZipInfo) -> str | None:
    place = PurePosixPath(entry.filename.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or ":" in entry.filename:
        return "leads out of it"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    most = entry.compress_size
    if entry.compress_type != zipfile.ZIP_STORED:
        most *= _DEFLATE_LIMIT
    if entry.file_size > most:
        return f"declares {entry.file_size:,} bytes but stores {entry.compress_size:,}"
    return None
