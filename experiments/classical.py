"""What networks that restore images are compared with: classical filters, tuned."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

Filter = Callable[[np.ndarray], np.ndarray]
"""Maps one image f32[H, W, C] to another."""


class Candidate(NamedTuple):
    """A filter with one of the settings that it is tuned over."""

    setting: str
    apply: Filter


def filters() -> dict[str, tuple[Candidate, ...]]:
    """scikit-image's filters by name."""
    from skimage import restoration
    from skimage.filters import median
    from skimage.morphology import disk

    def total_variation(weight: float) -> Candidate:
        return Candidate(
            f"weight {weight}",
            lambda image: restoration.denoise_tv_chambolle(
                image, weight=weight, channel_axis=-1
            ),
        )

    def non_local_means(h: float, patch: int, sigma: float) -> Candidate:
        return Candidate(
            f"h {h}, patch {patch}, sigma {sigma}",
            lambda image: restoration.denoise_nl_means(
                image,
                patch_size=patch,
                patch_distance=7,
                h=h,
                sigma=sigma,
                channel_axis=-1,
            ),
        )

    def medians(radius: int) -> Candidate:
        window = np.asarray(disk(radius))[..., None]
        return Candidate(f"radius {radius}", lambda image: median(image, window))

    return {
        "total variation": tuple(
            total_variation(weight)
            for weight in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.8)
        ),
        "non-local means": tuple(
            non_local_means(h, patch, sigma)
            for h in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)
            for patch in (3, 5)
            for sigma in (0.0, 0.25, 0.5)
        ),
        "median": tuple(medians(radius) for radius in (1, 2, 3)),
    }


def applied(candidate: Candidate, images: np.ndarray) -> np.ndarray:
    """Each image f32[N, H, W, C] through a filter, several at a time."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(candidate.apply, images))
    # Some of them drop a single channel.
    return np.stack(found).astype(np.float32).reshape(images.shape)


def tuned(
    candidates: tuple[Candidate, ...], noisy: np.ndarray, clean: np.ndarray
) -> Candidate:
    """The candidate whose results, cut to [0, 1], are nearest to clean images."""

    def error(candidate: Candidate) -> float:
        found = np.clip(applied(candidate, noisy), 0, 1)
        return float(np.mean(np.square(found - clean)))

    return min(candidates, key=error)
