"""From a photo of a written digit to 28x28 pixels, made the way MNIST was made.

MNIST's digits (LeCun, Cortes and Burges, "The MNIST database of handwritten digits")
are white on black, scaled to fit 20x20 pixels with their aspect ratio kept and with
anti-aliasing, and laid into 28x28 pixels with their centre of mass in the middle. In
the published files that middle is row 14, column 14, reached by whole pixels.
"""

import numpy as np

from flaxnets import errors

SIDE = 28
BOX = 20
MIDDLE = 14.0
# Strokes in MNIST are rarely thinner than this; a ballpoint line scaled down to BOX
# would be a faint hair that no network was trained on.
STROKE_PIXELS = 2.0
# Enough for a digit that fills a tenth of the picture.
WORKING_SIDE = 280
# The background changes slowly, so it is estimated on a small copy; a stroke is
# narrower than this share of the picture's shorter side, a shadow is wider.
BACKGROUND_SIDE = 96
WIDEST_STROKE = 1 / 3
# From this share of the ink's strength on, a pixel belongs to the digit.
EDGE = 0.35
# Noise alone, split in two at its best threshold, has a contrast below three times
# its own spread.
CONTRAST_TO_NOISE = 4.5
LEAST_CONTRAST = 8.0
# A part with less than this share of the largest part's ink is a speck.
SPECK = 0.03
# Only if something free of the edge is this tall is all that touches the edge (a
# table, a neighbouring line) left out.
LEAST_HEIGHT = 1 / 8


def normalise(grey: np.ndarray) -> np.ndarray:
    """Makes an MNIST-like picture, uint8[28, 28, 1], of grey values [H, W] (0 to 255).

    Dark on light or light on dark, under uneven light, with specks, or with the edge
    of the table in view. Lines that cross the digit (squared paper) are not removed.

    Raises:
        DataError: nothing stands out from the background.
    """
    ink = _ink(_shrunk(grey.astype(np.float32), WORKING_SIDE))
    parts = _parts_of_the_digit(ink)
    rows, columns = np.nonzero(parts)
    box = np.where(parts, ink, 0)[
        rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
    ]
    box = _thickened(box)
    scale = BOX / max(box.shape)
    height, width = (max(1, round(scale * length)) for length in box.shape)
    small = np.clip(_resized(box, height, width), 0, 1)
    small /= small.max()
    digit = np.zeros((SIDE, SIDE, 1), np.uint8)
    top, left = (_offset(small.sum(axis=1 - axis)) for axis in (0, 1))
    digit[top : top + height, left : left + width, 0] = np.rint(255 * small)
    return digit


def _offset(profile: np.ndarray) -> int:
    """Where to put a profile of ink so that its centre of mass is in the middle."""
    centre = (profile * np.arange(len(profile))).sum() / profile.sum()
    return int(np.clip(round(MIDDLE - centre), 0, SIDE - len(profile)))


def _ink(grey: np.ndarray) -> np.ndarray:
    """How much ink there is in each pixel, 0 to 1, f32[H, W]."""
    residual = grey - _surface_through_border(grey)
    bright, dark = np.maximum(residual, 0), np.minimum(residual, 0)
    if (dark**2).sum() > (bright**2).sum():
        grey = 255 - grey
    raised = grey - _background(grey)
    contrast = float(np.ptp(raised))
    if contrast >= LEAST_CONTRAST:
        threshold = _otsu(raised)
        below, above = raised[raised <= threshold], raised[raised > threshold]
        floor = np.median(below)
        noise = 1.4826 * np.median(np.abs(below - floor))
        contrast = above.mean() - below.mean()
        if contrast >= max(LEAST_CONTRAST, CONTRAST_TO_NOISE * noise):
            return np.clip((raised - floor) / (np.percentile(above, 75) - floor), 0, 1)
    raise errors.DataError(
        "no digit was found: nothing stands out from the background (contrast "
        f"{contrast:.0f} of 255 grey levels); give a picture with one digit in it"
    )


def _surface_through_border(grey: np.ndarray) -> np.ndarray:
    """A quadratic surface through the border pixels, f32[H, W].

    Fitted by reweighted least squares, so that a digit that reaches the border does
    not bend it.
    """
    height, width = grey.shape
    y, x = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    margin = max(1, round(0.04 * min(height, width)))
    border = np.ones(grey.shape, bool)
    border[margin:-margin, margin:-margin] = False
    matrix, values = terms[border], grey[border]
    coefficients = np.array([np.median(values), 0, 0, 0, 0, 0])
    for _ in range(10):
        residual = values - matrix @ coefficients
        weight = 1 / (1 + (residual / (np.median(np.abs(residual)) + 1)) ** 2)
        weighted = matrix.T * weight**2
        # The ridge keeps pictures of a single row solvable; it changes nothing else.
        normal = weighted @ matrix + 1e-6 * np.eye(6)
        coefficients = np.linalg.solve(normal, weighted @ values)
    return terms @ coefficients


def _background(grey: np.ndarray) -> np.ndarray:
    """What the picture would be without its bright strokes (a morphological opening).

    Strokes narrower than the window go; steps and slopes of light stay.
    """
    small = _shrunk(grey, BACKGROUND_SIDE)
    window = max(3, round(WIDEST_STROKE * min(small.shape)))
    opened = _filtered(_filtered(small, window, np.min), window, np.max)
    return _resized(opened, *grey.shape)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold: the split that separates the two classes' means most."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts)[:-1], values.size
    mass, whole = np.cumsum(counts * centres)[:-1], (counts * centres).sum()
    # Both classes hold a value: the first bin has the least, the last the greatest.
    between = (whole * below / total - mass) ** 2 / (below * (total - below))
    return float(edges[1 + np.argmax(between)])


def _parts_of_the_digit(ink: np.ndarray) -> np.ndarray:
    """Which pixels belong to the digit, bool[H, W]: no specks, no table edges."""
    labels = _components(ink > EDGE)
    names = np.unique(labels[labels > 0])
    mass = np.bincount(labels.ravel(), ink.ravel())[names]
    outer = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inner = ~np.isin(names, outer)
    if inner.any():
        largest = labels == names[inner][mass[inner].argmax()]
        if _height(largest) >= LEAST_HEIGHT * min(ink.shape):
            names, mass = names[inner], mass[inner]
    return np.isin(labels, names[mass >= SPECK * mass.max()])


def _components(mask: np.ndarray) -> np.ndarray:
    """Numbers the connected regions (8 neighbours) of a mask, int[H, W]; 0 elsewhere.

    Row by row over runs of pixels; runs that touch are joined (union-find).
    """
    labels = np.zeros(mask.shape, np.int64)
    parent = [0]

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line, prepend=False, append=False))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            label = len(parent)
            parent.append(label)
            labels[row, start:stop] = label
            if row:
                for other in set(labels[row - 1, max(start - 1, 0) : stop + 1]) - {0}:
                    parent[root(other)] = root(label)
    return np.array([root(label) for label in range(len(parent))])[labels]


def _thickened(ink: np.ndarray) -> np.ndarray:
    """The same digit with strokes that will not vanish when it is scaled to BOX."""
    stroke = np.pad(ink > 0.5, 1)
    steps = (stroke[1:] != stroke[:-1]).sum() + (stroke[:, 1:] != stroke[:, :-1]).sum()
    # Pixel steps overstate a contour's length by 4/pi, averaged over directions.
    contour = np.pi / 4 * steps
    stroke_width = 2 * stroke.sum() / contour
    wanted = STROKE_PIXELS * max(ink.shape) / BOX
    growth = max(0, round((wanted - stroke_width) / 2))
    return _filtered(np.pad(ink, growth), 2 * growth + 1, np.max)


def _filtered(values: np.ndarray, window: int, reduce) -> np.ndarray:
    """Minimum or maximum over a square window (made odd) round each pixel."""
    half = window // 2
    for axis in (0, 1):
        padding = [(half, half) if axis == side else (0, 0) for side in (0, 1)]
        values = reduce(
            np.lib.stride_tricks.sliding_window_view(
                np.pad(values, padding, mode="edge"), 2 * half + 1, axis=axis
            ),
            axis=-1,
        )
    return values


def _height(mask: np.ndarray) -> int:
    """Rows from the first to the last that hold something."""
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[-1] - rows[0] + 1)


def _shrunk(values: np.ndarray, side: int) -> np.ndarray:
    """The same picture with its longer side at most `side` pixels."""
    scale = min(1.0, side / max(values.shape))
    height, width = (max(1, round(scale * length)) for length in values.shape)
    return _resized(values, height, width)


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resized to f32[height, width]; going down, each pixel is averaged over."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
