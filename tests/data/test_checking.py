"""What is wrong with a folder of pictures is found and named, and nothing else is."""

import contextlib
import io
import itertools
import json
import os
import struct
import threading
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from PIL import Image, ImageEnhance

from flaxnets import errors
from flaxnets.data import checking, perceptual


def photograph(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Soft patches of colour with some grain, of the given width and height."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    soft = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float64)
    noisy = soft + rng.normal(0, 3, soft.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def saved(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    sum_ = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


SOUND = {
    f"{split}/{name}/{index}.jpg": saved(photograph(next(number)), quality=90)
    for number in [itertools.count()]
    for split in ("train", "validation")
    for name in ("cats", "dogs")
    for index in range(10)
}


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def kinds(report: checking.Report) -> dict[str, list[tuple[str, ...]]]:
    return {
        problem.kind: [finding.names for finding in problem.found]
        for problem in report.problems
    }


def checked(root: Path, files: dict[str, bytes]) -> dict[str, list[tuple[str, ...]]]:
    """The names of each kind of problem, when `files` are added to sound ones."""
    return kinds(checking.check(tree(root, {**SOUND, **files})))


@pytest.mark.parametrize("made", [tree, zipped])
def test_nothing_is_wrong_with_sound_pictures(made, tmp_path: Path) -> None:
    states = []
    report = checking.check(
        made(tmp_path / "a.zip", SOUND), progress=lambda *state: states.append(state)
    )
    assert report.problems == () and not report.serious
    assert report.pictures == report.readable == 40
    assert report.counts == {
        split: {"cats": 10, "dogs": 10} for split in ("train", "validation")
    }
    assert report.sizes == {"width": (120, 120, 120), "height": (90, 90, 90)}
    assert report.formats == {"JPEG": 40} and not any(report.marks.values())
    assert states == [(done, 40) for done in range(1, 41)]


def test_threads_leave_no_filter_of_warnings(tmp_path: Path, monkeypatch) -> None:
    """Two pictures are begun, and the first one is done before the second."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    inner, turn = checking.pictures.strict_warnings, threading.Lock()
    begun, done = threading.Barrier(2), threading.Event()
    order = itertools.count()

    def crossing(content: bytes, name: str) -> tuple:
        with contextlib.ExitStack() as stack:
            with turn:
                stack.enter_context(inner())
                place = next(order)
            if place < 2:
                begun.wait(60)
            if place == 1:
                done.wait(60)
        if place == 0:
            done.set()
        return record(content, name)

    record = checking._record
    monkeypatch.setattr(checking, "_record", crossing)
    filters = list(warnings.filters)
    checking.check(tree(tmp_path, SOUND))
    assert list(warnings.filters) == filters


def test_an_interrupt_leaves_what_is_not_begun(tmp_path: Path, monkeypatch) -> None:
    read = []

    def slow(content: bytes, name: str) -> tuple:
        read.append(name)
        time.sleep(0.05)
        return record(content, name)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    record = checking._record
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(checking, "_record", slow)
    with pytest.raises(KeyboardInterrupt):
        checking.check(tree(tmp_path, SOUND), progress=interrupted)
    assert len(read) < len(SOUND)

    def given(pool: ThreadPoolExecutor, function, places) -> None:
        for place in places:
            pool.submit(function, place)
        raise KeyboardInterrupt

    read.clear()
    monkeypatch.setattr(ThreadPoolExecutor, "map", given)
    with pytest.raises(KeyboardInterrupt):
        checking.check(tmp_path)
    assert len(read) < len(SOUND)


EXIF = Image.Exif()
EXIF[0x010F] = "maker"
WHOLE = saved(photograph(77), exif=EXIF)
BROKEN = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "is truncated or damaged"),
    "page": (b"<!DOCTYPE html><p>Not found", "is a web page"),
    "empty": (b"", "is empty"),
    "other": (b"%PDF-1.7", "is not a picture"),
}


@pytest.mark.parametrize("made", [tree, zipped])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_the_reason(
    kind: str, made, tmp_path: Path
) -> None:
    content, reason = BROKEN[kind]
    # Two of them, which are no copies of each other.
    names = "train/cats/x.jpg", "validation/dogs/x.jpg"
    path = made(tmp_path / "a.zip", {**SOUND, **dict.fromkeys(names, content)})
    report = checking.check(path)
    (problem,) = report.problems
    assert problem.kind == "broken" and problem.serious and report.serious
    assert [finding.names for finding in problem.found] == [(name,) for name in names]
    for finding in problem.found:
        assert reason in finding.detail and str(path) not in finding.detail
    assert report.pictures == 42 and report.readable == 40


def test_damage_that_pillow_does_not_expect_is_named(tmp_path: Path) -> None:
    """EXIF values of a wrong type, over which Pillow stumbles in ways of its own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    whole = saved(photograph(76), exif=exif)
    entry = whole.index(struct.pack(">HHI", 0x011A, 5, 1))
    files = {}
    for type_ in range(14):
        changed = bytearray(whole)
        struct.pack_into(">H", changed, entry + 2, type_)
        files[f"train/cats/type{type_}.jpg"] = bytes(changed)
    report = checking.check(tree(tmp_path, {**SOUND, **files}))
    broken = [name for (name,) in kinds(report)["broken"]]
    assert 0 < len(broken) < 14 and set(broken) <= set(files)
    assert report.readable + len(broken) == report.pictures == 54


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_bombs_are_refused(side: int, tmp_path: Path) -> None:
    """Pillow only warns of the smaller one."""
    found = checked(tmp_path, {"train/cats/x.png": png(side, side, 8, 0, b"")})
    assert found == {"bomb": [("train/cats/x.png",)]}


def test_pipes_and_links_to_nowhere_are_not_waited_for(tmp_path: Path) -> None:
    tree(tmp_path, SOUND)
    os.mkfifo(tmp_path / "train/cats/pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "train/cats/endless.jpg")
    os.symlink("nowhere.jpg", tmp_path / "train/cats/nowhere.jpg")
    report = checking.check(tmp_path)
    names = [f"train/cats/{name}.jpg" for name in ("endless", "nowhere", "pipe")]
    assert kinds(report) == {"broken": [(name,) for name in names]}


def test_a_changed_byte_of_a_zip_is_found(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", SOUND)
    content = bytearray(path.read_bytes())
    content[content.index(SOUND["train/dogs/3.jpg"]) + 700] ^= 1
    path.write_bytes(content)
    assert kinds(checking.check(path)) == {"broken": [("train/dogs/3.jpg",)]}


def test_a_suffix_of_another_format_is_named(tmp_path: Path) -> None:
    first, second = photograph(50), photograph(51)
    report = checking.check(
        tree(
            tmp_path,
            {
                **SOUND,
                "train/cats/png.jpg": saved(first, "PNG"),
                "train/cats/right.JPEG": saved(photograph(52)),
                # A JPEG with a second one in it is one, and does not move.
                "train/cats/two.jpg": saved(
                    second, "MPO", save_all=True, append_images=[photograph(53)]
                ),
            },
        )
    )
    assert kinds(report) == {"misnamed": [("train/cats/png.jpg",)]}
    assert report.problems[0].found[0].detail == "is a PNG"
    assert not report.serious
    assert report.formats == {"JPEG": 42, "PNG": 1}
    assert report.marks["animated"] == 0


COPY = "train/cats/3.jpg"


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("train/cats/x.jpg", {"copies"}),
        ("train/dogs/x.jpg", {"conflict"}),
        ("validation/cats/x.jpg", {"leak"}),
        ("validation/dogs/x.jpg", {"conflict", "leak"}),
    ],
)
@pytest.mark.parametrize("near", [False, True])
def test_copies_are_told_apart_by_class_and_split(
    to: str, expected: set[str], near: bool, tmp_path: Path
) -> None:
    content = SOUND[COPY]
    if near:
        image = Image.open(io.BytesIO(content)).resize((77, 60))
        content = saved(image, quality=50)
    report = checking.check(tree(tmp_path, {**SOUND, to: content}))
    expected = {kind + near * "-near" for kind in expected}
    assert kinds(report) == dict.fromkeys(expected, [(COPY, to)])
    assert report.serious == (expected != {"copies" + near * "-near"})


def test_a_folder_without_splits_can_leak_any_copy(tmp_path: Path) -> None:
    files = {name.removeprefix("train/"): each for name, each in SOUND.items()}
    files = {name: each for name, each in files.items() if name.count("/") == 1}
    assert len(files) == 20
    files["cats/x.jpg"] = files["cats/3.jpg"]
    report = checking.check(tree(tmp_path, files))
    assert {frozenset(names) for names in kinds(report)["leak"]} == {
        frozenset(("cats/3.jpg", "cats/x.jpg"))
    }
    assert set(kinds(report)) == {"leak"} and report.divided
    assert report.counts == {"all": {"cats": 11, "dogs": 10}}


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, quality=20),
        lambda image: saved(image, "PNG"),
        lambda image: saved(image.resize((60, 45))),
        lambda image: saved(image.resize((100, 100))),
        lambda image: saved(image.resize((240, 180)), "WEBP"),
        lambda image: saved(ImageEnhance.Contrast(image).enhance(1.1)),
        lambda image: saved(image.rotate(90, expand=True), exif=turned(6)),
        lambda image: saved(image.rotate(180), "TIFF", exif=turned(3)),
    ],
    ids="worse other half square twice contrast turned overhead".split(),
)
def test_a_changed_copy_is_still_found(change, tmp_path: Path) -> None:
    original = Image.open(io.BytesIO(SOUND[COPY]))
    found = checked(tmp_path, {"validation/cats/x.jpg": change(original)})
    assert found["leak-near"] == [(COPY, "validation/cats/x.jpg")]
    assert "leak" not in found


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_plain_pictures_are_no_copies_of_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 4, (90, 120, 3)).astype(np.uint8)
    files = {
        "train/cats/black.png": saved(Image.new("RGB", (90, 90)), "PNG"),
        "train/dogs/grey.png": saved(Image.new("L", (90, 90), 90), "PNG"),
        "train/dogs/noise.png": saved(Image.fromarray(noise), "PNG"),
        "validation/cats/white.png": saved(Image.new("RGB", (90, 90), "white"), "PNG"),
    }
    names = sorted((name,) for name in files)
    report = checking.check(tree(tmp_path, {**SOUND, **files}))
    assert kinds(report) == {"plain": names} and not report.serious
    # Equal bytes are another matter.
    again = {"validation/dogs/black.png": files["train/cats/black.png"]}
    found = checked(tmp_path, again)
    pair = ("train/cats/black.png", "validation/dogs/black.png")
    assert found["conflict"] == found["leak"] == [pair]
    assert "leak-near" not in found


def test_what_differs_by_colour_or_detail_is_no_copy(tmp_path: Path) -> None:
    def ball(colour: tuple[int, int, int]) -> bytes:
        y, x = np.mgrid[:96, :96]
        inside = np.hypot(x - 48, y - 48) < 30
        pixels = np.where(inside[:, :, None], np.array(colour, np.uint8), 255)
        return saved(Image.fromarray(pixels.astype(np.uint8)), "PNG")

    # Of the same brightness.
    red, blue = ball((200, 40, 40)), ball((40, 90, 188))
    grey = [Image.open(io.BytesIO(each)).convert("L") for each in (red, blue)]
    assert np.abs(np.subtract(*(np.asarray(each, int) for each in grey))).max() <= 2
    files = {"train/cats/red.png": red, "train/dogs/blue.png": blue}
    assert checked(tmp_path, files) == {}


def test_marks_are_counted(tmp_path: Path) -> None:
    clear = photograph(69).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    wide = np.asarray(photograph(60).convert("L"), np.uint16) * 257
    deep = np.asarray(photograph(61), np.uint16) * 257
    rows = [b"\0" + row.astype(">u2").tobytes() for row in deep]
    frames = {"save_all": True, "append_images": [photograph(63)]}
    moving = saved(photograph(67), "GIF", **frames)
    # In the description of the second frame, after its place.
    cut = moving[: moving.rindex(b"," + struct.pack("<HHHH", 0, 0, 120, 90)) + 4]
    # Five bits of red, six of green, five of blue.
    few = np.asarray(photograph(62).convert("L"), np.uint16) * 257
    head = struct.pack("<IiiHHIIiiII", 40, 120, 90, 1, 16, 3, few.nbytes, 0, 0, 0, 0)
    head += struct.pack("<III", 0xF800, 0x07E0, 0x1F)
    head = b"BM" + struct.pack("<IHHI", 66 + few.nbytes, 0, 0, 66) + head
    files = {
        "grey.jpg": saved(photograph(64).convert("L")),
        "cmyk.jpg": saved(photograph(65).convert("CMYK")),
        "wide.png": saved(Image.fromarray(wide), "PNG"),
        "wide.tiff": saved(Image.fromarray(257 * np.uint16(200) - wide), "TIFF"),
        "deep.png": png(120, 90, 16, 2, zlib.compress(b"".join(rows))),
        "float.tiff": saved(photograph(66).convert("F"), "TIFF"),
        "clear.png": saved(clear, "PNG"),
        "moving.gif": moving,
        "cut.gif": cut,
        "few.bmp": head + few.tobytes(),
        "moving.webp": saved(photograph(68), "WEBP", **frames),
        "still.gif": saved(photograph(70), "GIF"),
        "upright.jpg": saved(photograph(71), exif=turned(1)),
        "side.jpg": saved(photograph(72, (110, 80)), exif=turned(8)),
        "side.png": saved(photograph(73), "PNG", exif=turned(2)),
        "side.tiff": saved(photograph(74), "TIFF", exif=turned(3)),
        "side.webp": saved(photograph(75), "WEBP", exif=turned(4)),
    }
    files = {f"train/cats/{name}": content for name, content in files.items()}
    report = checking.check(tree(tmp_path, {**SOUND, **files}))
    # What is left of the cut one is the moving one's first frame.
    pair = ("train/cats/cut.gif", "train/cats/moving.gif")
    assert kinds(report) == {"copies-near": [pair]}
    assert report.marks == {
        "grey": 4,
        "CMYK": 1,
        "16-bit": 3,
        "32-bit": 1,
        "transparent": 1,
        "animated": 2,
        "turned": 4,
    }
    assert report.formats == {
        "JPEG": 44,
        "PNG": 4,
        "BMP": 1,
        "GIF": 3,
        "WEBP": 2,
        "TIFF": 3,
    }
    # Upright, the one is 80 wide and 110 high.
    assert report.sizes == {"width": (80, 120, 120), "height": (90, 90, 110)}


def test_odd_sizes_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checking, "HUGE_PIXELS", 200 * 150)
    found = checked(
        tmp_path,
        {
            "train/cats/tiny.png": saved(photograph(80, (60, 31)), "PNG"),
            "train/cats/small.png": saved(photograph(81, (60, 32)), "PNG"),
            "train/cats/huge.png": saved(photograph(82, (201, 150)), "PNG"),
            "train/cats/large.png": saved(photograph(83, (200, 150)), "PNG"),
            "train/cats/high.png": saved(photograph(84, (40, 121)), "PNG"),
            "train/cats/panorama.png": saved(photograph(85, (120, 40)), "PNG"),
        },
    )
    assert found == {
        "tiny": [("train/cats/tiny.png",)],
        "huge": [("train/cats/huge.png",)],
        "long": [("train/cats/high.png",)],
    }


def test_small_classes_are_named(tmp_path: Path) -> None:
    files = {
        name: content
        for name, content in SOUND.items()
        if not name.startswith("validation/dogs/") or name.endswith("/0.jpg")
    }
    extra = {
        f"validation/cats/x{index}.jpg": saved(photograph(200 + index))
        for index in range(1)
    }
    # Ten to one is not more than ten to one.
    report = checking.check(tree(tmp_path, files))
    assert kinds(report) == {"few": [("dogs",)]}
    report = checking.check(tree(tmp_path, extra))
    assert kinds(report) == {"few": [("dogs",)], "unbalanced": [("dogs",)]}
    few, unbalanced = report.problems
    assert few.found[0].detail == "1 in validation"
    assert "cats has 11, 11 times as many" in unbalanced.found[0].detail
    assert not report.serious


@pytest.mark.parametrize("made", [tree, zipped])
def test_what_is_not_read_is_named(made, tmp_path: Path) -> None:
    files = {
        **SOUND,
        "train/loose.jpg": WHOLE,
        "train/cats/notes.txt": b"notes",
        "readme.md": b"about",
        "test/cats/0.jpg": WHOLE,
        "train/cats/Thumbs.db": b"x",
        "train/.hidden/0.jpg": WHOLE,
    }
    assert kinds(checking.check(made(tmp_path / "a.zip", files))) == {
        "outside": [("test/cats/0.jpg",), ("train/loose.jpg",)],
        "others": [("readme.md",), ("train/cats/notes.txt",)],
    }


def test_folders_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, monkeypatch
) -> None:
    with pytest.raises(errors.DataError, match="no such folder or zip"):
        checking.check(tmp_path / "absent")
    one = tree(tmp_path / "one", {"cats/0.jpg": WHOLE, "cats/1.jpg": WHOLE})
    with pytest.raises(errors.DataError, match="expected one for each of two or more"):
        checking.check(one)
    sound = tree(tmp_path / "sound", SOUND)
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(errors.DataError, match="dogs: cannot be listed .Permission"):
        checking.check(sound)


def test_the_hash_follows_its_definition() -> None:
    """Against scipy's cosine transform, bit by bit."""
    for seed in range(20):
        image = photograph(seed, (40 + 9 * seed, 90))
        small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        transform = scipy.fft.dctn(np.asarray(small, np.float64), type=2)
        transform = np.asarray(transform)[:8, :8]
        expected = 0
        for value in transform.ravel():
            expected = 2 * expected + int(value > np.median(transform))
        assert perceptual.perceptual_hash(np.asarray(image)) == expected


def hashes(count: int, random: int, seed: int) -> np.ndarray:
    """Random ones, and others that differ from those in up to 12 bits."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 1 << 64, random, np.uint64, endpoint=False)
    base[:5] = base[0]
    copies = base[rng.integers(0, len(base), count - len(base))]
    for place in range(len(copies)):
        for bit in rng.permutation(64)[: rng.integers(0, 13)].tolist():
            copies[place] ^= np.uint64(1 << bit)
    return np.concatenate([base, copies])


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 11, 63])
@pytest.mark.parametrize("block", [7, 1 << 17])
def test_near_pairs_are_those_of_all_pairs(
    distance: int, block: int, monkeypatch
) -> None:
    monkeypatch.setattr(perceptual, "BLOCK", block)
    values = hashes(150, 75, seed=distance)
    expected = {
        (first, second)
        for (first, one), (second, other) in itertools.combinations(
            enumerate(values.tolist()), 2
        )
        if (one ^ other).bit_count() <= distance
    }
    found = [
        tuple(pair)
        for pairs in perceptual.near_pairs(values, distance)
        for pair in pairs.tolist()
    ]
    assert len(found) == len(set(found)) and set(found) == expected
    assert list(perceptual.near_pairs(values[:0], distance)) == []


@pytest.mark.parametrize("block", [3, 1 << 17])
def test_near_groups_are_connected_components(block: int, monkeypatch) -> None:
    monkeypatch.setattr(perceptual, "BLOCK", block)
    rng = np.random.default_rng(1)
    records = np.zeros(300, checking._RECORD)
    records["hash"] = hashes(300, 30, seed=1)
    # Most pictures are alike as far as all else goes.
    records["coarse"] = np.where(np.arange(63) % 2, 100, -100)
    records["coarse"][rng.random(300) < 0.3, :9] = 0
    colours = np.where(rng.random(300) < 0.3, 100, rng.integers(-8, 9, 300))
    records["colour"][:, 1] = colours
    coarse = records["coarse"].astype(np.float64)
    unit = coarse / np.linalg.norm(coarse, axis=1, keepdims=True)
    near = {
        (first, second)
        for first, second in itertools.combinations(range(300), 2)
        if int(records["hash"][first] ^ records["hash"][second]).bit_count() <= 6
        and unit[first] @ unit[second] > 0.995
        and abs(int(colours[first]) - int(colours[second])) <= 16
    }
    groups = list(range(300))
    for _ in range(300):
        for first, second in near:
            groups[first] = groups[second] = min(groups[first], groups[second])
    assert 150 < len(set(groups)) < 250
    assert checking._near_groups(records).tolist() == groups


def test_text_and_document_say_the_same(tmp_path: Path) -> None:
    odd = os.fsdecode(b"train/cats/\xff\x1b[2J\n.jpg")
    files = {**SOUND, odd: b"", "train/cats/x.jpg": SOUND[COPY]}
    files |= {f"train/dogs/empty{index}.jpg": b"" for index in range(5)}
    root = tree(tmp_path, {})
    for name, content in files.items():
        path = os.fsencode(root) + b"/" + os.fsencode(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    report = checking.check(root)
    document = json.loads(json.dumps(checking.document(report)))
    assert document["serious"] and document["pictures"] == 47
    assert document["readable"] == 41 and document["path"] == str(root)
    broken, copies = document["problems"]
    assert broken["kind"] == "broken" and len(broken["found"]) == 6
    assert broken["found"][0]["names"] == [odd]
    assert copies["found"][0]["names"] == [COPY, "train/cats/x.jpg"]
    text = checking.text(report, limit=2)
    assert all(line.isprintable() for line in text.splitlines())
    lines = text.splitlines()
    assert lines.index("PROBLEMS") < lines.index("WORTH A LOOK")
    assert r"    train/cats/\udcff\x1b[2J\n.jpg: is empty" in text
    assert "    and 4 more" in text and "empty1.jpg" not in text
    assert f"    {COPY}\n    = train/cats/x.jpg\n" in text
    assert lines[-1] == "1 problem"
    assert "empty4.jpg" in checking.text(report, limit=6)
    assert "empty" not in checking.text(report, limit=0).replace("is empty", "")


def test_nothing_that_can_be_read_is_a_report_too(tmp_path: Path) -> None:
    report = checking.check(tree(tmp_path, dict.fromkeys(SOUND, b"x")))
    assert set(kinds(report)) == {"broken"} and report.readable == 0
    assert report.sizes == {}
    assert "40 files cannot be read" in checking.text(report, limit=1)


def test_of_many_classes_the_smallest_are_listed(tmp_path: Path) -> None:
    files = {
        f"{name}/{index}.jpg": SOUND["train/cats/0.jpg"]
        for name, count in (("ant", 5), ("bee", 2), ("cow", 4), ("dog", 3))
        for index in range(count)
    }
    text = checking.text(checking.check(tree(tmp_path, files)), limit=2)
    table = text[text.index("WHAT") :].splitlines()[2:6]
    expected = [["bee", "2"], ["dog", "3"], ["sum", "14"]]
    assert [line.split() for line in table[:3]] == expected
    assert table[3] == "(the 2 smallest of 4 classes)"


def test_cats_and_dogs(real_data: Path) -> None:
    """The only pair that looks the same does: dogs in a round frame."""
    report = checking.check(real_data / "cats_and_dogs_small.zip")
    dogs = "cats_and_dogs_small/train/dogs/dog."
    assert kinds(report) == {
        "copies-near": [(f"{dogs}180.jpg", f"{dogs}74.jpg")],
        "long": [("cats_and_dogs_small/validation/dogs/dog.4367.jpg",)],
    }
    assert report.readable == 3000
