"""FAB: the decision boundary, approached from the picture."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxnets.attack import base
from flaxnets.attack.apgd import likeliest_others

# Section 4 of the paper, and the authors' program.
_EXTRAPOLATION = 1.05
_BACKWARD = 0.9
_LARGEST_BIAS = 0.1
# Newton's steps: each passes at least one value that has come to 0 or 1, and nearly
# all of these in the first few.
_NEWTON_STEPS = 12


def fab(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    targets: int = 9,
    steps: int = 100,
) -> base.Attack:
    """Targeted FAB, the fast adaptive boundary attack, as a part of AutoAttack.

    Croce and Hein 2020 (arXiv 1907.02044), algorithm 1, for one class after the other.
    Each step goes slightly beyond where the affine approximation of the two logits is
    equal within [0, 1], from the current point and with a small share from the picture
    itself; a misclassified point is drawn back towards the picture. There is no step
    size and no randomness: the key is not used.

    The paper looks for the smallest perturbation. Here a picture's search ends with
    the first misclassified point within epsilon, and a picture without one comes back
    as it is, as does one that is misclassified from the start.

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2".
        targets: how many of the likeliest other classes are approached in turn; at
            most all others.
        steps: for each of them.

    Raises:
        ArgumentError: an option out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("targets", targets)
    base.check_at_least_one("steps", steps)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key
        clean = logits(images)
        aims = likeliest_others(clean, labels, targets)

        def linearized(
            points: jax.Array, aim: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            """How far the target's logit is ahead, f32[B], and the gradient of that."""
            places = jnp.stack([jnp.asarray(aim), jnp.asarray(labels)], axis=1)

            def total(points: jax.Array) -> tuple[jax.Array, jax.Array]:
                chosen = jnp.take_along_axis(logits(points), places, axis=1)
                lead = chosen[:, 0] - chosen[:, 1]
                return lead.sum(), lead

            slope, lead = jax.grad(total, has_aux=True)(points)
            return lead, slope

        def approach(number: jax.Array, kept: _Search) -> _Search:
            aim = aims[:, number]

            def unfinished(search: _Search) -> jax.Array:
                return (search.step < steps) & ~search.fooled.all()

            def advance(search: _Search) -> _Search:
                point = search.point
                lead, slope = linearized(point, aim)
                offset = (slope * (images - point)).sum(axis=(1, 2, 3))
                from_point = to_boundary(point, lead, slope, norm)
                from_image = to_boundary(images, lead + offset, slope, norm)
                near, far = _size(from_point, norm), _size(from_image, norm)
                bias = jnp.minimum(near / (near + far), _LARGEST_BIAS)
                bias = bias[:, None, None, None]
                point = (point + _EXTRAPOLATION * from_point) * (1 - bias)
                point += (images + _EXTRAPOLATION * from_image) * bias
                point = jnp.clip(point, 0, 1)
                wrong = base.fooled(logits(point), labels)
                inside = _is_inside(images, point, epsilon, norm)
                hit = wrong & inside & ~search.fooled
                back = images + _BACKWARD * (point - images)
                return _Search(
                    search.step + 1,
                    base.where(wrong, back, point),
                    search.fooled | hit,
                    base.where(hit, point, search.found),
                )

            begun = kept._replace(step=jnp.int32(0), point=images)
            return jax.lax.while_loop(unfinished, advance, begun)

        fooled = base.fooled(clean, labels)
        search = _Search(jnp.int32(0), images, fooled, images)
        return jax.lax.fori_loop(0, aims.shape[1], approach, search).found

    return attack


def to_boundary(
    points: jax.Array, lead: jax.Array, slope: jax.Array, norm: base.Norm
) -> jax.Array:
    """The smallest step within [0, 1] that makes an affine function zero.

    Croce and Hein 2020 (arXiv 1907.02044), equation 8. All values move by as much
    (linf) or in proportion to the slope (l2), each until it is 0 or 1. What is gained
    is concave in the length of the move, so that Newton's method comes up to it from
    below. Where there is no room for zero, all values go as far as they can.

    Args:
        points: f32[B, H, W, C] in [0, 1].
        lead: f32[B], the function there.
        slope: f32[B, H, W, C], its gradient.
        norm: "linf" or "l2".

    Returns:
        f32[B, H, W, C].
    """
    sign = jnp.sign(slope) * -jnp.sign(lead)[:, None, None, None]
    room = jnp.where(sign > 0, 1 - points, points) * jnp.abs(sign)
    steepness = jnp.abs(slope)
    speed = jnp.ones_like(slope) if norm == "linf" else steepness

    def moved(length: jax.Array) -> jax.Array:
        return jnp.minimum(length[:, None, None, None] * speed, room)

    def newton(_: int, length: jax.Array) -> jax.Array:
        move = moved(length)
        missing = jnp.abs(lead) - (steepness * move).sum(axis=(1, 2, 3))
        rate = jnp.where(move < room, steepness * speed, 0).sum(axis=(1, 2, 3))
        # Where nothing can move further, it stays.
        step = jnp.where(rate > 0, missing / jnp.where(rate > 0, rate, 1), 0)
        return length + jnp.maximum(step, 0)

    length = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.zeros(len(points)))
    return sign * moved(length)


class _Search(NamedTuple):
    """The search between two steps.

    Attributes:
        step: int32[], steps taken towards one class.
        point: f32[B, H, W, C].
        fooled: bool[B], whether a misclassified point within epsilon was found.
        found: f32[B, H, W, C], that point, or the picture.
    """

    step: jax.Array
    point: jax.Array
    fooled: jax.Array
    found: jax.Array


def _is_inside(
    images: jax.Array, points: jax.Array, epsilon: float, norm: base.Norm
) -> jax.Array:
    """Whether `within` has nothing to shorten, bool[B]."""
    if norm == "linf":
        same = base.within(images, points, epsilon, norm) == points
    else:
        # Added to the picture again, a difference may round to another point.
        difference = points - images
        same = base.in_ball(difference, epsilon, norm) == difference
    return same.all(axis=(1, 2, 3))


def _size(values: jax.Array, norm: base.Norm) -> jax.Array:
    """The norm of each, f32[B]; never zero, since it is divided by."""
    if norm == "linf":
        size = jnp.abs(values).max(axis=(1, 2, 3))
    else:
        size = jnp.sqrt(jnp.square(values).sum(axis=(1, 2, 3)))
    return jnp.maximum(size, 1e-8)
