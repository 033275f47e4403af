"""The mark of synthetic pictures, read by other means than it was written by."""

import resource
import signal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms

from flaxnets import errors
from flaxnets.data import provenance

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
# From the IPTC Photo Metadata Standard and its vocabulary, not from the code.
NAMESPACE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
TERM = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)


def _saved(path: Path, format: provenance.Format, **options) -> Path:
    given = {"source_type": provenance.COMPOSITE, "description": "a < b & c"}
    provenance.save(PICTURE, path, format=format, **{**given, **options})
    return path


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_the_mark_is_xmp_with_the_term_of_iptc(
    tmp_path: Path, format: provenance.Format
) -> None:
    path = _saved(tmp_path / "picture", format)
    assert provenance.is_marked(path)
    content = path.read_bytes()
    where = {"png": b"iTXtXML:com.adobe.xmp\0", "jpeg": b"http://ns.adobe.com/xap/1.0/"}
    assert where[format] in content
    start, end = content.index(b"<x:xmpmeta"), content.index(b"</x:xmpmeta>")
    root = ElementTree.fromstring(content[start : end + len(b"</x:xmpmeta>")])
    assert root.find(f".//{NAMESPACE}DigitalSourceType").text == TERM
    assert "a < b & c" in "".join(root.itertext())
    assert not provenance.is_marked(_saved(path, format, source_type=None))


def test_a_png_holds_the_same_values_and_a_jpeg_nearly(tmp_path: Path) -> None:
    with Image.open(_saved(tmp_path / "a.png", "png")) as image:
        np.testing.assert_array_equal(np.asarray(image), PICTURE)
    smooth = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None], (40, 60, 3))
    provenance.save(smooth, tmp_path / "a.jpg", format="jpeg", source_type=None)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - smooth).max() <= 2


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_what_the_colours_mean_is_kept(
    tmp_path: Path, format: provenance.Format
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = _saved(tmp_path / "picture", format, profile=profile)
    with Image.open(path) as image:
        assert image.info["icc_profile"] == profile


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="absent.png.*No such file"):
        provenance.is_marked(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(errors.DataError, match="text.png: is not a picture"):
        provenance.is_marked(tmp_path / "text.png")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    path = _saved(tmp_path / "a.png", "png")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(errors.RunFolderError, match="a.png.*bytes are free"):
            _saved(path, "png", description="another")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("size", [(400, 600), (40, 60), (3, 5)])
def test_a_label_changes_the_lower_left_corner_only(size: tuple[int, int]) -> None:
    grey = np.full((*size, 3), 128, np.uint8)
    marked = provenance.labelled(grey)
    assert grey.min() == 128, "the picture itself was changed"
    rows, columns, _ = np.nonzero(marked != 128)
    assert rows.max() == size[0] - 1 and columns.min() == 0
    if min(size) >= 40:
        assert marked[rows.min() :, : columns.max() + 1].min() == 0
        assert marked.max() > 200
        assert rows.min() > size[0] / 2
