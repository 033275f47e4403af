"""Square: random search that asks for logits only."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, streams

_Proposal = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

# The share of the picture is halved after each of these of 10,000 queries (section 4.1
# of the paper, with the values of the authors' program).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    queries: int = 5000,
    initial_share: float = 0.8,
    targeted: bool = False,
) -> base.Attack:
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1 to 3).

    Squares of the picture are changed at random places, and a change is kept where it
    makes the margin smaller. It begins with vertical stripes (linf) or a grid of bumps
    (l2), and the squares shrink as the queries are used up. Nothing is differentiated,
    so that a network whose gradients are useless falls nevertheless.

    As the paper says it, and unlike some programs, each picture has its own squares,
    these reach the last row and column, and for l2 each channel has its own budget.
    A square is never larger than the picture's shorter side. A picture that is
    misclassified comes back at once, any other one with the least margin found; the
    others in the batch change nothing. The work ends when all are misclassified.

    The key may also be one for each picture, key[B].

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2".
        queries: logits asked for each picture, besides those of the picture itself.
        initial_share: of the picture's area, that the first squares take.
        targeted: whether the labels are the wanted classes.

    Raises:
        ArgumentError: an option out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("queries", queries)
    if not 0 < initial_share <= 1:
        raise errors.ArgumentError(
            f"initial_share is {initial_share}, but must be in (0, 1]"
        )

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        keys = streams.per_picture(key, len(images))
        height, width = images.shape[1:3]
        sides = sides_of_squares(queries, height, width, initial_share, norm)
        if norm == "linf":
            start, propose = _stripes(epsilon), _linf_square(epsilon, sides)
        else:
            start = _tiles(epsilon, height, width)
            propose = _l2_square(epsilon, sides, height, width)

        def judged(points: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = logits(points).astype(jnp.float32)
            margin = base.margin(found, labels)
            hit = base.fooled(found, labels, targeted)
            return -margin if targeted else margin, hit

        def bounded(points: jax.Array) -> jax.Array:
            return base.within(images, points, epsilon, norm)

        def unfinished(search: _Search) -> jax.Array:
            return (search.query < queries) & ~search.fooled.all()

        def advance(search: _Search) -> _Search:
            value, hit = judged(search.candidate)
            better = ((value < search.value) | hit) & ~search.fooled
            best = base.where(better, search.candidate, search.best)
            candidate = jax.vmap(propose, (0, 0, 0, None))(
                streams.advanced(keys, search.query + 1), images, best, search.query
            )
            return _Search(
                query=search.query + 1,
                candidate=bounded(candidate),
                best=best,
                value=jnp.where(better, value, search.value),
                fooled=search.fooled | hit,
            )

        clean, fooled = judged(images)
        search = jax.lax.while_loop(
            unfinished,
            advance,
            _Search(
                query=jnp.int32(0),
                candidate=bounded(jax.vmap(start)(streams.advanced(keys, 0), images)),
                best=images,
                # The search begins from the start pattern, better or not.
                value=jnp.full(len(images), jnp.inf),
                fooled=fooled,
            ),
        )
        gained = (search.value < clean) | (search.fooled & ~fooled)
        gained &= ~fooled
        return base.where(gained, search.best, images)

    return attack


def sides_of_squares(
    queries: int, height: int, width: int, initial_share: float, norm: base.Norm
) -> np.ndarray:
    """The side in pixels of each query's square, int32[queries].

    The share of the picture is `initial_share` and is halved after 10, 50, 200, 500,
    1000, 2000, 4000, 6000 and 8000 of 10,000 queries, or in proportion of others. For
    l2 sides are odd and at least 3, so that a bump has a middle.

    Args:
        queries: the budget.
        height, width: of the picture in pixels.
        initial_share: of the picture's area.
        norm: "linf" or "l2".
    """
    scaled = np.arange(queries) * 10_000 // queries
    halvings = np.searchsorted(list(_HALVINGS), scaled, side="left")
    shorter = min(height, width)
    of_share = []
    for number in range(len(_HALVINGS) + 1):
        side = round(math.sqrt(initial_share / 2**number * height * width))
        if norm == "l2":
            side = max(side, 3) | 1
            side = min(side, shorter - 1 + shorter % 2)
        of_share.append(min(max(side, 1), shorter))
    return np.array(of_share, np.int32)[halvings]


def bumps(side: int) -> np.ndarray:
    """A bump beside a hollow, of norm 1, f32[side, side].

    Andriushchenko et al. 2020, equation 2: the upper half is a sum of concentric
    squares of heights 1 / k^2, and the lower half is minus such a sum. As in the
    authors' program both halves have the same norm, also where the side is odd.
    """
    upper = side // 2
    pattern = np.zeros((side, side))
    for part, sign in ((pattern[:upper], 1), (pattern[upper:], -1)):
        if part.size:
            half = _concentric(*part.shape)
            part[:] = sign * half / np.linalg.norm(half)
    return (pattern / np.linalg.norm(pattern)).astype(np.float32)


class _Search(NamedTuple):
    """The search between two queries; pictures f32[B, H, W, C], the others [B].

    Attributes:
        query: int32[], queries made.
        candidate: what is asked about next.
        best: where the search is.
        value: its margin; minus that if targeted.
        fooled: whether the attack has succeeded there.
    """

    query: jax.Array
    candidate: jax.Array
    best: jax.Array
    value: jax.Array
    fooled: jax.Array


def _stripes(epsilon: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Columns one pixel wide, up or down by epsilon in each channel."""

    def start(key: jax.Array, image: jax.Array) -> jax.Array:
        return image + epsilon * _signs(
            jax.random.uniform(key, (1, *image.shape[1:]), image.dtype)
        )

    return start


def _linf_square(epsilon: float, sides: np.ndarray) -> _Proposal:
    """One square up or down by epsilon in each channel (algorithm 2)."""
    side_of = jnp.asarray(sides)

    def propose(
        key: jax.Array, image: jax.Array, best: jax.Array, query: jax.Array
    ) -> jax.Array:
        # All numbers of a proposal at once: each call of the generator is a large
        # program of its own.
        place, signs = jnp.split(
            jax.random.uniform(key, (2 + image.shape[-1],), image.dtype), [2]
        )
        side = side_of[query]
        window = _window(image.shape, _corner(place, image.shape, side), side)
        return jnp.where(window, image + epsilon * _signs(signs)[None, None], best)

    return propose


def _tiles(
    epsilon: float, height: int, width: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A grid of bumps, five in a column, each of a random sign and orientation."""
    side = min(max(height // 5, 1), width)
    rows, columns = height // side, width // side
    pattern = bumps(side)
    both = jnp.asarray(np.stack([pattern, pattern.T]))
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    around = (
        (top, height - rows * side - top),
        (left, width - columns * side - left),
        (0, 0),
    )

    def start(key: jax.Array, image: jax.Array) -> jax.Array:
        numbers = jax.random.uniform(
            key, (rows, columns, 1 + image.shape[-1]), image.dtype
        )
        turns, signs = (numbers[..., 0] < 0.5).astype(int), _signs(numbers[..., 1:])
        # [rows, columns, side, side] to [rows, side, columns, side, channels].
        grid = both[turns].transpose(0, 2, 1, 3)[..., None]
        grid = grid * signs[:, None, :, None]
        flat = grid.reshape(rows * side, columns * side, -1)
        return image + _of_length(jnp.pad(flat, around), epsilon)

    return start


def _l2_square(epsilon: float, sides: np.ndarray, height: int, width: int) -> _Proposal:
    """A bump in one square, paid for with what another square held (algorithm 3)."""
    kinds, kind_of = np.unique(sides, return_inverse=True)
    patterns = np.zeros((len(kinds), 2, height, width), np.float32)
    for pattern, side in zip(patterns, kinds, strict=True):
        pattern[0, :side, :side] = bumps(side)
        pattern[1, :side, :side] = bumps(side).T
    pattern_of, kind_at = jnp.asarray(patterns), jnp.asarray(kind_of.astype(np.int32))
    side_of = jnp.asarray(sides)

    def propose(
        key: jax.Array, image: jax.Array, best: jax.Array, query: jax.Array
    ) -> jax.Array:
        channels = image.shape[-1]
        place, other_place, turn, signs = jnp.split(
            jax.random.uniform(key, (5 + channels,), image.dtype), [2, 4, 5]
        )
        side = side_of[query]
        corner = _corner(place, image.shape, side)
        window = _window(image.shape, corner, side)
        other_corner = _corner(other_place, image.shape, side)
        other = _window(image.shape, other_corner, side)
        pattern = pattern_of[kind_at[query], (turn[0] < 0.5).astype(int)]
        bump = jnp.roll(pattern, corner, (0, 1))[..., None] * _signs(signs)[None, None]

        noise = best - image
        unused = jnp.maximum(epsilon**2 - jnp.square(noise).sum(), 0)
        held = jnp.square(jnp.where(window | other, noise, 0)).sum(
            axis=(0, 1), keepdims=True
        )
        inside = jnp.where(window, noise, 0)
        mixed = bump + _of_length(inside, 1.0, axis=(0, 1))
        mixed = _of_length(mixed, jnp.sqrt(held + unused / channels), axis=(0, 1))
        noise = jnp.where(window, mixed, jnp.where(other, 0, noise))
        return image + _of_length(noise, epsilon)

    return propose


def _signs(numbers: jax.Array) -> jax.Array:
    """-1 or 1, of numbers uniform in [0, 1)."""
    return jnp.where(numbers < 0.5, -1.0, 1.0).astype(numbers.dtype)


def _corner(place: jax.Array, shape: tuple[int, ...], side: jax.Array) -> jax.Array:
    """Row and column of a square's upper left pixel, int32[2].

    Args:
        place: f32[2], uniform in [0, 1).
        shape: of the picture.
        side: int32[], of the square.
    """
    room = jnp.array(shape[:2]) - side + 1
    # A product just below `room` may be rounded up to it.
    return jnp.minimum((place * room).astype(jnp.int32), room - 1)


def _window(shape: tuple[int, ...], corner: jax.Array, side: jax.Array) -> jax.Array:
    """Where a square is, bool[H, W, 1]."""
    rows = jnp.arange(shape[0])[:, None, None] - corner[0]
    columns = jnp.arange(shape[1])[None, :, None] - corner[1]
    return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)


def _of_length(
    values: jax.Array,
    length: jax.Array | float,
    axis: tuple[int, ...] = (0, 1, 2),
) -> jax.Array:
    """Values scaled to a norm over these axes; zeros stay."""
    norm = jnp.sqrt(jnp.square(values).sum(axis=axis, keepdims=True))
    return values / jnp.maximum(norm, 1e-12) * length


def _concentric(height: int, width: int) -> np.ndarray:
    """Sum of squares around the middle, one a radius, of heights 1 / (radius + 1)^2."""
    rows = np.abs(np.arange(height) - height // 2)
    columns = np.abs(np.arange(width) - width // 2)
    distance = np.maximum(rows[:, None], columns[None, :])
    outermost = max(height // 2, width // 2)
    heights = 1 / np.arange(1, outermost + 2) ** 2.0
    return np.cumsum(heights[::-1])[::-1][distance]
