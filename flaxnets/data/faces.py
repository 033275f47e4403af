"""Rendered faces: who they are, how they look, and from where, all known.

A head is an ellipsoid with a nose, ears and hair, eyes, brows, mouth and beard lie on
its surface and turn with it, and each point is as bright as its normal's angle to the
light makes it. So what one person's picture would be as another person's, in the same
pose, mood and light, can be rendered, and need not be guessed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

# What stands behind the head, and the whites, pupils, mouths and teeth of everyone.
_WALL = np.array([0.36, 0.40, 0.45])
_WHITE = np.array([0.88, 0.88, 0.86])
_BLACK = np.array([0.05, 0.04, 0.04])
_MOUTH = np.array([0.28, 0.06, 0.07])
# Pictures of a compiled call, so that one compilation serves any number of them.
_AT_ONCE = 8


class Identity(NamedTuple):
    """What a face keeps in every picture of it.

    Lengths are shares of half the picture's side. Places on the face are a longitude in
    radians, 0 in the middle, and a height, the head's lowest point being -1 and its
    highest 1. Each field is a number, or an array with one a picture; colours have a
    last dimension of red, green and blue in [0, 1].

    Attributes:
        skin, hair, iris, lips: colours, as shares of the light that comes back.
        head: half the width, height and depth of the head, [3].
        hairline: height at which the hair begins in front.
        hair_length: height down to which it reaches at the back.
        hair_volume: how far it stands off the head.
        beard: how much of the lower face has the colour of hair, 0 to 1.
        eye_distance: longitude of each eye.
        eye_height: height of both.
        eye_size: half the width and half the height of an open eye, [2].
        brow_height: above the eyes.
        brow_tilt: rise of the brows outwards, per radian.
        brow_thickness: half of it.
        nose: half the width, height and depth of the nose, [3].
        nose_height: height of its middle.
        mouth_width: half of it, in radians.
        mouth_height: height of its middle.
        lip_thickness: half of both lips'.
        ear_size: half an ear's height.
    """

    skin: Any
    hair: Any
    iris: Any
    lips: Any
    head: Any
    hairline: Any
    hair_length: Any
    hair_volume: Any
    beard: Any
    eye_distance: Any
    eye_height: Any
    eye_size: Any
    brow_height: Any
    brow_tilt: Any
    brow_thickness: Any
    nose: Any
    nose_height: Any
    mouth_width: Any
    mouth_height: Any
    lip_thickness: Any
    ear_size: Any


class Views(NamedTuple):
    """What changes from picture to picture; f32[N] each.

    Attributes:
        yaw: degrees by which the head is turned to the picture's right.
        pitch: degrees by which it looks up.
        smile: -1 (corners of the mouth down) to 1 (up).
        mouth_open: 0 (closed) to 1.
        eyes_open: 0 (closed) to 1.
        brows_raised: -1 to 1.
        light_azimuth: degrees of the light to the picture's right of the camera.
        light_elevation: degrees of it above the camera.
        light: brightness of a white surface that faces the light, without the rest.
        ambient: brightness of a white surface that faces away from it.
    """

    yaw: Any
    pitch: Any
    smile: Any
    mouth_open: Any
    eyes_open: Any
    brows_raised: Any
    light_azimuth: Any
    light_elevation: Any
    light: Any
    ambient: Any


# The palette, and least and greatest values, that identities are drawn from.
_SKINS = [(0.93, 0.76, 0.66), (0.80, 0.60, 0.47), (0.62, 0.43, 0.31), (0.42, 0.28, 0.2)]
_HAIRS = [
    (0.10, 0.08, 0.07),
    (0.33, 0.20, 0.11),
    (0.72, 0.55, 0.28),
    (0.55, 0.22, 0.09),
    (0.62, 0.62, 0.62),
]
_IRISES = [
    (0.20, 0.38, 0.62),
    (0.30, 0.18, 0.09),
    (0.25, 0.45, 0.25),
    (0.4, 0.42, 0.45),
]
_RANGES = {
    "head": ((0.56, 0.80, 0.62), (0.72, 0.94, 0.74)),
    "hairline": (0.35, 0.72),
    "hair_length": (-0.75, 0.15),
    "hair_volume": (0.03, 0.12),
    "eye_distance": (0.36, 0.52),
    "eye_height": (0.04, 0.16),
    "eye_size": ((0.13, 0.055), (0.20, 0.10)),
    "brow_height": (0.13, 0.20),
    "brow_tilt": (-0.25, 0.25),
    "brow_thickness": (0.015, 0.045),
    "nose": ((0.06, 0.13, 0.10), (0.12, 0.22, 0.19)),
    "nose_height": (-0.22, -0.12),
    "mouth_width": (0.26, 0.44),
    "mouth_height": (-0.56, -0.46),
    "lip_thickness": (0.025, 0.06),
    "ear_size": (0.12, 0.20),
}
# Of views, in degrees and in the fields' own units.
_VIEWS = {
    "yaw": (-40.0, 40.0),
    "pitch": (-20.0, 20.0),
    "smile": (-1.0, 1.0),
    "mouth_open": (0.0, 1.0),
    "eyes_open": (0.3, 1.0),
    "brows_raised": (-1.0, 1.0),
    "light_azimuth": (-75.0, 75.0),
    "light_elevation": (-30.0, 60.0),
    "light": (0.3, 0.8),
    "ambient": (0.08, 0.25),
}


def identity(seed: int) -> Identity:
    """A person, drawn at random, and the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    skin = _SKINS[generator.integers(len(_SKINS))]
    hair = _HAIRS[generator.integers(len(_HAIRS))]
    iris = _IRISES[generator.integers(len(_IRISES))]
    beard = max(0.0, generator.uniform(-0.8, 0.8))
    drawn = {name: generator.uniform(*bounds) for name, bounds in _RANGES.items()}
    tint = np.array([0.75, 0.45, 0.45]) + generator.uniform(-0.08, 0.08, 3)
    colours = (np.array(skin), np.array(hair), np.array(iris))
    return Identity(*colours, lips=np.array(skin) * tint, beard=beard, **drawn)


def views(seed: int, count: int) -> Views:
    """Views drawn at random, each field uniformly and by itself.

    The first views of a seed are the same for every count. Heads turn by up to 40
    degrees to the sides and 20 up and down, and the light stands up to 75 degrees to
    the sides.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    drawn = generator.random((count, len(_VIEWS)))
    low, high = np.array(list(_VIEWS.values())).T
    return Views(*(low + (high - low) * drawn).astype(np.float32).T)


def render(person: Identity, seen: Views, size: int = 64) -> np.ndarray:
    """Pictures of faces, f32[N, size, size, 3].

    Orthographic, of Lambertian surfaces without cast shadows. Values are proportional
    to the light, so a picture in two lights is the sum of those in one each; they are
    not cut to [0, 1], which the lights that `views` draws rarely leave. Each pixel is
    the mean of nine points.

    Args:
        person: who, the same in all pictures, or one a picture.
        seen: how each picture sees the face.
        size: height and width in pixels.

    Raises:
        ArgumentError: the fields of `seen` have other lengths, or size is below 8.
    """
    lengths = {np.shape(field) for field in seen}
    if len(lengths) != 1 or len(shape := lengths.pop()) != 1 or shape[0] == 0:
        raise errors.ArgumentError(
            f"the views' fields have shapes {[list(np.shape(one)) for one in seen]}, "
            "but all must be [N], with at least one view"
        )
    if size < 8:
        raise errors.ArgumentError(f"size is {size} pixels, but must be at least 8")
    count = shape[0]
    colours = ("skin", "hair", "iris", "lips", "head", "nose", "eye_size")
    everyone = Identity(
        **{
            name: np.broadcast_to(
                np.asarray(value, np.float32),
                (count, *np.shape(value)[-1:]) if name in colours else (count,),
            )
            for name, value in person._asdict().items()
        }
    )
    seen = Views(*(np.asarray(field, np.float32) for field in seen))
    found = []
    for start in range(0, count, _AT_ONCE):
        # The last ones are filled up.
        places = np.minimum(np.arange(start, start + _AT_ONCE), count - 1)
        people = Identity(*(field[places] for field in everyone))
        views = Views(*(field[places] for field in seen))
        found.append(np.asarray(_rendered(people, views, size)))
    return np.concatenate(found)[:count]


@functools.partial(jax.jit, static_argnums=2)
def _rendered(everyone: Identity, seen: Views, size: int) -> jax.Array:
    # One after the other: their arrays then stay in a processor's cache.
    return jax.lax.map(lambda both: _picture(both[0], both[1], size), (everyone, seen))


class _Surface(NamedTuple):
    """Where each ray first meets an ellipsoid, in the head's own frame.

    Attributes:
        hit: bool[P], whether it does.
        depth: f32[P], how near to the camera.
        point: 3 x f32[P], on the ellipsoid scaled to a sphere.
        normal: 3 x f32[P], of length 1.
    """

    hit: jax.Array
    depth: jax.Array
    point: tuple[jax.Array, ...]
    normal: tuple[jax.Array, ...]


def _picture(person: Identity, seen: Views, size: int) -> jax.Array:
    """One picture f32[size, size, 3] of one person, all fields without a batch."""
    fine = 3 * size
    along = (np.arange(fine, dtype=np.float32) + 0.5) / fine * 2 - 1
    x, y = (part.ravel() for part in np.meshgrid(along, -along))
    turn = _rotation(seen.yaw, seen.pitch)
    # A point of the picture's plane, and the way to the camera, as the head has them.
    origin = tuple(turn[0, axis] * x + turn[1, axis] * y for axis in range(3))
    camera = turn[2]
    half = person.head

    def surface(centre: Any, axes: Any) -> _Surface:
        return _first_hit(origin, camera, centre, axes)

    head = surface(jnp.zeros(3), half)
    albedo = _face_colours(person, seen, head.point)
    depth = jnp.where(head.hit, head.depth, -9.0)
    normal = tuple(jnp.where(head.hit, part, 0.0) for part in head.normal)
    # The wall's normal is the way to the camera.
    normal = tuple(
        jnp.where(head.hit, part, camera[axis]) for axis, part in enumerate(normal)
    )
    albedo = tuple(
        jnp.where(head.hit, part, _WALL[channel]) for channel, part in enumerate(albedo)
    )
    nose = surface(
        jnp.array([0, 1, 0]) * person.nose_height * half[1]
        + jnp.array([0, 0, 1]) * half[2] * 0.90,
        person.nose,
    )
    ears = [
        surface(
            jnp.stack([side * half[0], 0.0 * half[1], -0.05 * half[2]]),
            person.ear_size * jnp.array([0.45, 1.0, 0.55]),
        )
        for side in (-1, 1)
    ]
    shell = surface(jnp.zeros(3), half * (1 + person.hair_volume))
    # Higher in front, down the sides, and lower behind.
    front = _step(shell.point[2], 0.0, 0.85)
    edge = person.hair_length + (person.hairline - person.hair_length) * front
    parts = [(nose, person.skin, nose.hit)]
    parts += [(ear, person.skin, ear.hit) for ear in ears]
    parts += [(shell, person.hair, shell.hit & (shell.point[1] > edge))]
    for found, colour, shown in parts:
        nearer = shown & (found.depth > depth)
        depth = jnp.where(nearer, found.depth, depth)
        normal = _chosen(nearer, found.normal, normal)
        albedo = _chosen(nearer, colour, albedo)
    azimuth, elevation = (
        jnp.deg2rad(seen.light_azimuth),
        jnp.deg2rad(seen.light_elevation),
    )
    light = turn.T @ jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
            jnp.cos(azimuth) * jnp.cos(elevation),
        ]
    )
    facing = _product(normal, light)
    shade = seen.ambient + seen.light * jnp.maximum(facing, 0.0)
    colours = jnp.stack([part * shade for part in albedo], axis=-1)
    return colours.reshape(size, 3, size, 3, 3).mean(axis=(1, 3))


def _rotation(yaw: jax.Array, pitch: jax.Array) -> jax.Array:
    """From the head's frame to the camera's: x right, y up, z to the camera."""
    yaw, pitch = jnp.deg2rad(yaw), jnp.deg2rad(pitch)
    zero, one = jnp.zeros(()), jnp.ones(())
    across = jnp.stack(
        [
            jnp.stack([jnp.cos(yaw), zero, jnp.sin(yaw)]),
            jnp.stack([zero, one, zero]),
            jnp.stack([-jnp.sin(yaw), zero, jnp.cos(yaw)]),
        ]
    )
    up = jnp.stack(
        [
            jnp.stack([one, zero, zero]),
            jnp.stack([zero, jnp.cos(pitch), jnp.sin(pitch)]),
            jnp.stack([zero, -jnp.sin(pitch), jnp.cos(pitch)]),
        ]
    )
    return jnp.matmul(across, up, precision="highest")


def _first_hit(origin: Any, camera: Any, centre: Any, axes: Any) -> _Surface:
    """Where rays to the camera leave an ellipsoid, from |(p - centre) / axes| = 1."""
    start = [(part - centre[axis]) / axes[axis] for axis, part in enumerate(origin)]
    way = [camera[axis] / axes[axis] for axis in range(3)]
    square = _product(way, way)
    middle = _product(start, way)
    rest = _product(start, start) - 1
    discriminant = middle * middle - square * rest
    hit = discriminant > 0
    depth = (jnp.sqrt(jnp.maximum(discriminant, 0.0)) - middle) / square
    point = tuple(one + depth * two for one, two in zip(start, way, strict=True))
    slope = [part / axes[axis] for axis, part in enumerate(point)]
    length = jnp.sqrt(_product(slope, slope))
    return _Surface(hit, depth, point, tuple(part / length for part in slope))


def _face_colours(person: Identity, seen: Views, point: Any) -> tuple[jax.Array, ...]:
    """Colours of points of the head's unit sphere: skin, and what lies on it."""
    across, height, front = point
    longitude = jnp.arctan2(across, front)
    colour = tuple(jnp.broadcast_to(part, across.shape) for part in person.skin)

    def paint(colour: Any, share: Any, paint: Any) -> tuple[jax.Array, ...]:
        share = jnp.where(front > 0, share, 0.0)
        return tuple(
            old + share * (new - old) for old, new in zip(colour, paint, strict=True)
        )

    chin = _step(-height, 0.22, 0.42) * _step(front, 0.0, 0.4)
    colour = paint(colour, person.beard * chin, person.hair)

    # Both sides are alike.
    outward = jnp.abs(longitude) - person.eye_distance
    above = height - person.eye_height
    wide, high = person.eye_size
    opening = high * jnp.maximum(seen.eyes_open, 0.08)
    eye = _inside(outward, above, wide, opening)
    colour = paint(
        colour, _inside(outward, above, wide * 1.18, opening + 0.022), _BLACK
    )
    colour = paint(colour, eye, _WHITE)
    round_ = high * 0.95
    colour = paint(colour, eye * _inside(outward, above, round_, round_), person.iris)
    colour = paint(
        colour, eye * _inside(outward, above, round_ / 2, round_ / 2), _BLACK
    )

    middle = person.brow_height + 0.05 * seen.brows_raised
    middle += person.brow_tilt * outward - 0.9 * outward**2
    brow = _inside(outward, above - middle, wide * 1.35, person.brow_thickness, 6)
    colour = paint(colour, brow, tuple(0.7 * part for part in person.hair))

    place = longitude / person.mouth_width
    bend = 0.10 * seen.smile * (place**2 - 0.4)
    below = height - person.mouth_height - bend
    gap = 0.09 * seen.mouth_open
    lips = person.lip_thickness + gap
    colour = paint(colour, _inside(place, below, 1.0, lips), person.lips)
    inner = _inside(place, below, 0.82, jnp.maximum(gap, 0.008))
    colour = paint(colour, inner, _MOUTH)
    teeth = inner * _step(below, 0.0, 0.02) * jnp.minimum(seen.mouth_open * 4, 1.0)
    return paint(colour, teeth, _WHITE)


def _product(first: Any, second: Any) -> jax.Array:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _inside(across: Any, above: Any, wide: Any, high: Any, power: int = 2) -> jax.Array:
    """1 inside of |x / a|^n + |y / b|^n = 1 and 0 outside, with an edge between."""
    value = jnp.abs(across / wide) ** power + jnp.abs(above / high) ** power
    return jnp.clip((1 - value) / 0.3 + 0.5, 0.0, 1.0)


def _step(value: Any, low: float, high: float) -> jax.Array:
    """0 below `low`, 1 above `high`, smooth between."""
    share = jnp.clip((value - low) / (high - low), 0.0, 1.0)
    return share * share * (3 - 2 * share)


def _chosen(where: jax.Array, first: Any, second: Any) -> tuple[jax.Array, ...]:
    return tuple(
        jnp.where(where, one, two) for one, two in zip(first, second, strict=True)
    )
