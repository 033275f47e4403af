"""Random changes of images, on the device: functions `(key, images) -> images`.

Images are f32[B, H, W, C]; each image of a batch is changed by its own draw, what is
moved in from outside is 0, and the same key gives the same images. `resized_crop`,
`interpolated` and the `adjust_` functions are what some of the changes do once
something has been drawn.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxnets import errors

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, each with a key of its own."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(augmentations))
        for augmentation, own in zip(augmentations, keys, strict=True):
            images = augmentation(own, images)
        return images

    return augment


def shift(pixels: int) -> Augmentation:
    """Moves each image by -pixels to +pixels in each direction, uniformly."""
    if pixels < 0:
        raise errors.ArgumentError(f"shift is {pixels} pixels, but cannot be negative")

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        _, height, width, _ = images.shape
        offsets = jax.random.randint(key, (2, len(images)), -pixels, pixels + 1)
        corners = pixels - offsets
        return _windows(_pad(images, pixels), corners[0], corners[1], height, width)

    return augment


def crop(size: int, *, padding: int = 0) -> Augmentation:
    """Cuts a square of `size` pixels out of each image at a uniform place.

    Args:
        size: of the square, in pixels.
        padding: zeros added on every side before cutting.

    Raises:
        ArgumentError: (when called on images) the square is larger than the padded
            images.
    """
    _check_positive("crop", size)
    if padding < 0:
        raise errors.ArgumentError(
            f"padding is {padding} pixels, but cannot be negative"
        )

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        images = _pad(images, padding)
        batch, height, width, _ = images.shape
        if size > min(height, width):
            raise errors.ArgumentError(
                f"crop of {size} pixels is larger than the images ({height}x{width} "
                "with padding); cut a smaller square or pad more"
            )
        rows, columns = jax.random.split(key)
        top = jax.random.randint(rows, (batch,), 0, height - size + 1)
        left = jax.random.randint(columns, (batch,), 0, width - size + 1)
        return _windows(images, top, left, size, size)

    return augment


def random_resized_crop(
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augmentation:
    """Cuts a random box out of each image and resizes it (Szegedy et al. 2015).

    Boxes are those of `random_boxes`, resizing is that of `resized_crop`.

    Args:
        size: of the square that boxes become, in pixels.
        scale: least and largest share of the image's area in a box.
        ratio: least and largest width of a box over its height.
    """
    _check_positive("random_resized_crop", size)
    _check_boxes(scale, ratio)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        boxes = random_boxes(key, images.shape, scale=scale, ratio=ratio)
        return resized_crop(images, boxes, size)

    return augment


def random_boxes(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Boxes int32[B, 4] inside images: top, left, height, width, in pixels.

    The area is uniform, the logarithm of the aspect ratio too, and so is the place of
    what comes of them. A box larger than the image is drawn again, and after ten such
    boxes the largest one in the middle with an allowed ratio is taken; as
    torchvision's `RandomResizedCrop`.

    Args:
        shape: of the images, [B, H, W, C].
        scale, ratio: see `random_resized_crop`.
    """
    _check_boxes(scale, ratio)
    batch, height, width, _ = shape
    areas, aspects, places = jax.random.split(key, 3)
    # Images last: the other way round takes four times as long to compile for CPU.
    draws = (10, batch)
    area = jax.random.uniform(areas, draws, minval=scale[0], maxval=scale[1])
    area *= height * width
    low, high = (math.log(value) for value in ratio)
    aspect = jnp.exp(jax.random.uniform(aspects, draws, minval=low, maxval=high))
    rows = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    found, first = fits.any(axis=0), fits.argmax(axis=0)[None]

    central = (
        min(height, max(1, round(width / ratio[0]))),
        min(width, max(1, round(height * ratio[1]))),
    )
    sides = jnp.stack(
        [
            jnp.where(found, jnp.take_along_axis(drawn, first, axis=0)[0], side)
            for drawn, side in zip((rows, columns), central, strict=True)
        ]
    )
    slack = jnp.array([[height], [width]]) - sides
    corners = jax.random.randint(places, slack.shape, 0, slack + 1)
    corners = jnp.where(found[None], corners, slack // 2)
    return jnp.concatenate([corners, sides]).T


def resized_crop(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Boxes of images, resized to squares, f32[B, size, size, C].

    Bilinear, with antialiasing where a box shrinks: equal to
    `torch.nn.functional.interpolate` of the box alone with `antialias=True`.

    Args:
        images: f32[B, H, W, C].
        boxes: int32[B, 4] inside the images: top, left, height, width.
        size: of the squares, in pixels.
    """
    top, left, height, width = boxes.T
    images = _resampled(images, top, height, size, axis=1)
    return _resampled(images, left, width, size, axis=2)


def flip(probability: float = 0.5) -> Augmentation:
    """Mirrors each image left to right with a probability."""
    _check_share("probability", probability)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        mirrored = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
        return jnp.where(mirrored, images[:, :, ::-1], images)

    return augment


def cutout(size: int) -> Augmentation:
    """Blanks a square of `size` pixels, centred anywhere (DeVries and Taylor 2017).

    The part of the square that is outside the image is cut off.
    """
    _check_positive("cutout", size)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        rows, columns = jax.random.split(key)

        def inside(key: jax.Array, length: int) -> jax.Array:
            start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
            place = jnp.arange(length)[None]
            return (place >= start) & (place < start + size)

        hole = inside(rows, height)[:, :, None] & inside(columns, width)[:, None, :]
        return jnp.where(hole[..., None], 0.0, images)

    return augment


def rotation(degrees: float) -> Augmentation:
    """Turns each image about its centre by -degrees to +degrees, bilinearly.

    The angle is uniform; equal to `scipy.ndimage.affine_transform` of order 1 in mode
    `grid-constant`.
    """
    if not 0 <= degrees <= 180:
        raise errors.ArgumentError(
            f"rotation is {degrees} degrees, but must be between 0 and 180"
        )

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        limit = jnp.deg2rad(degrees)
        angles = jax.random.uniform(key, (batch, 1, 1), minval=-limit, maxval=limit)
        cosine, sine = jnp.cos(angles), jnp.sin(angles)
        middle, centre = (height - 1) / 2, (width - 1) / 2
        down = (jnp.arange(height) - middle)[None, :, None]
        right = (jnp.arange(width) - centre)[None, None, :]
        rows = cosine * down + sine * right + middle
        columns = cosine * right - sine * down + centre
        return interpolated(images, rows, columns)

    return augment


def color_jitter(
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Augmentation:
    """Changes each image's colours by up to so much, in an order of its own.

    Factors are uniform between 1 - x (at least 0) and 1 + x, the shift of the hue
    between -x and x; as torchvision's `ColorJitter` of a single image. What is 0 is
    left out. Images have one channel or three (RGB) and values in [0, 1].

    Args:
        brightness, contrast, saturation: largest change of the factor.
        hue: largest shift, in turns of the colour wheel, up to 0.5.
    """
    for name, value, limit in (
        ("brightness", brightness, math.inf),
        ("contrast", contrast, math.inf),
        ("saturation", saturation, math.inf),
        ("hue", hue, 0.5),
    ):
        if not (0 <= value <= limit and value < math.inf):
            end = "" if limit == math.inf else f" and at most {limit}"
            raise errors.ArgumentError(
                f"{name} is {value}, but must be at least 0{end}"
            )
    adjustments = [
        (change, low, high)
        for change, spread, low, high in (
            (adjust_brightness, brightness, max(0, 1 - brightness), 1 + brightness),
            (adjust_contrast, contrast, max(0, 1 - contrast), 1 + contrast),
            (adjust_saturation, saturation, max(0, 1 - saturation), 1 + saturation),
            (adjust_hue, hue, -hue, hue),
        )
        if spread
    ]

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        _check_channels(images)
        orders, factors = jax.random.split(key)
        shape = (len(adjustments), len(images))
        order = jnp.argsort(jax.random.uniform(orders, shape), axis=0)
        draws = jax.random.uniform(factors, shape)

        # Every change of every image, of which one is kept: on CPU that took as long
        # as a branch for each image, and an accelerator need not wait for a branch.
        def turn(place: int, images: jax.Array) -> jax.Array:
            changed = images
            for index, (change, low, high) in enumerate(adjustments):
                drawn = change(images, low + (high - low) * draws[index])
                due = (order[place] == index)[:, None, None, None]
                changed = jnp.where(due, drawn, changed)
            return changed

        return jax.lax.fori_loop(0, len(adjustments), turn, images)

    return augment


def adjust_brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies images f32[B, H, W, C] by factors f32[B]; within [0, 1]."""
    return _blended(images, jnp.zeros((1, 1, 1, 1), images.dtype), factors)


def adjust_contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies the distance from the image's mean grey by factors f32[B].

    Args:
        images: f32[B, H, W, C] in [0, 1], of one channel or three.
        factors: 0 leaves plain grey, 1 changes nothing.
    """
    # Rows first: a mean over all pixels at once took fifteen times as long on CPU.
    grey = _grey(images.mean(axis=1, keepdims=True)).mean(axis=2, keepdims=True)
    return _blended(images, grey, factors)


def adjust_saturation(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies the distance from each pixel's grey by factors f32[B].

    Args:
        images: f32[B, H, W, C] in [0, 1]; those of one channel stay as they are.
        factors: 0 leaves a grey image, 1 changes nothing.
    """
    if images.shape[-1] == 1:
        return images
    return _blended(images, _grey(images), factors)


def adjust_hue(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Turns the colour wheel (the H of HSV) by shifts f32[B], in turns.

    Args:
        images: f32[B, H, W, C] in [0, 1]; those of one channel stay as they are.
        shifts: 0.5 makes every colour its opposite.
    """
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., channel, None] for channel in range(3))
    largest = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = largest - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = largest == red, largest == green
    # A single division, since a division in each case took three times as long on CPU.
    difference = jnp.where(
        is_red, green - blue, jnp.where(is_green, blue - red, red - green)
    )
    sixths = difference / jnp.where(chroma == 0, 1, chroma)
    sixths += jnp.where(is_red, 0, jnp.where(is_green, 2, 4))
    sixths += 6 * shifts[:, None, None, None]
    # A channel lacks all of the chroma opposite its own colour, and none within a
    # sixth of a turn of it.
    away = sixths + jnp.array([5, 3, 1], images.dtype)[None, None, None]
    # As `jnp.mod`, which took eight times as long on CPU.
    away -= 6 * jnp.floor(away / 6)
    return largest - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def _grey(images: jax.Array) -> jax.Array:
    """Luma [B, H, W, 1] of ITU-R BT.601, with torchvision's digits."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., channel, None] for channel in range(3))
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blended(images: jax.Array, others: jax.Array, factors: jax.Array) -> jax.Array:
    factors = factors[:, None, None, None]
    return jnp.clip(factors * images + (1 - factors) * others, 0, 1)


def _resampled(
    images: jax.Array, start: jax.Array, length: jax.Array, size: int, *, axis: int
) -> jax.Array:
    """`length` pixels of an axis, from `start` on, resampled to `size`; both int32[B].

    A weighted sum of a few shifted copies, since products with matrices of weights
    took eight times as long on CPU.
    """
    scale = (length / size)[:, None]
    reach = jnp.maximum(scale, 1)
    centre = (jnp.arange(size) + 0.5)[None] * scale
    # So many pixels lie within reach of a centre, where the whole axis is the box.
    count = math.ceil(2 * max(images.shape[axis] / size, 1))
    taps = jnp.floor(centre - reach + 0.5)[..., None] + jnp.arange(count)[None, None]
    distance = jnp.abs(taps + 0.5 - centre[..., None]) / reach[..., None]
    inside = (taps >= 0) & (taps < length[:, None, None])
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    weights /= weights.sum(axis=-1, keepdims=True)
    places = jnp.clip(taps.astype(jnp.int32), 0, length[:, None, None] - 1)
    places += start[:, None, None]

    shape = [len(images), 1, 1, 1]
    shape[axis] = size

    def tap(number: int) -> jax.Array:
        values = jnp.take_along_axis(
            images,
            places[..., number].reshape(shape),
            axis=axis,
            mode="promise_in_bounds",
        )
        return weights[..., number].reshape(shape) * values

    total = tap(0)
    for number in range(1, count):
        total += tap(number)
    return total


def interpolated(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear values at places f32[B, H, W] of images, in pixels; 0 outside.

    Four taps at one index into padded, flattened images, since
    `jax.scipy.ndimage.map_coordinates` took nine times as long on CPU.
    """
    batch, height, width, channels = images.shape
    wide = width + 2
    flat = _pad(images, 1).reshape(batch, -1, channels)
    top, left = jnp.floor(rows), jnp.floor(columns)
    inside = (top >= -1) & (top < height) & (left >= -1) & (left < width)
    # Padding moved the images by one; clipped places are not inside.
    first = jnp.clip(top.astype(jnp.int32) + 1, 0, height) * wide
    first += jnp.clip(left.astype(jnp.int32) + 1, 0, width)
    first = first.reshape(batch, -1, 1)

    def tap(offset: int) -> jax.Array:
        values = jnp.take_along_axis(
            flat, first + offset, axis=1, mode="promise_in_bounds"
        )
        return values.reshape(images.shape)

    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    upper = (1 - beside) * tap(0) + beside * tap(1)
    lower = (1 - beside) * tap(wide) + beside * tap(wide + 1)
    return jnp.where(inside[..., None], (1 - below) * upper + below * lower, 0.0)


def _pad(images: jax.Array, pixels: int) -> jax.Array:
    """Images with zeros on every side."""
    return jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))


def _windows(
    images: jax.Array, top: jax.Array, left: jax.Array, height: int, width: int
) -> jax.Array:
    """Windows [B, height, width, C] of images, with corners int32[B] inside them.

    Slices, since products with 0/1 matrices took eight times as long on CPU.
    """
    sizes = (height, width, images.shape[-1])

    def window(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, 0), sizes)

    return jax.vmap(window)(images, top, left)


def _check_positive(name: str, size: int) -> None:
    if size < 1:
        raise errors.ArgumentError(f"{name} is {size} pixels, but must be at least 1")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise errors.ArgumentError(f"{name} is {value}, but must be between 0 and 1")


def _check_boxes(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise errors.ArgumentError(
            f"scale is {scale}, but must be two shares of the area, with "
            "0 < low <= high <= 1"
        )
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise errors.ArgumentError(
            f"ratio is {ratio}, but must be two widths over heights, with "
            "0 < low <= high"
        )


def _check_channels(images: jax.Array) -> None:
    if images.shape[-1] not in (1, 3):
        raise errors.ArgumentError(
            f"color_jitter takes images of 1 or 3 channels, but these have "
            f"{images.shape[-1]}"
        )
