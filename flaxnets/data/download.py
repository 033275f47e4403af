"""Files fetched over HTTP: resumed, verified, and visible only when they are right."""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from flaxnets import console, errors

ATTEMPTS = 4
TIMEOUT_SECONDS = 20.0
_BLOCK = 1 << 20

# Answers that may be other ones a moment later.
_TRANSIENT = {408, 429, 500, 502, 503, 504}

# Faults of the disk, which no further attempt mends.
_DISK = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}

# What every request says of itself.
HEADERS = {"User-Agent": "flaxnets"}

_NAMES = {"sha256": "SHA-256", "md5": "MD5"}

# Told how many bytes there are, and how many there will be, if that is known.
Report = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a file must be.

    Attributes:
        digest: hexadecimal; its beginning where no more is published, and "" where
            nothing is.
        size: in bytes, where it is published.
        algorithm: what the digest is of.
    """

    digest: str
    size: int | None = None
    algorithm: Literal["sha256", "md5"] = "sha256"

    def holds(self, path: Path) -> bool:
        """Whether a file can be read and is this one."""
        try:
            if self.size not in (None, path.stat().st_size):
                return False
            return self.matches(path)
        except OSError:
            return False

    def matches(self, path: Path) -> bool:
        """Whether a file's digest is this one."""
        return digest(path, self.algorithm).startswith(self.digest)

    def __str__(self) -> str:
        if not self.digest:
            return f"{self.size:,} bytes"
        size = f"{self.size:,} bytes with " if self.size is not None else ""
        begin = " beginning" if len(self.digest) < 32 else ""
        return f"{size}{_NAMES[self.algorithm]}{begin} {self.digest}"


def digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's digest, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def cache_folder() -> Path:
    """FLAXNETS_CACHE, or flaxnets in the user's cache folder.

    Raises:
        DownloadError: there is no home folder to have it in.
    """
    given = os.environ.get("FLAXNETS_CACHE")
    if given:
        return Path(given)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise errors.DownloadError(
            "there is no home folder to keep downloads in; set FLAXNETS_CACHE to a "
            "folder that can be written"
        ) from None
    return Path(base) / "flaxnets"


def check_reachable(url: str, seconds: float) -> None:
    """Asks for a file's headers, and waits for an answer of any kind.

    The limit holds for all of it, looking up the server's name and trying each of its
    addresses included, which no timeout of a connection covers.

    Raises:
        DownloadError: nothing answered within so many seconds.
    """
    failures = [f"no answer within {seconds:g} seconds"]

    def ask() -> None:
        request = urllib.request.Request(url, headers=HEADERS, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, http.client.HTTPException) as error:
            failures.append(_reason(error))
            return
        failures.clear()

    # Nobody waits for this thread at the end of the program.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if failures:
        raise errors.DownloadError(
            f"{url} cannot be reached: {failures[-1]}; check the network"
        )


def fetch(
    url: str,
    path: Path,
    expected: Expected,
    *,
    attempts: int = ATTEMPTS,
    timeout: float = TIMEOUT_SECONDS,
    pause: float = 1.0,
    show: bool = False,
) -> None:
    """Makes `path` hold the file at `url`; does nothing where it already does.

    The bytes are gathered beside `path`, in a file that a later call continues, and
    take their name only once their digest is right. Several processes may fetch the
    same file: one downloads, the others wait for it.

    Args:
        url: where the file is.
        path: where it shall be.
        expected: what it must be.
        attempts: how often to try.
        timeout: seconds without an answer before an attempt counts as failed.
        pause: seconds before the second attempt, doubled before each further one.
        show: progress on standard error: a bar on a terminal, else a line now and
            then.

    Raises:
        DownloadError: the file cannot be had or is not the expected one.
    """
    if expected.holds(path):
        return
    failure = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(path.name + ".lock"), "w") as lock, _locked(lock):
            if expected.holds(path):
                return
            with _shown(path.name) if show else contextlib.nullcontext(_ignore) as told:
                failure = _fetched(url, path, expected, attempts, timeout, pause, told)
    except OSError as error:
        raise errors.DownloadError(
            f"{path.parent}: cannot be written ({error.strerror}); make room there, or "
            "set FLAXNETS_CACHE to a folder that can"
        ) from None
    if failure:
        raise errors.DownloadError(
            f"{url} could not be fetched: {failure}; check the network, or put the "
            f"file by hand at {path} (from {url}, {expected})"
        )


def _fetched(
    url: str,
    path: Path,
    expected: Expected,
    attempts: int,
    timeout: float,
    pause: float,
    report: Report,
) -> str:
    """Tries to make `path` hold the file; returns why it does not, or nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    failure = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            continued = _continue(url, part, expected, timeout, report)
        except urllib.error.HTTPError as error:
            error.close()
            failure = f"status {error.code} {error.reason}"
            if error.code not in _TRANSIENT:
                break
            continue
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            failure = _reason(error)
            continue
        if expected.matches(part):
            os.replace(part, path)
            return ""
        found = Expected(
            digest(part, expected.algorithm), part.stat().st_size, expected.algorithm
        )
        with part.open("rb") as file:
            begin = file.read(40)
        part.unlink()
        failure = f"{found} came, expected {expected}"
        if _is_page(begin):
            failure = f"an HTML page came instead of the file ({failure})"
        if not continued:
            # All of it came at once, and is another file.
            break
    return failure


def _continue(
    url: str, part: Path, expected: Expected, timeout: float, report: Report
) -> bool:
    """Appends to `part` what of the file is still missing.

    Returns:
        Whether some of it was there before.

    Raises:
        OSError, HTTPException: not all of the file came.
    """
    size = expected.size
    have = part.stat().st_size if part.exists() else 0
    # A whole part of unknown size can be told by its digest alone.
    if have and (have == size or size is None and expected.matches(part)):
        return True
    request = urllib.request.Request(url, headers=HEADERS)
    if 0 < have < (size or have + 1):
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        # A part that is as long as the file, or longer, and is not it.
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            error.close()
            raise http.client.HTTPException("the file has changed") from None
        raise
    with answer:
        # 206 continues where the part ends; any other success begins anew.
        going_on = answer.status == http.client.PARTIAL_CONTENT
        announced = answer.headers.get("Content-Length", "")
        if announced.isascii() and announced.isdecimal():
            whole = int(announced) + (have if going_on else 0)
            if size not in (None, whole):
                # Nothing of another file is kept to be continued.
                kind = "an HTML page" if _is_page(answer.read(40)) else "another file"
                raise http.client.HTTPException(
                    f"{kind} of {whole:,} bytes came instead of the file of {size:,}"
                )
            size = whole
        with part.open("ab" if going_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                report(file.tell(), size)
                if size is not None and file.tell() > size:
                    break
    length = part.stat().st_size
    if size is not None and length < size:
        raise http.client.HTTPException(f"the answer ended at byte {length} of {size}")
    return going_on


def _is_page(begin: bytes) -> bool:
    """Whether something that begins like this is an HTML page."""
    return begin.lstrip().lower().startswith((b"<!doctype", b"<html"))


def _ignore(have: int, size: int | None) -> None:
    pass


@contextlib.contextmanager
def _shown(name: str) -> Iterator[Report]:
    """Shows a download on standard error: a bar on a terminal, else lines."""
    stream = console.Lenient(sys.stderr)
    if console.live(stream):
        from rich import progress
        from rich.console import Console

        columns: list[Any] = [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(compact=True),
        ]
        where = Console(file=stream)  # type: ignore[arg-type]
        with progress.Progress(*columns, console=where, transient=True) as bar:
            task = bar.add_task(name, total=None)
            yield lambda have, size: bar.update(task, completed=have, total=size)
        return
    said = time.monotonic()

    def report(have: int, size: int | None) -> None:
        nonlocal said
        if time.monotonic() - said < console.PLAIN_SECONDS:
            return
        said = time.monotonic()
        of = f" of {size / 1e6:,.0f}" if size else ""
        console.say_error(f"{name}: {have / 1e6:,.0f}{of} MB")

    yield report


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or repr(error)


@contextlib.contextmanager
def _locked(file):
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    yield
