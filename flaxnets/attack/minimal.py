"""Attacks that look for the smallest L2 perturbation that misleads, without a bound."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors
from flaxnets.attack import base

# DeepFool's program: what cutting to [0, 1] takes from a step would else let a picture
# near the boundary forever without crossing it.
_FURTHER = 1e-4
# Carlini and Wagner's program: no finite number has the tangent of 0 or 1, and a
# constant that has grown to this will not be reached by halving any more.
_INSIDE = 0.999999
_LARGEST_CONSTANT = 1e10
# How often in a search each picture is asked whether it has still improved, and by how
# much what is minimised must have fallen to.
_CHECKS = 10
_IMPROVED = 0.9999
# From the tangent of black or white to that of grey.
_SATURATED = math.atanh(_INSIDE)


def deepfool(
    *, steps: int = 50, overshoot: float = 0.02, candidates: int = 9
) -> base.Attack:
    """DeepFool: step by step across the nearest boundary of the linearised network.

    Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), algorithm 2. As in the authors'
    program each step goes 1e-4 and then the share `overshoot` too far, so that the
    picture does cross; what leaves [0, 1] is cut after each step. Untargeted, for L2.

    A picture stays at its first point that is misclassified, which is itself where
    the network is wrong about it. Those that are not misclassified after all steps
    come back as far as they have got. The work ends when all are misclassified; what
    happens to a picture does not depend on the others.

    Args:
        steps: at most so many.
        overshoot: share of each step that is added to it.
        candidates: the likeliest other classes of the picture as it is given, whose
            boundaries are looked at; each costs a backward pass in each step. All of
            them where there are fewer.

    Raises:
        ArgumentError: an option out of its range.
    """
    base.check_at_least_one("steps", steps)
    base.check_at_least_one("candidates", candidates)
    base.check_not_negative("overshoot", overshoot)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key
        clean = logits(images)
        classes = clean.shape[-1]
        own = jax.nn.one_hot(labels, classes, dtype=clean.dtype)
        others = jnp.where(own > 0, -jnp.inf, clean)
        likeliest = jax.lax.top_k(others, min(candidates, classes - 1))[1]

        def crossed(points: jax.Array, outputs: jax.Array, pullback: Any) -> jax.Array:
            def boundary(candidate: jax.Array) -> tuple[jax.Array, ...]:
                against = jax.nn.one_hot(candidate, classes, dtype=clean.dtype) - own
                (normal,) = pullback(against)
                squared = _squared(normal)
                height = jnp.abs((against * outputs).sum(axis=-1))
                # No step leads to the boundary of a class without gradient.
                steep = squared > 0
                length = jnp.sqrt(jnp.where(steep, squared, 1))
                away = jnp.where(steep, height / length, jnp.inf)
                return away, _scaled(normal, (height / length + _FURTHER) / length)

            # One at a time: the memory is one backward pass's.
            away, step = jax.lax.map(boundary, likeliest.T)
            nearest = away.argmin(axis=0)
            step = step[nearest, jnp.arange(len(images))]
            return jnp.clip(points + (1 + overshoot) * step, 0, 1)

        def unfinished(carry: tuple) -> jax.Array:
            step, _, active = carry
            return (step < steps) & active.any()

        def stepped(carry: tuple) -> tuple:
            step, points, active = carry
            outputs, pullback = jax.vjp(logits, points)
            active &= ~base.fooled(outputs, labels)
            moved = jax.lax.cond(
                active.any(),
                lambda: crossed(points, outputs, pullback),
                lambda: points,
            )
            return step + 1, base.where(active, moved, points), active

        carry = jnp.int32(0), images, ~base.fooled(clean, labels)
        return jax.lax.while_loop(unfinished, stepped, carry)[1]

    return attack


class _Best(NamedTuple):
    """The nearest misleading pictures so far, and their squared distances, f32[B]."""

    images: jax.Array
    squared: jax.Array


class _Search(NamedTuple):
    """One search with given constants; everything but the step is of each picture."""

    step: jax.Array
    tangents: jax.Array
    optimizer: Any
    best: _Best
    misled: jax.Array
    active: jax.Array
    first: jax.Array
    previous: jax.Array


def carlini_wagner(
    *,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    search_steps: int = 9,
    constant: float = 1e-3,
    targeted: bool = False,
    early_abort: bool = True,
) -> base.Attack:
    """Carlini and Wagner's attack for L2.

    Carlini and Wagner 2017 (arXiv 1608.04644), sections 5 and 6: Adam lowers the
    squared distance plus a constant times how far the logits are from misleading, over
    a variable whose tangent is the picture, so that it stays in [0, 1]. The constant
    is searched for by halving, for each picture alone; the numbers are those of the
    authors' program, except that a search ends early for each picture alone and not
    for the batch, so that the others do not matter, and not before Adam has had the
    steps from black or white to grey, or what is minimised has begun to fall: pictures
    of nothing but black and white would never leave them.

    Black and white leave their places slowly, since the tangent is flat there: pictures
    with much of them need some hundred steps of the default rate.

    Pictures for which nothing misleading was found come back as they were given, as
    do those that mislead as they are.

    Args:
        confidence: by how much the wrong (wanted) logit must be above all others.
        steps: of Adam, for each constant.
        learning_rate: Adam's.
        search_steps: constants that are tried; 1 for a fixed one.
        constant: the first one.
        targeted: the labels are the classes that the pictures are to be taken for.
        early_abort: a picture's search ends where a tenth of the steps has not lowered
            what is minimised by 0.01 %, see above.

    Raises:
        ArgumentError: an option out of its range.
    """
    base.check_at_least_one("steps", steps)
    base.check_at_least_one("search_steps", search_steps)
    base.check_not_negative("confidence", confidence)
    for name, value in (("learning_rate", learning_rate), ("constant", constant)):
        if not (math.isfinite(value) and value > 0):
            raise errors.ArgumentError(
                f"{name} is {value}, but must be finite and positive"
            )
    adam = optax.adam(learning_rate)
    check_every = max(steps // _CHECKS, 1)
    patience = math.ceil(_SATURATED / learning_rate)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key

        def judged(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            """What is left of the margin, no less than zero, and whether none is."""
            margin = base.margin(outputs, labels) * (-1 if targeted else 1)
            misled = base.fooled(outputs, labels, targeted) & (margin <= -confidence)
            return jnp.maximum(margin + confidence, 0), misled

        start = jnp.arctanh((2 * images - 1) * _INSIDE)
        # As these are rounded: a distance from the pictures themselves would begin with
        # noise, whose gradient Adam makes as large as any other.
        origin = _pictured(start)

        def searched(best: _Best, constants: jax.Array, active: jax.Array) -> _Search:
            def objective(tangents: jax.Array) -> tuple[jax.Array, tuple]:
                points = _pictured(tangents)
                squared = _squared(points - origin)
                left, misled = judged(logits(points))
                values = squared + constants * left
                return values.sum(), (points, squared, misled, values)

            def unfinished(search: _Search) -> jax.Array:
                return (search.step < steps) & search.active.any()

            def stepped(search: _Search) -> _Search:
                slope, (points, squared, misled, values) = jax.grad(
                    objective, has_aux=True
                )(search.tangents)
                updates, optimizer = adam.update(slope, search.optimizer)
                moved = optax.apply_updates(search.tangents, updates)
                active = search.active
                misled &= active
                nearer = misled & (squared < search.best.squared)
                best = _Best(
                    base.where(nearer, points, search.best.images),
                    jnp.where(nearer, squared, search.best.squared),
                )
                first, previous = search.first, search.previous
                if early_abort:
                    due = search.step % check_every == 0
                    first = jnp.where(search.step == 0, values, first)
                    waiting = (values > _IMPROVED * first) & (search.step < patience)
                    active &= ~due | waiting | (values <= _IMPROVED * previous)
                    previous = jnp.where(due, values, previous)
                return _Search(
                    search.step + 1,
                    base.where(active, jnp.asarray(moved), search.tangents),
                    optimizer,
                    best,
                    search.misled | misled,
                    active,
                    first,
                    previous,
                )

            return jax.lax.while_loop(
                unfinished,
                stepped,
                _Search(
                    jnp.int32(0),
                    start,
                    adam.init(start),
                    best,
                    jnp.zeros(len(images), bool),
                    active,
                    jnp.full(len(images), jnp.inf),
                    jnp.full(len(images), jnp.inf),
                ),
            )

        _, already = judged(logits(images))

        def halved(_: jax.Array, carry: tuple) -> tuple:
            best, low, high, constants = carry
            search = searched(best, constants, ~already)
            high = jnp.where(search.misled, jnp.minimum(high, constants), high)
            low = jnp.where(search.misled, low, jnp.maximum(low, constants))
            bounded = high < _LARGEST_CONSTANT
            constants = jnp.where(bounded, (low + high) / 2, 10 * constants)
            return search.best, low, high, constants

        each = jnp.ones(len(images))
        best = _Best(images, jnp.inf * each)
        carry = best, 0 * each, _LARGEST_CONSTANT * each, constant * each
        return jax.lax.fori_loop(0, search_steps, halved, carry)[0].images

    return attack


def _pictured(tangents: jax.Array) -> jax.Array:
    return jnp.clip((jnp.tanh(tangents) + 1) / 2, 0, 1)


def _squared(differences: jax.Array) -> jax.Array:
    """The squared L2 norm of each picture, f32[B]."""
    return jnp.square(differences).sum(axis=tuple(range(1, differences.ndim)))


def _scaled(pictures: jax.Array, factors: jax.Array) -> jax.Array:
    return pictures * factors.reshape(-1, *[1] * (pictures.ndim - 1))
