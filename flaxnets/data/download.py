"""Files fetched over HTTP: resumed, verified, and visible only when they are right."""

import contextlib
import hashlib
import http.client
import os
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


def fetch(
    url: str,
    path: Path,
    sha256: str,
    size: int,
    *,
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
        timeout: seconds without an answer before an attempt counts as failed.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        DownloadError: the file cannot be had or is not the expected one.
    """
    if path.is_file() and path.stat().st_size == size and _hash(path) == sha256:
        return
    by_hand = f"put the file by hand at {path} (from {url}, SHA-256 {sha256})"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(path.name + ".lock"), "w")
    except OSError as error:
        raise errors.DownloadError(
            f"{path.parent}: cannot be written ({error.strerror}); set FLAXNETS_CACHE "
            "to a folder that can"
        ) from None
    with lock, _locked(lock):
        if path.is_file() and _hash(path) == sha256:
            return
        part = path.with_name(path.name + ".part")
        failure = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                _continue(url, part, size, timeout)
            except urllib.error.HTTPError as error:
                failure = f"status {error.code} {error.reason}"
                if error.code not in _TRANSIENT:
                    break
                continue
            except (OSError, http.client.HTTPException) as error:
                failure = str(getattr(error, "reason", error)) or repr(error)
                continue
            found = _hash(part)
            if found == sha256:
                os.replace(part, path)
                return
            length = part.stat().st_size
            begin = part.read_bytes()[:40]
            part.unlink()
            failure = (
                f"{length:,} bytes with SHA-256 {found} came, expected {size:,} bytes "
                f"with SHA-256 {sha256}"
            )
            if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
                failure = f"an HTML page came instead of the file ({failure})"
        raise errors.DownloadError(
            f"{url} could not be fetched: {failure}; check the network, or {by_hand}"
        )


def _continue(url: str, part: Path, size: int, timeout: float) -> None:
    """Appends to `part` what of the file is still missing."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    headers = {"User-Agent": "flaxnets"}
    if 0 < have < size:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
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


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(file):
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    yield
