"""Published files of weights: fetched once, verified each time, and kept.

Beside a file lies a record of its whole SHA-256 and size, which the file is checked
against from then on: more than the beginning of a SHA-256 that torchvision publishes,
and all there is where nothing is published.
"""

import contextlib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from flaxnets import console, errors
from flaxnets.data import download
from flaxnets.data.download import Expected
from flaxnets.weights import catalogue
from flaxnets.weights.catalogue import Entry

_REDIRECTS = 5
_SHA256 = re.compile("[0-9a-f]{64}")


class Described(NamedTuple):
    """What the Hub says about a file.

    Attributes:
        url: the file at the commit that the revision stands for.
        expected: its SHA-256 and size.
    """

    url: str
    expected: Expected


def place(entry: Entry) -> Path:
    """Where an entry's file is in the cache, or will be."""
    return download.cache_folder() / "weights" / entry.tag / entry.file


def fetch(entry: Entry, *, timeout: float = download.TIMEOUT_SECONDS) -> Path:
    """An entry's file, after downloading it where the cache does not have it.

    Args:
        entry: of the catalogue.
        timeout: seconds without an answer before an attempt counts as failed.

    Raises:
        DownloadError: it cannot be had, or is not the published one; the message names
            its URL and where to put it by hand.
    """
    path, url, published = place(entry), entry.url, entry.expected
    record = recorded(path, published)
    if path.exists():
        if record and record.holds(path):
            return path
        if published is None and record:
            raise errors.DownloadError(
                f"{path}: is no longer the file of {record} that {_record(path)} is "
                "about; delete the file to download it again, or that record to keep "
                "the file as it is"
            )
        if published is None:
            console.say_error(
                f"{path}: no digest of it is published; what it is now is kept in "
                f"{_record(path).name} and checked from now on"
            )
        if published is None or not record and published.holds(path):
            _keep(path, published)
            return path
    expected = record or published
    if url is None:
        found = "is not it" if path.exists() else "is not there"
        raise errors.DownloadError(
            f"{path}: {found}, and nobody offers this file for download as it is; put "
            f"it there by hand ({expected})"
        )
    if published is None or expected is None:
        try:
            url, expected = described(url, timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise errors.DownloadError(
                f"{url} could not be asked for its SHA-256: {error}; check the "
                f"network, or put the file by hand at {path} (from {url})"
            ) from None
    size = f"{entry.megabytes:,.0f} MB, " if entry.megabytes else ""
    console.say_error(
        f"downloading {entry} ({size}{entry.licence}) from {url} to {path}"
    )
    download.fetch(url, path, expected, timeout=timeout, show=True)
    _keep(path, published)
    return path


def identified(path: Path) -> Entry | None:
    """The entry of the catalogue that a file is, by its size and digest."""
    size, digests = path.stat().st_size, {}
    for entry in catalogue.entries():
        expected = entry.expected
        if expected is None or expected.size not in (None, size):
            continue
        # Sizes that are published in round numbers spare most digests.
        if entry.megabytes and abs(size / 1e6 / entry.megabytes - 1) > 1e-3:
            continue
        kind = expected.algorithm
        if kind not in digests:
            digests[kind] = download.digest(path, kind)
        if digests[kind].startswith(expected.digest):
            return entry
    return None


def recorded(path: Path, published: Expected | None) -> Expected | None:
    """What a file in the cache was when it was fetched; None where that is unknown.

    Args:
        path: the file.
        published: what the catalogue says of it; a record made when it said something
            else is of another file.
    """
    try:
        record = json.loads(_record(path).read_text())
        known = published.digest if published else None
        if record["published"] != known or not _SHA256.fullmatch(record["sha256"]):
            return None
        return Expected(record["sha256"], int(record["size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def described(url: str, timeout: float = download.TIMEOUT_SECONDS) -> Described:
    """Asks the Hub what a file is: the headers of its answer tell, before it redirects.

    As huggingface_hub does (get_hf_file_metadata), and pinned to the commit that
    answered.

    Raises:
        OSError, HTTPException: there is no answer.
        ValueError: the answer does not say.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(_REDIRECTS):
        request = urllib.request.Request(url, headers=download.HEADERS, method="HEAD")
        try:
            with opener.open(request, timeout=timeout) as answer:
                headers, status = answer.headers, answer.status
        except urllib.error.HTTPError as error:
            error.close()
            headers, status = error.headers, error.code
            if not 300 <= status < 400:
                raise OSError(f"status {status} {error.reason}") from None
        digest = headers.get("X-Linked-Etag", "").strip('"')
        if _SHA256.fullmatch(digest):
            size, commit = headers.get("X-Linked-Size"), headers.get("X-Repo-Commit")
            if commit:
                url = url.replace("/resolve/main/", f"/resolve/{commit}/")
            return Described(url, Expected(digest, int(size) if size else None))
        # A repository that was renamed redirects within the Hub.
        target = headers.get("Location", "")
        if not target.startswith("/") or urllib.parse.urlsplit(target).netloc:
            break
        url = urllib.parse.urljoin(url, target)
    raise ValueError(f"the answer (status {status}) names no SHA-256")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Leaves a redirect as the answer."""


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _keep(path: Path, published: Expected | None) -> None:
    """Records what a file is; a cache that cannot be written does without.

    Raises:
        DownloadError: the file cannot be read.
    """
    try:
        record = {
            "published": published.digest if published else None,
            "sha256": download.digest(path),
            "size": path.stat().st_size,
        }
    except OSError as error:
        raise errors.DownloadError(
            f"{path}: cannot be read ({error.strerror}); it must be a file that can"
        ) from None
    partial = path.with_name(path.name + ".json.partial")
    with contextlib.suppress(OSError):
        partial.write_text(json.dumps(record) + "\n")
        partial.replace(_record(path))
