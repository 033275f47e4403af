"""Files fetched over HTTP: resumed, verified, and visible only when they are right."""

import contextlib
import errno
import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from flaxnets import errors

ATTEMPTS = 4
TIMEOUT_SECONDS = 20.0
_BLOCK = 1 << 20

# Answers that may be other ones a moment later.
_TRANSIENT = {408, 429, 500, 502, 503, 504}

# Faults of the disk, which no further attempt mends.
_DISK = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}

_HEADERS = {"User-Agent": "flaxnets"}


def check_reachable(url: str, seconds: float) -> None:
    """Asks for a file's headers, and waits for an answer of any kind.

    The limit holds for all of it, looking up the server's name and trying each of its
    addresses included, which no timeout of a connection covers.

    Raises:
        DownloadError: nothing answered within so many seconds.
    """
    failures = [f"no answer within {seconds:g} seconds"]

    def ask() -> None:
        request = urllib.request.Request(url, headers=_HEADERS, method="HEAD")
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
    sha256: str,
    size: int,
    *,
    attempts: int = ATTEMPTS,
    timeout: float = TIMEOUT_SECONDS,
    pause: float = 1.0,
) -> None:
    """Makes `path` hold the file at `url`; does nothing where it already does.

    The bytes are gathered beside `path`, in a file that a later call continues, and
    take their name only once their SHA-256 is right. Several processes may fetch the
    same file: one downloads, the others wait for it.

    Args:
        url: where the file is.
        path: where it shall be.
        sha256: its hash, hexadecimal.
        size: its size in bytes.
        attempts: how often to try.
        timeout: seconds without an answer before an attempt counts as failed.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        DownloadError: the file cannot be had or is not the expected one.
    """
    if holds(path, sha256, size):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(path.name + ".lock"), "w") as lock, _locked(lock):
            if holds(path, sha256, size):
                return
            failure = _fetched(url, path, sha256, size, attempts, timeout, pause)
    except OSError as error:
        raise errors.DownloadError(
            f"{path.parent}: cannot be written ({error.strerror}); make room there, or "
            "set FLAXNETS_CACHE to a folder that can"
        ) from None
    if failure:
        raise errors.DownloadError(
            f"{url} could not be fetched: {failure}; check the network, or put the "
            f"file by hand at {path} (from {url}, SHA-256 {sha256})"
        )


def holds(path: Path, sha256: str, size: int) -> bool:
    """Whether a file can be read and has this SHA-256 and size in bytes."""
    try:
        return path.stat().st_size == size and _hash(path) == sha256
    except OSError:
        return False


def _fetched(
    url: str,
    path: Path,
    sha256: str,
    size: int,
    attempts: int,
    timeout: float,
    pause: float,
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
            _continue(url, part, size, timeout)
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
        found = _hash(part)
        if found == sha256:
            os.replace(part, path)
            return ""
        length = part.stat().st_size
        begin = part.read_bytes()[:40]
        part.unlink()
        failure = (
            f"{length:,} bytes with SHA-256 {found} came, expected {size:,} bytes "
            f"with SHA-256 {sha256}"
        )
        if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
            failure = f"an HTML page came instead of the file ({failure})"
    return failure


def _continue(url: str, part: Path, size: int, timeout: float) -> None:
    """Appends to `part` what of the file is still missing."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    request = urllib.request.Request(url, headers=_HEADERS)
    if 0 < have < size:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        # 206 continues where the part ends; any other success begins anew.
        going_on = answer.status == 206
        with part.open("ab" if going_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                if file.tell() > size:
                    break
    length = part.stat().st_size
    if length < size:
        raise http.client.HTTPException(f"the answer ended at byte {length} of {size}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or repr(error)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(file):
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    yield
