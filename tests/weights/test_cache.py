"""Published weights are fetched once, verified each time, and never half there."""

import dataclasses
import hashlib
import http.server
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from flaxnets import errors, weights
from flaxnets.data import download
from flaxnets.data.download import Expected
from flaxnets.weights import cache, creation
from flaxnets.weights.catalogue import Entry
from tests.servers import redirect, send, serving

CONTENT = np.random.default_rng(1).bytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FETCH = download.fetch
OFFLINE = "http://127.0.0.1:9/file.gz"


def impatient(monkeypatch, attempts: int) -> None:
    """Lets downloads try so many times, with no time in between."""
    monkeypatch.setattr(
        download,
        "fetch",
        lambda *a, **k: FETCH(*a, **{**k, "attempts": attempts, "pause": 0.01}),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, and servers that are given up at once."""
    monkeypatch.setenv("FLAXNETS_CACHE", str(tmp_path / "cache"))
    impatient(monkeypatch, attempts=1)
    return tmp_path / "cache" / "weights" / "torchvision"


def entry(url: str | None, expected: Expected | None) -> Entry:
    known = weights.find("squeezenet1_1")
    return dataclasses.replace(
        known, url=url, file="s-00000000.pth", expected=expected, megabytes=None
    )


PUBLISHED = [
    Expected(SHA256, len(CONTENT)),
    Expected(SHA256[:8]),
    Expected(hashlib.md5(CONTENT).hexdigest(), len(CONTENT), "md5"),
]


def whole(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
    send(handler, CONTENT)


@pytest.mark.parametrize("expected", PUBLISHED, ids=["sha256", "beginning", "md5"])
def test_fetches_once_and_records_the_whole_digest(expected, folder, capsys) -> None:
    with serving(whole) as (url, ranges):
        path = cache.fetch(entry(url, expected))
        assert cache.fetch(entry(url, expected)) == path
    assert path == folder / "s-00000000.pth"
    assert path.read_bytes() == CONTENT
    assert len(ranges) == 1
    assert cache.recorded(path, expected) == Expected(SHA256, len(CONTENT))
    assert f"downloading squeezenet1_1 torchvision (BSD-3-Clause) from {url}" in (
        capsys.readouterr().err
    )
    # What was fetched is used without a network, and by nobody who cannot write.
    assert cache.fetch(entry(OFFLINE, expected)) == path


@pytest.mark.parametrize("expected", PUBLISHED, ids=["sha256", "beginning", "md5"])
def test_another_file_is_refused_with_both_digests(expected, folder) -> None:
    other = CONTENT[::-1]
    found = hashlib.new(expected.algorithm, other).hexdigest()
    with (
        serving(lambda handler, _: send(handler, other)) as (url, _),
        pytest.raises(errors.DownloadError, match=f"{found} came.*{expected.digest}"),
    ):
        cache.fetch(entry(url, expected))
    assert not (folder / "s-00000000.pth").exists()


def test_a_connection_that_breaks_is_resumed_without_a_known_size(
    folder, monkeypatch
) -> None:
    impatient(monkeypatch, attempts=4)

    def answer(handler, request: int) -> None:
        if request == 1:
            send(handler, CONTENT[:70_000], length=len(CONTENT))
            return
        begin = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        send(handler, CONTENT[begin:], status=206)

    with serving(answer) as (url, ranges):
        path = cache.fetch(entry(url, Expected(SHA256[:8])))
    assert path.read_bytes() == CONTENT
    assert ranges == [None, "bytes=70000-"]


def test_a_part_that_cannot_be_continued_is_begun_anew(folder, monkeypatch) -> None:
    impatient(monkeypatch, attempts=4)
    folder.mkdir(parents=True)
    (folder / "s-00000000.pth.part").write_bytes(CONTENT + b"more")

    def answer(handler, _: int) -> None:
        if handler.headers["Range"]:
            send(handler, b"", status=416)
        else:
            send(handler, CONTENT)

    with serving(answer) as (url, ranges):
        path = cache.fetch(entry(url, Expected(SHA256[:8])))
    assert path.read_bytes() == CONTENT
    assert len(ranges) == 2


def test_a_part_that_is_the_whole_file_is_taken(folder) -> None:
    folder.mkdir(parents=True)
    (folder / "s-00000000.pth.part").write_bytes(CONTENT)
    path = cache.fetch(entry(OFFLINE, Expected(SHA256[:8])))
    assert path.read_bytes() == CONTENT


def test_offline_says_what_to_put_where(folder) -> None:
    place = folder / "s-00000000.pth"
    message = f"{OFFLINE} could not .* by hand at {place} .from {OFFLINE}, .*{SHA256}"
    with pytest.raises(errors.DownloadError, match=message):
        cache.fetch(entry(OFFLINE, Expected(SHA256)))
    place.write_bytes(CONTENT)
    assert cache.fetch(entry(OFFLINE, Expected(SHA256))) == place


def test_a_file_that_changed_in_the_cache_is_fetched_again(folder) -> None:
    beginning = Expected(SHA256[:1])
    with serving(whole) as (url, ranges):
        path = cache.fetch(entry(url, beginning))
        others = (CONTENT + bytes([n]) for n in range(256))
        path.write_bytes(next(c for c in others if beginning_is(c, SHA256[:1])))
        # By what is published it would pass, by the record it does not.
        assert beginning.holds(path)
        assert cache.fetch(entry(url, beginning)).read_bytes() == CONTENT
    assert len(ranges) == 2


def beginning_is(content: bytes, digits: str) -> bool:
    return hashlib.sha256(content).hexdigest().startswith(digits)


def test_a_record_is_of_what_was_published_then(folder) -> None:
    """A catalogue that names another file under the same name gets that one."""
    with serving(whole) as (url, _):
        path = cache.fetch(entry(url, Expected(SHA256)))
    newer = CONTENT[::-1]
    digest = hashlib.sha256(newer).hexdigest()
    with serving(lambda handler, _: send(handler, newer)) as (url, ranges):
        assert cache.fetch(entry(url, Expected(digest))) == path
    assert path.read_bytes() == newer and len(ranges) == 1


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"published": null, "sha256": "", "size": 3}']
)
def test_a_broken_record_is_none(record: str, folder) -> None:
    folder.mkdir(parents=True)
    path = folder / "s-00000000.pth"
    path.with_name(f"{path.name}.json").write_text(record)
    assert cache.recorded(path, None) is None


def test_a_file_that_nobody_offers_is_put_there_by_hand(folder) -> None:
    place = folder / "s-00000000.pth"
    with pytest.raises(errors.DownloadError, match=f"{place}: is not there.*{SHA256}"):
        cache.fetch(entry(None, Expected(SHA256)))
    folder.mkdir(parents=True)
    place.write_bytes(b"other")
    with pytest.raises(errors.DownloadError, match=f"{place}: is not it"):
        cache.fetch(entry(None, Expected(SHA256)))
    assert place.read_bytes() == b"other"
    place.write_bytes(CONTENT)
    assert cache.fetch(entry(None, Expected(SHA256))) == place


class Hub:
    """Answers as huggingface.co does: headers that describe, then a redirect."""

    commit = "0123456789abcdef" * 2 + "01234567"

    def __init__(self) -> None:
        self.heads: list[str] = []

    def __call__(self, handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        head = handler.command == "HEAD"
        if head:
            self.heads.append(handler.path)
        if handler.path.startswith("/old/"):
            redirect(handler, handler.path.replace("/old/", "/timm/"), 307)
        elif handler.path.startswith("/timm/"):
            redirect(
                handler,
                f"http://{handler.headers['Host']}/cdn",
                X_Repo_Commit=self.commit,
                X_Linked_Etag=f'"{SHA256}"',
                X_Linked_Size=str(len(CONTENT)),
            )
        else:
            send(handler, CONTENT)


def hub_url(url: str, owner: str) -> str:
    host = url.removesuffix("/file.gz")
    return f"{host}/{owner}/x.tv_in1k/resolve/main/model.safetensors"


@pytest.mark.parametrize("owner", ["timm", "old"])
def test_the_hub_is_asked_for_its_digest_and_commit(owner, folder) -> None:
    hub = Hub()
    with serving(hub) as (url, _):
        url = hub_url(url, owner)
        described = cache.described(url)
        assert described.expected == Expected(SHA256, len(CONTENT))
        pinned = url.replace("/main/", f"/{hub.commit}/").replace("/old/", "/timm/")
        assert described.url == pinned
        path = cache.fetch(entry(url, None))
        assert path.read_bytes() == CONTENT
        asked = len(hub.heads)
        assert cache.fetch(entry(url, None)) == path
        assert len(hub.heads) == asked
    record = json.loads((folder / "s-00000000.pth.json").read_text())
    assert record == {"published": None, "sha256": SHA256, "size": len(CONTENT)}


@pytest.mark.parametrize(
    ("status", "message"), [(200, "names no SHA-256"), (404, "status 404")]
)
def test_a_hub_that_does_not_tell(status, message, folder) -> None:
    place = folder / "s-00000000.pth"
    with (
        serving(lambda handler, _: send(handler, b"", status)) as (url, _),
        pytest.raises(errors.DownloadError, match=f"{message}.*by hand at {place}"),
    ):
        cache.fetch(entry(hub_url(url, "timm"), None))


def test_a_file_put_there_by_hand_without_a_published_digest(folder, capsys) -> None:
    folder.mkdir(parents=True)
    place = folder / "s-00000000.pth"
    place.write_bytes(CONTENT)
    assert cache.fetch(entry(OFFLINE, None)) == place
    assert "no digest of it is published" in capsys.readouterr().err
    assert cache.recorded(place, None) == Expected(SHA256, len(CONTENT))
    place.write_bytes(b"changed")
    with pytest.raises(errors.DownloadError, match=f"no longer the file of .*{SHA256}"):
        cache.fetch(entry(OFFLINE, None))
    assert place.read_bytes() == b"changed"


def test_what_was_put_by_hand_says_nothing_of_what_is_fetched(folder) -> None:
    folder.mkdir(parents=True)
    place = folder / "s-00000000.pth"
    place.write_bytes(CONTENT[:1000])
    cache.fetch(entry(OFFLINE, None))
    place.unlink()
    with serving(Hub()) as (url, _):
        assert cache.fetch(entry(hub_url(url, "timm"), None)) == place
    assert place.read_bytes() == CONTENT


def test_a_hub_that_leads_elsewhere_is_not_followed(folder) -> None:
    def answer(handler, _: int) -> None:
        redirect(handler, "//127.0.0.1:9/timm/x")

    with (
        serving(answer) as (url, ranges),
        pytest.raises(errors.DownloadError, match="names no SHA-256"),
    ):
        cache.fetch(entry(hub_url(url, "timm"), None))
    assert len(ranges) == 1


def _fetch(url: str) -> None:
    # In a process of its own: nothing is patched there.
    cache.fetch(entry(url, Expected(SHA256)))


def test_two_processes_share_one_download(folder) -> None:
    context = multiprocessing.get_context("spawn")
    with serving(whole) as (url, ranges):
        processes = [context.Process(target=_fetch, args=(url,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(ranges) == 1


def test_a_known_file_is_recognised(real_data: Path, tmp_path: Path) -> None:
    found = cache.identified(real_data / "squeezenet_v1_caffe.npz")
    assert found == weights.find("squeezenet_caffe")
    (tmp_path / "other").write_bytes(CONTENT)
    assert cache.identified(tmp_path / "other") is None


def test_create_takes_tags_and_files(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "squeezenet_v1_caffe.npz"
    assert creation.located("squeezenet_caffe", file) == file
    place = cache.place(weights.find("squeezenet_caffe"))
    place.parent.mkdir(parents=True)
    place.symlink_to(file)
    for tag in ("imagenet", "caffe"):
        assert creation.located("squeezenet_caffe", tag) == place
    known = "imagenet, torchvision, keras, keras-notop, timm"
    with pytest.raises(errors.ArgumentError, match=f"'imagnet': no such .* {known}"):
        creation.located("vgg16", "imagnet")
