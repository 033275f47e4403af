"""Pictures in folders, a folder a class, or in a zip of such folders."""

import collections
import dataclasses
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxnets import errors
from flaxnets.data import pictures
from flaxnets.data.arrays import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Folders by these names at the top are splits, the first of each line being ours.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test"),
}
# Beside hidden ones, what systems leave among pictures.
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")
# A member of a zip that claims more is no photograph.
_LARGEST_BYTES = 512 << 20


class Listing(Sequence[tuple[str, int]]):
    """Names and labels of many pictures, in a few bytes each besides the names.

    Names are paths below the root, joined by `/`; bytes that are no UTF-8 are kept as
    surrogates, as `os.fsdecode` does.
    """

    def __init__(self, entries: Iterable[tuple[str, int]]) -> None:
        names, labels, ends = bytearray(), [], []
        for name, label in entries:
            names += os.fsencode(name)
            ends.append(len(names))
            labels.append(label)
        self._names = bytes(names)
        self._ends = np.array(ends, np.int64)
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        name = self._names[start : int(self._ends[place])]
        return os.fsdecode(name), int(self.labels[place])

    @property
    def nbytes(self) -> int:
        """Bytes that the listing takes."""
        return len(self._names) + self._ends.nbytes + self.labels.nbytes


class Read(NamedTuple):
    """What was read of a split.

    Attributes:
        split: pictures uint8[N, h, w, 3] and labels.
        names: of the pictures read.
        skipped: one message for each picture that could not be read.
    """

    split: Split
    names: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Pictures by class, indexed and not yet read. Made by `image_folder`.

    Attributes:
        path: the folder or zip.
        class_names: in alphabetical order; labels index them.
        train, validation: names and labels of the pictures.
        others: how many files are no pictures by their suffix.
        divided: whether there are no splits in it, and validation pictures were drawn.
    """

    path: Path
    class_names: tuple[str, ...]
    train: Listing
    validation: Listing
    others: int
    divided: bool = False

    def read(
        self,
        listing: Sequence[tuple[str, int]],
        prepare: Callable[[np.ndarray], np.ndarray],
        *,
        on_bad: Literal["raise", "skip"] = "raise",
        workers: int | None = None,
    ) -> Read:
        """Decodes and prepares pictures, several at a time.

        Args:
            listing: `train`, `validation`, or some of their entries.
            prepare: maps uint8[H, W, 3] to uint8[h, w, 3] of one size for all, such as
                `Preprocessing.cropped`.
            on_bad: whether a picture that cannot be read is an error, or is left out
                and listed.
            workers: threads; by default as many as there are processors.

        Raises:
            DataError: a picture cannot be read, or none could.
        """

        def one(entry: tuple[str, int]) -> np.ndarray | errors.DataError:
            try:
                return prepare(source.picture(entry[0]))
            except errors.DataError as error:
                return error

        images, labels, names, skipped = [], [], [], []
        with (
            pictures.strict_warnings(),
            Source(self.path) as source,
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        ):
            for (name, label), found in zip(
                listing, pool.map(one, listing), strict=True
            ):
                if isinstance(found, errors.DataError):
                    if on_bad == "raise":
                        pool.shutdown(cancel_futures=True)
                        raise found
                    skipped.append(str(found))
                    continue
                images.append(found)
                labels.append(label)
                names.append(name)
        if not images:
            raise errors.DataError(
                f"{self.path}: none of {len(listing)} pictures could be read, the "
                f"first: {skipped[0] if skipped else 'there is none'}"
            )
        split = Split(np.stack(images), np.array(labels, np.int32))
        return Read(split, tuple(names), tuple(skipped))


def image_folder(
    path: str | os.PathLike[str], *, validation: float = 0.2, seed: int = 0
) -> ImageFolder:
    """Indexes a folder, or a zip of one, that holds a folder of pictures a class.

    The class folders lie in it, or in folders called `train` and `validation` (or
    `val`, `valid`, `test`); a single folder around all of them does not matter. A zip
    is read in place. Hidden files, and what systems leave behind (`Thumbs.db`,
    `__MACOSX`), are neither classes nor pictures; links to folders are not followed.

    Args:
        path: the folder or zip.
        validation: the share of each class that is set aside where there are no
            splits, drawn anew for each seed.
        seed: of that draw.

    Raises:
        DataError: there is no such folder or zip, or it is damaged; it has fewer than
            two classes, or one without pictures; or the splits have other classes.
    """
    path = Path(path)
    if not 0 < validation < 1:
        raise errors.ArgumentError(
            f"validation is {validation}, but must be a share between 0 and 1"
        )
    found = sorted(file_names(path))
    top = _top(found)
    found = [name.removeprefix(top) for name in found if name.startswith(top)]
    firsts = {name.partition("/")[0] for name in found if "/" in name}
    splits = {
        split: next((name for name in names if name in _lowered(firsts)), None)
        for split, names in _SPLITS.items()
    }
    if splits["train"] is None:
        return _divided(path, top, found, validation, seed)
    ours = {split: _lowered(firsts)[name] for split, name in splits.items() if name}
    if "validation" not in ours:
        raise errors.DataError(
            f"{path}: has a folder {ours['train']!r}, but none of "
            f"{', '.join(_SPLITS['validation'])} beside it; add one, or give the "
            f"folder {ours['train']!r} itself to have it divided"
        )
    listed = {
        split: _by_class(path, found, f"{folder}/") for split, folder in ours.items()
    }
    names = {split: set(classes) for split, (classes, _) in listed.items()}
    if names["train"] != names["validation"]:
        only = [
            f"{ours[one]} alone has {', '.join(sorted(names[one] - names[other]))}"
            for one, other in (("train", "validation"), ("validation", "train"))
            if names[one] - names[other]
        ]
        raise errors.DataError(
            f"{path}: the splits have other classes: {'; '.join(only)}; expected the "
            "same folders in both"
        )
    class_names = tuple(sorted(names["train"]))
    return ImageFolder(
        path,
        class_names,
        *(
            Listing(
                (top + name, label)
                for label, class_name in enumerate(class_names)
                for name in listed[split][0][class_name]
            )
            for split in ("train", "validation")
        ),
        others=sum(others for _, others in listed.values()),
    )


def _divided(
    path: Path, top: str, found: list[str], validation: float, seed: int
) -> ImageFolder:
    """A folder without splits, of which a share of each class is set aside."""
    classes, others = _by_class(path, found, "")
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "validation": []}
    for label, (class_name, names) in enumerate(sorted(classes.items())):
        if len(names) < 2:
            raise errors.DataError(
                f"{path}: class {class_name!r} has {len(names)} picture, too few to "
                "divide; add some, or make folders train and validation"
            )
        generator = np.random.Generator(np.random.Philox(key=[seed, label]))
        aside = min(max(1, round(validation * len(names))), len(names) - 1)
        chosen = set(generator.permutation(len(names))[:aside].tolist())
        for place, name in enumerate(names):
            split = "validation" if place in chosen else "train"
            parts[split].append((top + name, label))
    return ImageFolder(
        path,
        tuple(sorted(classes)),
        Listing(parts["train"]),
        Listing(parts["validation"]),
        others,
        divided=True,
    )


def _by_class(
    path: Path, found: Iterable[str], below: str
) -> tuple[dict[str, list[str]], int]:
    """Pictures of each folder directly under `below`, and how many other files."""
    classes: dict[str, list[str]] = collections.defaultdict(list)
    others = 0
    for name in found:
        inside = name.removeprefix(below)
        if not name.startswith(below) or "/" not in inside:
            continue
        class_name, _, rest = inside.partition("/")
        pictures_of = classes[class_name]
        if rest.lower().endswith(SUFFIXES):
            pictures_of.append(name)
        elif rest:
            others += 1
    where = f"{path}{f' ({below})' if below else ''}"
    if len(classes) < 2:
        raise errors.DataError(
            f"{where}: has {len(classes)} folders"
            f"{f' ({next(iter(classes))})' if classes else ''}, expected one for each "
            "of two or more classes"
        )
    if empty := sorted(name for name, names in classes.items() if not names):
        raise errors.DataError(
            f"{where}: no picture ({', '.join(SUFFIXES)}) lies in the class "
            f"{', '.join(empty)}; add pictures, or remove the folder"
        )
    return dict(classes), others


def _top(found: Sequence[str]) -> str:
    """The folders around everything, each the only one in its folder."""
    top = ""
    while True:
        inside = [name.removeprefix(top) for name in found if name.startswith(top)]
        folders = {name.partition("/")[0] for name in inside if "/" in name}
        # A folder without folders in it is a class by itself.
        if len(folders) != 1 or all(name.count("/") < 2 for name in inside):
            return top
        top = f"{top}{folders.pop()}/"


def _lowered(names: Iterable[str]) -> dict[str, str]:
    return {name.lower(): name for name in names}


def file_names(path: Path) -> Iterator[str]:
    """Paths of files below a folder or in a zip; those of empty folders end with /."""
    if path.is_dir():
        yield from _walked(path)
        return
    with _archive(path) as archive:
        for member in archive.infolist():
            if not _litter(PurePosixPath(member.filename).parts):
                yield member.filename


def _walked(path: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(path, onerror=_unlisted):
        inner[:] = [name for name in inner if not _litter((name,))]
        below = os.path.relpath(folder, path).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        if prefix and not inner and not files:
            yield prefix
        for name in files:
            if not _litter((name,)):
                yield prefix + name


def _unlisted(error: OSError) -> None:
    raise errors.DataError(
        f"{error.filename}: cannot be listed ({error.strerror}); allow it to be read, "
        "or move it away"
    ) from error


def _litter(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part.lower() in _LITTER for part in parts)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise errors.DataError(
            f"{path}: there is no such folder or zip; name one that holds a folder of "
            "pictures for each class"
        ) from error
    except (OSError, zipfile.BadZipFile) as error:
        raise errors.DataError(
            f"{path}: is neither a folder nor an undamaged zip ({error})"
        ) from error


class Source:
    """The files of a folder or zip by name; a context manager.

    Args:
        path: the folder or zip.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = None if path.is_dir() else _archive(path)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def picture(self, name: str) -> np.ndarray:
        """A picture, decoded as `pictures.read_image` does.

        Raises:
            DataError: it cannot be read.
        """
        if self._archive is None:
            return pictures.read_image(self._path / name)
        shown = f"{self._path}: {name}"
        return pictures.decode(io.BytesIO(self._member(shown, name)), shown)

    def content(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            DataError: it cannot be read.
        """
        if self._archive is not None:
            return self._member(f"{self._path}: {name}", name)
        path = self._path / name
        try:
            status = path.stat()
            # A pipe would be waited for, and a device never ends.
            if not stat.S_ISREG(status.st_mode):
                raise errors.DataError(f"{path}: is no file with a content")
            if status.st_size > _LARGEST_BYTES:
                raise errors.DataError(
                    f"{path}: refused, it has {status.st_size:,} bytes"
                )
            return path.read_bytes()
        except OSError as error:
            raise errors.DataError(
                f"{path}: cannot be read ({error.strerror})"
            ) from error

    def _member(self, shown: str, name: str) -> bytes:
        assert self._archive is not None
        try:
            member = self._archive.getinfo(name)
            if member.file_size > _LARGEST_BYTES:
                raise errors.DataError(
                    f"{shown}: refused, it claims {member.file_size:,} bytes"
                )
            # Whole, so that its checksum is looked at.
            return self._archive.read(member)
        except (
            KeyError,
            OSError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise errors.DataError(
                f"{shown}: cannot be read from the zip ({error}); get it again"
            ) from error
