"""What is wrong with a folder of pictures, before a network is trained on it."""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flaxnets import errors
from flaxnets.data import folders, perceptual, pictures

if TYPE_CHECKING:
    from PIL import Image

TINY_SIDE = 32
HUGE_PIXELS = 50_000_000
# The middle square of a longer picture is less than a third of it.
LONGEST_RATIO = 3
FEW_PICTURES = 10
LARGEST_IMBALANCE = 10

# Two pictures are near-duplicates if their hashes differ in no more bits, and what the
# hashes stem from correlates so highly, and the mean colours are nearly the same. On
# 3,000 photographs of cats and dogs: copies of other quality (JPEG 20) or size (half,
# twice) differ from the original in up to 4 bits and correlate by 0.999; with 1.3 times
# the contrast it is 6 bits and 0.994. Different photographs differ in 12 bits or more,
# and correlate by 0.92 or less. Bits alone would not do where all pictures are laid out
# alike: of 10,000 MNIST digits, 48,717 pairs are within 6 bits, and 83 of those
# correlate so highly, all of them pairs of ones.
NEAR_BITS = 6
NEAR_CORRELATION = 0.995
# Of 255: apart are those that differ in nothing else, such as a red and a blue ball.
NEAR_COLOUR = 16
# The coarse structure of a plain picture deviates less from its mean, in grey levels
# of 255; its hash would be that of the noise, and so would be that of any other.
PLAIN_DEVIATION = 1.0

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_ORIENTATION = 0x0112
# What is counted of pictures, a bit each.
_MARKS = ("grey", "CMYK", "16-bit", "32-bit", "transparent", "animated", "turned")
# What is kept of a picture; its height is 0 if it could not be read.
_RECORD = np.dtype(
    [
        ("digest", "u8", (4,)),
        ("hash", "u8"),
        ("coarse", "i1", (perceptual.LOW**2 - 1,)),
        ("colour", "i1", (2,)),
        ("height", "i4"),
        ("width", "i4"),
        ("format", "u1"),
        ("marks", "u1"),
        ("misnamed", "?"),
        ("plain", "?"),
    ]
)
# Each thread holds a decoded picture, however large.
_MOST_WORKERS = 8
# Pictures that wait for a thread.
_AT_A_TIME = 256


class Finding(NamedTuple):
    """A file, or several that are the same.

    Attributes:
        names: paths below the root; a class, where the problem is one of classes.
        detail: why, or how much.
    """

    names: tuple[str, ...]
    detail: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong, and all the places where it is.

    Attributes:
        kind: a word for programs.
        serious: whether it stops a training or falsifies what is measured.
        said: what was found.
        advice: what to do.
        found: the places.
    """

    kind: str
    serious: bool
    said: str
    advice: str
    found: Sequence[Finding]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a folder. Made by `check`.

    Attributes:
        path: the folder or zip.
        divided: whether it has no splits, so that validation pictures are drawn.
        counts: pictures by split and class; the split of a divided folder is `all`.
        readable: how many pictures can be read.
        sizes: smallest, median and largest width and height in pixels, upright.
        formats: how many pictures are of each format, by their content.
        marks: how many are grey, CMYK, of 16 or 32 bits a value, transparent,
            animated, and turned (by an EXIF orientation of 2 to 8).
        problems: the serious ones first.
    """

    path: Path
    divided: bool
    counts: dict[str, dict[str, int]]
    readable: int
    sizes: dict[str, tuple[int, float, int]]
    formats: dict[str, int]
    marks: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def pictures(self) -> int:
        """How many files in class folders are pictures by their suffix."""
        return sum(sum(classes.values()) for classes in self.counts.values())

    @property
    def serious(self) -> bool:
        """Whether one of the problems is."""
        return any(problem.serious for problem in self.problems)


def check(
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Reads all pictures of a folder, or of a zip in place, and says what is wrong.

    Serious are files that cannot be read, and pictures that occur with different
    labels, or in both splits; byte for byte, or nearly (see `data.perceptual`; copies
    that were cropped or mirrored are not recognised). Besides: other copies, classes
    that are small or far smaller than others, pictures that are tiny, huge, long, or
    plain, suffixes of another format, and files that are not read.

    A thread holds one picture at a time, and about 120 bytes are kept of each besides
    its name.

    Args:
        path: as of `image_folder`.
        progress: is told how many pictures of how many were read.

    Raises:
        DataError: `image_folder` refuses the folder.
    """
    folder = folders.image_folder(path)
    listing = _Listing(folder)
    records = np.zeros(len(listing), _RECORD)
    broken, bombs = _read(records, listing, folder.path, progress)
    problems = [
        *_unreadable(broken, bombs),
        *_copies(records, listing, folder.divided),
        *_unbalanced(folder),
        *_odd(records, listing),
        *_left_out(folder.path, listing),
    ]
    read = records[records["height"] > 0]
    formats = np.bincount(read["format"], minlength=len(pictures.FORMATS)).tolist()
    return Report(
        path=folder.path,
        divided=folder.divided,
        counts=_counts(folder),
        readable=len(read),
        sizes={
            side: (
                int(read[side].min()),
                float(np.median(read[side])),
                int(read[side].max()),
            )
            for side in ("width", "height")
            if len(read)
        },
        formats={
            name: count
            for name, count in zip(pictures.FORMATS, formats, strict=True)
            if count
        },
        marks={
            mark: int(np.count_nonzero(read["marks"] & 1 << bit))
            for bit, mark in enumerate(_MARKS)
        },
        problems=tuple(sorted(problems, key=lambda problem: not problem.serious)),
    )


class _Listing:
    """All pictures of a folder, those of training first, by their place."""

    def __init__(self, folder: folders.ImageFolder) -> None:
        self._parts = folder.train, folder.validation
        self._first = len(folder.train)
        self.labels = np.concatenate([part.labels for part in self._parts])
        self.splits = np.repeat(np.array([0, 1], np.int8), list(map(len, self._parts)))

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, place: int) -> str:
        part = place >= self._first
        return self._parts[part][place - part * self._first][0]


class _Marked(Sequence[Finding]):
    """A finding for each of some pictures, made when it is looked at."""

    def __init__(
        self, listing: _Listing, places: np.ndarray, detail: Callable[[int], str]
    ) -> None:
        self._listing, self._places, self._detail = listing, places, detail

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Marked(self._listing, self._places[index], self._detail)
        place = int(self._places[index])
        return Finding((self._listing.name(place),), self._detail(place))


def _counts(folder: folders.ImageFolder) -> dict[str, dict[str, int]]:
    classes = len(folder.class_names)
    counts = {
        split: np.bincount(part.labels, minlength=classes)
        for split, part in (("train", folder.train), ("validation", folder.validation))
    }
    if folder.divided:
        counts = {"all": counts["train"] + counts["validation"]}
    return {
        split: dict(zip(folder.class_names, of.tolist(), strict=True))
        for split, of in counts.items()
    }


def _read(
    records: np.ndarray,
    listing: _Listing,
    path: Path,
    progress: Callable[[int, int], object],
) -> tuple[list[Finding], list[Finding]]:
    """Fills the records; files that cannot be read, and those that are too large."""
    broken: list[Finding] = []
    bombs: list[Finding] = []
    with (
        pictures.strict_warnings(),
        folders.Source(path) as source,
        ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_WORKERS)) as pool,
    ):

        def one(place: int) -> tuple | errors.DataError:
            name = listing.name(place)
            try:
                return _record(source.content(name), name)
            except errors.DataError as error:
                return error

        try:
            for start in range(0, len(listing), _AT_A_TIME):
                places = range(start, min(start + _AT_A_TIME, len(listing)))
                for place, found in zip(places, pool.map(one, places), strict=True):
                    if isinstance(found, errors.DataError):
                        name = listing.name(place)
                        reason = str(found).partition(f"{name}: ")[2] or str(found)
                        bomb = isinstance(found.__cause__, _bomb_errors())
                        (bombs if bomb else broken).append(Finding((name,), reason))
                    else:
                        records[place] = found
                    progress(place + 1, len(listing))
        except BaseException:
            # Those that wait would be read before it ends.
            pool.shutdown(cancel_futures=True)
            raise
    return broken, bombs


def _unreadable(broken: list[Finding], bombs: list[Finding]) -> Iterator[Problem]:
    if broken:
        yield Problem(
            "broken",
            True,
            f"{_several(broken, 'file')} cannot be read as a picture",
            "get them again or remove them: training stops at them or leaves them out",
            broken,
        )
    if bombs:
        yield Problem(
            "bomb",
            True,
            f"{_several(bombs, 'picture')} that would fill the memory",
            "make them smaller, or remove them",
            bombs,
        )


def _bomb_errors() -> tuple[type[BaseException], ...]:
    from PIL import Image

    return Image.DecompressionBombWarning, Image.DecompressionBombError


def _record(content: bytes, name: str) -> tuple:
    """A picture's `_RECORD`; it is decoded as `pictures.decode` does."""
    from PIL import Image, ImageOps

    with pictures.opened(io.BytesIO(content), name) as image:
        # Loading makes a PNG forget its depth, and a TIFF its orientation. A BMP has 16
        # bits for all colours together.
        sixteen_bits = ";16" in str(image.tile) and image.format != "BMP"
        turned = image.getexif().get(_ORIENTATION) in range(2, 9)
        image.load()
        upright = ImageOps.exif_transpose(image)
        # A JPEG with others inside, such as telephones take for depth.
        several = image.format == "MPO"
        format = "JPEG" if several else str(image.format)
        marks = {
            "grey": image.mode in ("1", "L", "LA", "I", "F") or image.mode[:2] == "I;",
            "CMYK": image.mode == "CMYK",
            "16-bit": sixteen_bits,
            "32-bit": image.mode in ("I", "F"),
            "transparent": image.has_transparency_data,
            "animated": not several and _animated(image),
            "turned": turned,
        }
    pixels = pictures.rgb(upright, name)
    height, width, _ = pixels.shape
    small = Image.fromarray(pixels)
    coefficients = perceptual.low_frequencies(small)
    # Scaled so that the squares of all but the first sum to the variance.
    scaled = coefficients * (2 / perceptual.SIDE**2)
    scaled[0] /= np.sqrt(2)
    scaled[:, 0] /= np.sqrt(2)
    coarse = scaled.ravel()[1:]
    plain = bool(np.linalg.norm(coarse) < PLAIN_DEVIATION)
    colour = (
        small.resize((1, 1), Image.Resampling.BOX).convert("YCbCr").getpixel((0, 0))
    )
    assert isinstance(colour, tuple)
    return (
        np.frombuffer(hashlib.sha256(content).digest(), np.uint64),
        0 if plain else perceptual.hash_of(coefficients),
        0 if plain else np.rint(coarse * (127 / np.abs(coarse).max())),
        np.array(colour[1:]) - 128,
        height,
        width,
        pictures.FORMATS.index(format),
        sum(marks[mark] << bit for bit, mark in enumerate(_MARKS)),
        _FORMATS[PurePosixPath(name).suffix.lower()] != format,
        plain,
    )


def _animated(image: "Image.Image") -> bool:
    # What follows the first frame is not read, and may be damaged in any way.
    with contextlib.suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False


def _alike(records: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which pairs (int64[n, 2]) of near hashes are near-duplicates, bool[n]."""
    first, second = (records["coarse"][side].astype(np.float32) for side in pairs.T)
    products = np.sum(first * second, axis=1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    one, other = (records["colour"][side].astype(np.int16) for side in pairs.T)
    return (products >= NEAR_CORRELATION * lengths) & (
        np.abs(one - other).max(axis=1) <= NEAR_COLOUR
    )


def _near_groups(records: np.ndarray) -> np.ndarray:
    """For each picture the first one that it is joined to by near-duplicates."""
    groups = np.arange(len(records))
    waiting, count = [np.empty((0, 2), np.int64)], 0
    for pairs in perceptual.near_pairs(records["hash"], NEAR_BITS):
        pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
        if len(pairs):
            waiting.append(pairs[_alike(records, pairs)])
            count += len(waiting[-1])
        # Each time that some are joined, all groups are looked at.
        if count > perceptual.BLOCK:
            groups = perceptual.joined(groups, np.concatenate(waiting))
            waiting, count = waiting[:1], 0
    return perceptual.joined(groups, np.concatenate(waiting))


def _copies(records: np.ndarray, listing: _Listing, divided: bool) -> Iterator[Problem]:
    """Pictures that occur several times; the near ones are joined transitively."""
    places = np.flatnonzero(records["height"] > 0)
    _, first, content = np.unique(
        records["digest"][places], axis=0, return_index=True, return_inverse=True
    )
    content, first = content.reshape(-1), places[first]
    shown = np.flatnonzero(~records["plain"][first])
    near = np.arange(len(first))
    near[shown] = shown[_near_groups(records[first[shown]])]
    equal = [places[run] for run in perceptual.runs(content)]
    alike = [
        places[run]
        for run in perceptual.runs(near[content])
        if np.ptp(content[run]) > 0
    ]
    both = "in training and validation"
    if divided:
        both = "in a folder from which validation pictures are drawn"
    for suffix, what, groups in (
        ("", "equal files", equal),
        ("-near", "pictures that look the same", alike),
    ):
        conflicts, leaks, copies = [], [], []
        for group in groups:
            conflict = np.ptp(listing.labels[group]) > 0
            leak = divided or np.ptp(listing.splits[group]) > 0
            names = tuple(listing.name(place) for place in group.tolist())
            finding = Finding(names, what)
            if conflict:
                conflicts.append(finding)
            if leak:
                leaks.append(finding)
            if not conflict and not leak:
                copies.append(finding)
        for kind, serious, where, advice, found in (
            (
                "conflict",
                True,
                "in several classes",
                "decide which label is right, and remove the others: no network can "
                "learn both",
                conflicts,
            ),
            (
                "leak",
                True,
                both,
                "keep one of each: a network is tested on what it was trained on",
                leaks,
            ),
            ("copies", False, "in one class", "keep one of each", copies),
        ):
            if found:
                yield Problem(
                    kind + suffix,
                    serious,
                    f"{_several(found, 'group')} of {what}, {where}",
                    f"look at them, and {advice}" if suffix else advice,
                    found,
                )


def _unbalanced(folder: folders.ImageFolder) -> Iterator[Problem]:
    few, unequal = [], []
    for split, classes in _counts(folder).items():
        few += [
            Finding((name,), f"{count} in {split}")
            for name, count in classes.items()
            if count < FEW_PICTURES
        ]
        least, most = (
            choose(classes, key=classes.__getitem__) for choose in (min, max)
        )
        ratio = classes[most] / classes[least]
        if ratio > LARGEST_IMBALANCE:
            said = f"{classes[least]:,} in {split}, {most} has {classes[most]:,}"
            unequal.append(Finding((least,), f"{said}, {ratio:.0f} times as many"))
    if few:
        yield Problem(
            "few",
            False,
            f"{_several(few, 'class', 'classes')} with fewer than {FEW_PICTURES} "
            "pictures",
            "add pictures: an accuracy on so few says little",
            few,
        )
    if unequal:
        yield Problem(
            "unbalanced",
            False,
            f"the largest class has more than {LARGEST_IMBALANCE} times as many "
            "pictures as the smallest",
            "add pictures to the small ones, or look at the accuracy of each class: "
            "always guessing the largest is right often",
            unequal,
        )


def _odd(records: np.ndarray, listing: _Listing) -> Iterator[Problem]:
    """What is unusual about single pictures."""
    width, height = (records[side].astype(np.int64) for side in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    read = height > 0

    def size(place: int) -> str:
        return f"{width[place]}x{height[place]}"

    def format(place: int) -> str:
        return f"is a {pictures.FORMATS[records['format'][place]]}"

    for kind, places, detail, said, advice in (
        (
            "misnamed",
            records["misnamed"],
            format,
            "of another format than the suffix says",
            "rename them; they are read nonetheless, but not by every program",
        ),
        (
            "plain",
            records["plain"],
            size,
            "of a single brightness",
            "remove them if nothing can be seen in them",
        ),
        (
            "tiny",
            read & (short < TINY_SIDE),
            size,
            f"with a side of less than {TINY_SIDE} pixels",
            "look whether they are thumbnails; enlarged they are blurred",
        ),
        (
            "huge",
            width * height > HUGE_PIXELS,
            size,
            f"of more than {HUGE_PIXELS:,} pixels",
            "make them smaller, which is all that training would do each time",
        ),
        (
            "long",
            read & (long > LONGEST_RATIO * short),
            size,
            f"more than {LONGEST_RATIO} times as long as wide",
            "crop them to what matters: usually their middle square alone is seen",
        ),
    ):
        if places.any():
            found = _Marked(listing, np.flatnonzero(places), detail)
            said = f"{_several(found, 'picture')} {said}"
            yield Problem(kind, False, said, advice, found)


def _left_out(path: Path, listing: _Listing) -> Iterator[Problem]:
    """Files that the index leaves out."""
    listed = {listing.name(place) for place in range(len(listing))}
    outside, others = [], []
    for name in folders.file_names(path):
        if name in listed or name.endswith("/"):
            continue
        picture = name.lower().endswith(folders.SUFFIXES)
        (outside if picture else others).append(Finding((name,), "is not read"))
    outside.sort()
    others.sort()
    if outside:
        yield Problem(
            "outside",
            False,
            f"{_several(outside, 'picture')} outside of the class folders",
            "move them into one if they belong there",
            outside,
        )
    if others:
        yield Problem(
            "others",
            False,
            f"{_several(others, 'file')} without the suffix of a picture",
            f"only {', '.join(folders.SUFFIXES)} are read; convert or rename what is "
            "a picture",
            others,
        )


def _several(found: Sequence[Any] | int, one: str, many: str = "") -> str:
    count = found if isinstance(found, int) else len(found)
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def document(report: Report) -> dict[str, Any]:
    """A report for programs: what `json.dumps` takes, all names included."""
    fields = {
        field.name: getattr(report, field.name) for field in dataclasses.fields(report)
    }
    return fields | {
        "path": str(report.path),
        "pictures": report.pictures,
        "serious": report.serious,
        "problems": [
            {
                "kind": problem.kind,
                "serious": problem.serious,
                "said": problem.said,
                "advice": problem.advice,
                "found": [finding._asdict() for finding in problem.found],
            }
            for problem in report.problems
        ],
    }


def text(report: Report, *, limit: int) -> str:
    """A report for people: the problems, and then what there is.

    Args:
        limit: how many places of each problem, how many names of a place, and how
            many classes are listed.
    """
    lines = [
        f"{report.path}: {_several(report.pictures, 'picture')} of "
        f"{len(next(iter(report.counts.values())))} classes"
    ]
    for heading, serious in (("PROBLEMS", True), ("WORTH A LOOK", False)):
        problems = [each for each in report.problems if each.serious == serious]
        if problems:
            lines += ["", heading]
        for problem in problems:
            lines += [problem.said, f"  -> {problem.advice}"]
            lines += _listed(problem.found, limit)
    lines += ["", "WHAT THERE IS", *_table(report.counts, limit)]
    lines += [
        f"{side}: {least:,} to {most:,}, median {middle:,.0f}"
        for side, (least, middle, most) in report.sizes.items()
    ]
    formats = [f"{count:,} {name}" for name, count in report.formats.items()]
    lines.append(f"formats: {', '.join(formats) or 'none, nothing can be read'}")
    if marks := [f"{count:,} {mark}" for mark, count in report.marks.items() if count]:
        lines.append(f"of these: {', '.join(marks)}")
    if report.marks["turned"]:
        lines.append(
            "(turned: by an EXIF orientation of 2 to 8; flaxnets turns them upright, "
            "other programs may show them sideways)"
        )
    count = sum(problem.serious for problem in report.problems)
    lines += ["", f"{_several(count, 'problem') if count else 'no serious problem'}"]
    return "\n".join(_printable(line) for line in lines)


def _listed(found: Sequence[Finding], limit: int) -> Iterator[str]:
    for finding in found[:limit]:
        first, *rest = finding.names
        yield f"    {first}" + ("" if rest else f": {finding.detail}")
        for name in rest[:limit]:
            yield f"    = {name}"
        if len(rest) > limit:
            yield f"    = {len(rest) - limit:,} more"
    if len(found) > limit:
        yield f"    and {len(found) - limit:,} more (--limit or --json shows them)"


def _table(counts: dict[str, dict[str, int]], limit: int) -> Iterator[str]:
    """Pictures of each class; of many classes, those with the fewest."""
    classes = list(next(iter(counts.values())))
    if len(classes) > limit:
        classes.sort(key=lambda name: sum(split[name] for split in counts.values()))
    rows = [["", *counts]]
    for name in classes[:limit]:
        rows.append([name, *(f"{split[name]:,}" for split in counts.values())])
    rows.append(["sum", *(f"{sum(of.values()):,}" for of in counts.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *numbers = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *numbers])
    if len(classes) > limit:
        yield f"(the {limit} smallest of {len(classes):,} classes)"


def _printable(line: str) -> str:
    """A line in which a name cannot move the cursor, nor hold bytes of no letter."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )
