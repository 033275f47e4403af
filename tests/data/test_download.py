"""Downloads from a server that does everything that servers do."""

import hashlib
import http.server
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flaxnets import errors
from flaxnets.data import download
from tests.servers import redirect, send, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
EXPECTED = download.Expected(SHA256, len(CONTENT))


def whole(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
    send(handler, CONTENT)


def fetch(url: str, path: Path, timeout: float = 5.0) -> None:
    download.fetch(url, path, EXPECTED, timeout=timeout, pause=0.01)


def test_fetches_once_and_then_uses_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.gz"
    with serving(whole) as (url, ranges):
        fetch(url, path)
        fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges == [None]
    assert not list(path.parent.glob("*.part"))


def test_a_connection_that_breaks_is_resumed_where_it_ended(tmp_path: Path) -> None:
    def answer(handler, request: int) -> None:
        if request == 1:
            send(handler, CONTENT[:100_000], length=len(CONTENT))
            return
        begin = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        send(handler, CONTENT[begin:], status=206)

    with serving(answer) as (url, ranges):
        fetch(url, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert ranges == [None, "bytes=100000-"]


def test_a_server_without_ranges_is_asked_for_everything_again(tmp_path: Path) -> None:
    def answer(handler, request: int) -> None:
        cut = 50_000 if request == 1 else len(CONTENT)
        send(handler, CONTENT[:cut], length=len(CONTENT))

    with serving(answer) as (url, _):
        fetch(url, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_unavailable_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    def answer(handler, request: int) -> None:
        send(handler, CONTENT if request == 3 else b"", 200 if request == 3 else 503)

    with serving(answer) as (url, ranges):
        fetch(url, tmp_path / "file.gz")
    assert len(ranges) == 3


@pytest.mark.parametrize(
    ("body", "status", "message", "requests"),
    [
        (b"gone", 404, "status 404", 1),
        (b"no", 403, "status 403", 1),
        (b"busy", 503, "status 503", download.ATTEMPTS),
        (b"<!DOCTYPE html><p>Sign in", 200, "HTML page of 25 b", download.ATTEMPTS),
        (CONTENT + b"x", 200, "another file of 300,001 bytes", download.ATTEMPTS),
        # What came whole and is another file would only come again.
        (CONTENT[::-1], 200, f"expected .*{SHA256}", 1),
        (b"<html>" + CONTENT[6:], 200, "HTML page", 1),
    ],
)
def test_a_wrong_answer_is_named_and_leaves_no_file(
    tmp_path, body, status, message, requests
) -> None:
    path = tmp_path / "file.gz"
    with (
        serving(lambda handler, _: send(handler, body, status)) as (url, ranges),
        pytest.raises(errors.DownloadError, match=f"{url}.*{message}.*{path}"),
    ):
        fetch(url, path)
    assert len(ranges) == requests
    assert not path.exists()
    assert not path.with_name("file.gz.part").exists()


def test_a_redirect_loop_ends(tmp_path: Path) -> None:
    def answer(handler, _: int) -> None:
        redirect(handler, "/file.gz")

    with (
        serving(answer) as (url, ranges),
        pytest.raises(errors.DownloadError, match="status 302"),
    ):
        fetch(url, tmp_path / "file.gz")
    assert len(ranges) < 50


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    done = threading.Event()
    with (
        serving(lambda handler, _: done.wait(10)) as (url, ranges),
        pytest.raises(errors.DownloadError, match="timed out"),
    ):
        try:
            fetch(url, tmp_path / "file.gz", timeout=0.1)
        finally:
            done.set()
    assert len(ranges) == download.ATTEMPTS


def test_a_damaged_cached_file_is_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(b"x" * len(CONTENT))
    with serving(whole) as (url, _):
        fetch(url, path)
    assert path.read_bytes() == CONTENT


def test_two_processes_share_one_download(tmp_path: Path) -> None:
    def slowly(handler, _: int) -> None:
        time.sleep(0.3)
        send(handler, CONTENT)

    context = multiprocessing.get_context("spawn")
    with serving(slowly) as (url, ranges):
        processes = [
            context.Process(target=fetch, args=(url, tmp_path / "file.gz"))
            for _ in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert ranges == [None]
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_an_unwritable_cache_names_the_variable() -> None:
    with pytest.raises(errors.DownloadError, match="set FLAXNETS_CACHE"):
        download.fetch("http://127.0.0.1:9/x", Path("/proc/none/x"), EXPECTED)


def test_a_full_disk_is_named_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").symlink_to("/dev/full")
    with (
        serving(whole) as (url, ranges),
        pytest.raises(errors.DownloadError, match=f"{tmp_path}: .*No space left"),
    ):
        fetch(url, tmp_path / "file.gz")
    assert len(ranges) == 1


def test_as_many_attempts_as_asked_for(tmp_path: Path) -> None:
    with (
        serving(lambda handler, _: send(handler, b"", 503)) as (url, ranges),
        pytest.raises(errors.DownloadError, match="status 503"),
    ):
        download.fetch(url, tmp_path / "file.gz", EXPECTED, attempts=1)
    assert len(ranges) == 1
