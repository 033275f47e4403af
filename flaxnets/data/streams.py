"""Pictures decoded when they are asked for, where all of them would not fit."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np

from flaxnets import errors
from flaxnets.data import pictures
from flaxnets.data.arrays import Split
from flaxnets.data.folders import ImageFolder, Listing, Source

# How many prepared pictures tell one preparation from another.
_SAMPLES = 16


class Pictures(Sequence[np.ndarray]):
    """Prepared pictures of a folder or zip; stands where uint8[N, h, w, 3] does.

    `pictures[3]` is a picture, `pictures[indices]` an array of them, of the shape of
    `indices` and of a picture: decoded by several threads, and not kept. It is also a
    random-access source of grain, for other pipelines than ours.

    Args:
        folder: from `data.image_folder`.
        listing: `folder.train`, `folder.validation`, or some of their entries.
        prepare: maps uint8[H, W, 3] to uint8[h, w, 3] of one size for all, such as
            `Preprocessing.cropped`.
        on_bad: whether a picture that cannot be read is an error when it is asked
            for, or has its place taken by another of its class, the next in the
            listing that can be read.
        workers: threads that decode; by default two more than there are processors,
            since they also wait for the disk and for each other.

    Attributes:
        shape, dtype, ndim, nbytes: what an array of all of them would have.
        skipped: one message for each picture that could not be read so far, by its
            index.
    """

    def __init__(
        self,
        folder: ImageFolder,
        listing: Listing,
        prepare: Callable[[np.ndarray], np.ndarray],
        *,
        on_bad: Literal["raise", "skip"] = "raise",
        workers: int | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise errors.ArgumentError(
                f"workers is {workers}, but must be at least 1; leave it out for as "
                "many as there are processors"
            )
        self.skipped: dict[int, str] = {}
        self._folder, self._listing, self._prepare = folder, listing, prepare
        self._skip = on_bad == "skip"
        self._workers = workers or (os.cpu_count() or 1) + 2
        self._source = Source(folder.path)
        self.dtype = np.dtype(np.uint8)
        self.shape = (len(listing), *self._one(0).shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._listing)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._one(range(len(self))[index])
        places = np.arange(len(self))[index]
        return self._several(places.ravel()).reshape(*places.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[:].astype(dtype or self.dtype, copy=False)

    def fingerprint(self) -> str:
        """A SHA-256 of the files' names, labels and bytes, and of how they look.

        Reads every file, but prepares a few pictures only: enough to tell another
        size, crop, filter, or version of what decodes. Where bad pictures are skipped,
        it decodes all, and so completes `skipped`.
        """
        found = hashlib.sha256(repr(self.shape).encode())
        with pictures.strict_warnings():
            for (name, label), digest in zip(
                self._listing, self._mapped(self._digest, range(len(self))), strict=True
            ):
                found.update(os.fsencode(name) + f"\0{label}\0".encode() + digest)
        step = max(1, len(self) // _SAMPLES)
        found.update(self[: step * _SAMPLES : step].tobytes())
        return found.hexdigest()

    def split(self) -> Split:
        """The pictures and their labels, for `train.fit` and `Plan.seen`."""
        # What a split is used for asks no more of its images than is here.
        return Split(cast(np.ndarray, self), self._listing.labels)

    def _one(self, place: int) -> np.ndarray:
        """The picture at a place, or one of its class in its stead."""
        label = self._listing.labels[place]
        for other in itertools.chain(range(place, len(self)), range(place)):
            if self._listing.labels[other] != label or other in self.skipped:
                continue
            name = self._listing[other][0]
            try:
                return self._prepare(self._source.picture(name))
            except errors.DataError as error:
                if not self._skip:
                    raise
                self.skipped[other] = str(error)
        raise errors.DataError(
            f"{self._folder.path}: none of the pictures of class "
            f"{self._folder.class_names[label]!r} can be read, the last: "
            f"{list(self.skipped.values())[-1]}"
        )

    def _several(self, places: np.ndarray) -> np.ndarray:
        found = np.empty((len(places), *self.shape[1:]), np.uint8)
        with pictures.strict_warnings():
            for row, picture in enumerate(self._mapped(self._one, places.tolist())):
                if picture.shape != self.shape[1:]:
                    raise errors.DataError(
                        f"{self._listing[places[row]][0]}: was prepared to "
                        f"{list(picture.shape)}, another picture to "
                        f"{list(self.shape[1:])}; prepare all to one size"
                    )
                found[row] = picture
        return found

    def _digest(self, place: int) -> bytes:
        name = self._listing[place][0]
        try:
            found = hashlib.sha256(self._source.content(name)).digest()
            if self._skip:
                self._source.picture(name)
            return found
        except errors.DataError as error:
            if not self._skip:
                raise
            self.skipped[place] = str(error)
            return b""

    def _mapped(
        self, function: Callable[[Any], Any], source: Sequence[Any]
    ) -> Iterator[Any]:
        """What a function makes of each entry, in order, several at a time."""
        import grain

        options = grain.ReadOptions(
            num_threads=self._workers, prefetch_buffer_size=4 * self._workers
        )
        mapped = grain.MapDataset.source(source).map(function)
        return iter(mapped.to_iter_dataset(options))
