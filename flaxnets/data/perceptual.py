"""Hashes of pictures that look alike, and the search for near ones."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SIDE, LOW = 32, 8
# The cosines of DCT-II, the constant one first.
_COSINES = np.cos(
    np.pi / SIDE * np.arange(LOW)[:, None] * (np.arange(SIDE) + 0.5)[None, :]
)
# Pairs that are compared at once.
BLOCK = 1 << 17


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits that change little when a picture is resized or encoded anew.

    The picture is made grey and 32x32 (Lanczos); of its cosine transform (DCT-II, not
    normalised) each of the 8x8 lowest frequencies gives a bit, row by row, the first
    being the highest: whether it is above their median. That is `phash` of the package
    imagehash 4.3, whose bits these are; the idea is N. Krawetz's ("Looks Like It",
    2011).

    Args:
        image: uint8[H, W, 3].
    """
    from PIL import Image

    return hash_of(low_frequencies(Image.fromarray(image)))


def low_frequencies(image: "Image.Image") -> np.ndarray:
    """float64[8, 8], see `perceptual_hash`."""
    from PIL import Image

    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _COSINES @ np.asarray(small, np.float64) @ _COSINES.T


def hash_of(coefficients: np.ndarray) -> int:
    bits = coefficients > np.median(coefficients)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Pairs of hashes that differ in few bits; faster than comparing them all.

    The 64 bits are cut in `distance + 1` bands. Hashes that differ in no more than
    `distance` bits are equal in a band at least, so only those that share a band are
    compared.

    Args:
        hashes: uint64[N].
        distance: the largest number of bits, less than 64.

    Yields:
        int64[n, 2]: places in `hashes`, the smaller first; each pair once.
    """
    cuts = np.linspace(0, 64, distance + 2).astype(int).tolist()
    masks = [
        np.uint64((1 << stop) - (1 << start))
        for start, stop in zip(cuts, cuts[1:], strict=False)
    ]
    for band, mask in enumerate(masks):
        for run in runs(hashes & mask):
            rows = max(1, BLOCK // len(run))
            for row in range(0, len(run) - 1, rows):
                first, second = run[row : row + rows], run[row + 1 :]
                bits = hashes[first][:, None] ^ hashes[second][None, :]
                above, right = np.nonzero(np.bitwise_count(bits) <= distance)
                # What an earlier band has in common was found there.
                fresh = above <= right
                for earlier in masks[:band]:
                    fresh &= (bits[above, right] & earlier) != 0
                yield np.stack([first[above[fresh]], second[right[fresh]]], axis=1)


def runs(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Places of equal keys, in order, for each key that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    starts = np.concatenate([[0], edges])
    sizes = np.diff(np.concatenate([starts, [len(keys)]]))
    for start, size in zip(
        starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True
    ):
        yield order[start : start + size]


def joined(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """`groups` (each place's first member) when those of each pair are one."""
    while True:
        low, high = np.sort(groups[pairs], axis=1).T
        if (low == high).all():
            return groups
        follow = np.arange(len(groups))
        np.minimum.at(follow, high, low)
        while (follow != follow[follow]).any():
            follow = follow[follow]
        groups = follow[groups]
