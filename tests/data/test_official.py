"""Published data sets from a server, and from one that does not answer."""

import functools
import hashlib
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxnets import data, errors
from flaxnets.data import download, idx, official


@pytest.fixture
def published(monkeypatch, tmp_path: Path, write_idx) -> Iterator[list[str]]:
    """A server with MNIST and Fashion-MNIST of 12 examples; what it was asked."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(f"{self.command} {self.path}")

    root = tmp_path / "server"
    handler = functools.partial(Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    for name in ("mnist", "fashion_mnist"):
        folder = write_idx(root / name, suffix=".gz")
        contents = [(folder / f"{file}.gz").read_bytes() for file in idx.FILES]
        source = official.SOURCES[name]._replace(
            base=f"http://127.0.0.1:{server.server_port}/{name}/",
            files=tuple(
                download.Expected(hashlib.sha256(content).hexdigest(), len(content))
                for content in contents
            ),
        )
        monkeypatch.setitem(official.SOURCES, name, source)
    monkeypatch.delenv("FLAXNETS_DATA", raising=False)
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_is_downloaded_once_and_then_read_from_the_cache(
    published, monkeypatch, tmp_path, capsys
) -> None:
    first = data.load("fashion_mnist")
    assert published == [f"GET /fashion_mnist/{file}.gz" for file in idx.FILES]
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("downloading fashion_mnist (")
    assert said.err.endswith(f" to {tmp_path}/cache/fashion_mnist\n")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    second = data.load("fashion_mnist")
    assert capsys.readouterr().err == ""
    assert first.class_names == second.class_names
    assert first.class_names[0] == "T-shirt/top" and len(first.class_names) == 10
    for one, other in zip(first[1:3], second[1:3], strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert first.train.images.shape == (12, 5, 5, 1)
    assert "SHA-256 verified" in first.source


def test_only_what_is_missing_is_downloaded(published, tmp_path: Path) -> None:
    data.load("mnist")
    published.clear()
    damaged = tmp_path / "cache/mnist" / f"{idx.FILES[1]}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    data.load("mnist")
    assert published == [f"GET /mnist/{idx.FILES[1]}.gz"]


def test_auto_downloads_where_the_server_answers(published) -> None:
    assert data.load("auto").name == "mnist"
    gets = [f"GET /mnist/{file}.gz" for file in idx.FILES]
    assert published == [f"HEAD /mnist/{idx.FILES[0]}.gz", *gets]


def test_a_closed_standard_error_stops_no_download(published, monkeypatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    assert data.load("mnist").name == "mnist"


@pytest.fixture
def silent(monkeypatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A server that takes connections and says nothing; MNIST is expected there."""
    monkeypatch.delenv("FLAXNETS_DATA", raising=False)
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(official, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = f"http://127.0.0.1:{server.getsockname()[1]}/"
        source = official.SOURCES["mnist"]._replace(base=base)
        monkeypatch.setitem(official.SOURCES, "mnist", source)
        yield server


def connections(server: socket.socket) -> int:
    """How many connections to a server wait to be taken."""
    server.setblocking(False)
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_auto_asks_a_silent_server_once_and_takes_the_digits(
    silent, monkeypatch, capsys
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("flaxnets.data.download.time.sleep", pauses.append)
    dataset = data.load("auto")
    assert dataset.name == "digits" and "cannot be reached" in dataset.source
    assert connections(silent) == 1 and pauses == []
    assert capsys.readouterr().err.startswith("downloading mnist (11.6 MB, http://")


def test_a_name_that_is_looked_up_for_ever_is_given_up(silent, monkeypatch) -> None:
    done = threading.Event()

    def never(*_: object, **__: object) -> None:
        done.wait(60)
        raise OSError("no such name")

    monkeypatch.setattr("socket.getaddrinfo", never)
    with pytest.raises(errors.DownloadError, match="no answer within 0.1 seconds"):
        download.check_reachable(official.SOURCES["mnist"].base, 0.1)
    done.set()
    assert connections(silent) == 0


def test_any_answer_counts_as_reachable(published) -> None:
    download.check_reachable(official.SOURCES["mnist"].base + "absent", 5.0)
    assert any(line.startswith("HEAD /mnist/absent") for line in published)


def test_the_lectures_photographs_are_kept_with_their_digest(
    published, monkeypatch, tmp_path: Path, capsys
) -> None:
    content = b"not really a zip" * 100
    server = tmp_path / "server" / "cats_and_dogs_filtered.zip"
    server.write_bytes(content)
    base = official.SOURCES["mnist"].base.removesuffix("mnist/")
    monkeypatch.setattr(official, "_CATS_AND_DOGS", base + server.name)
    monkeypatch.setattr(official, "_CATS_AND_DOGS_BYTES", len(content))
    path = data.cats_and_dogs()
    assert path.read_bytes() == content
    assert f"({len(content):,} bytes)" in capsys.readouterr().out
    record = path.with_suffix(".sha256").read_text().strip()
    assert record == hashlib.sha256(content).hexdigest()
    # From now on only these bytes will do: others of the same size are fetched anew.
    path.write_bytes(content[::-1])
    assert data.cats_and_dogs().read_bytes() == content
    # And a server that hands out others is not believed.
    path.unlink()
    server.write_bytes(content[::-1])
    with pytest.raises(errors.DownloadError, match=f"by hand at {path}"):
        data.cats_and_dogs()


def test_the_lectures_photographs_are_looked_for_first(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FLAXNETS_DATA", str(tmp_path))
    (tmp_path / "cats_and_dogs_small.zip").touch()
    assert data.cats_and_dogs() == tmp_path / "cats_and_dogs_small.zip"
    (tmp_path / "cats_and_dogs_filtered.zip").touch()
    assert data.cats_and_dogs() == tmp_path / "cats_and_dogs_filtered.zip"
