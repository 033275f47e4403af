"""Auto-PGD: projected gradient ascent that chooses its own steps."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, streams

Loss = Literal["ce", "dlr"]
_Objective = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Algorithm 1 and section 3 of the paper.
_MOMENTUM = 0.75
_RISING = 0.75


def apgd(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    loss: Loss = "ce",
    targets: int | None = None,
    steps: int = 100,
    restarts: int = 1,
    random_start: bool = True,
) -> base.Attack:
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, sections 3 and 4).

    Gradient ascent with momentum from a step of 2 epsilon. At checkpoints that come
    ever closer, a picture whose loss has risen in too few of the steps, or not at all
    above its best, goes back to its best point and halves its step. The random starts,
    the order of projections and the comparisons are those of the authors' program,
    with which published accuracies were measured, but for two things: the checkpoints
    are rounded as in the paper (the same for 100 steps), and the first step counts as
    a rise where it rises above the start, not above zero.

    A picture that is misclassified from the start comes back as it is; any other one
    as the first point found that is misclassified, or else as the one with the
    greatest loss. All of this happens to each picture alone: the others in the batch
    change nothing. The work ends when all are misclassified.

    The key may also be one for each picture, key[B].

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2".
        loss: "ce", cross-entropy, or "dlr", the difference of logits ratio, which no
            scaling of the logits flattens.
        targets: None, or how many of the likeliest other classes are aimed at in turn,
            with the targeted form of "dlr"; at most all others. The paper takes 9.
        steps: gradient steps of each run; there is one more gradient than steps.
        restarts: runs, for each target where there are any.
        random_start: whether runs start at random points, or at the picture.

    Raises:
        ArgumentError: an option out of its range; or, when called, fewer than 3
            classes for "dlr" or 4 with targets.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    if loss not in get_args(Loss):
        raise errors.ArgumentError(
            f"loss is {loss!r}, but must be one of {', '.join(get_args(Loss))}"
        )
    if targets is not None and loss != "dlr":
        raise errors.ArgumentError(
            f"targets is {targets} with loss {loss!r}, but only 'dlr' has a targeted "
            "form; leave targets out or give loss='dlr'"
        )
    if targets is not None:
        base.check_at_least_one("targets", targets)
    base.check_at_least_one("steps", steps)
    base.check_at_least_one("restarts", restarts)
    if restarts > 1 and not random_start:
        raise errors.ArgumentError(
            f"restarts is {restarts} without random_start, but all runs would be the "
            "same; give restarts=1 or random_start=True"
        )
    objective = _objective(loss, targets is not None)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        keys = streams.per_picture(key, len(images))
        clean = logits(images).astype(jnp.promote_types(images.dtype, jnp.float32))
        if targets is None:
            aims = jnp.asarray(labels)[:, None]
        else:
            _check_classes(clean, 4)
            aims = likeliest_others(clean, labels, targets)

        def run(number: jax.Array, kept: _Kept) -> _Kept:
            aim = aims[:, number // restarts]
            start = images
            if random_start:
                start = _random_start(
                    streams.advanced(keys, number), images, epsilon, norm
                )
            search = _climb(
                lambda points: _evaluated(logits, objective, points, labels, aim),
                images,
                start,
                kept.fooled,
                labels,
                _Bound(epsilon, norm),
                steps,
            )
            floor = jnp.maximum(objective(clean, labels, aim), kept.value)
            better = (search.best_value > floor) | (search.fooled & ~kept.fooled)
            better &= ~kept.fooled
            point = base.where(search.fooled, search.found, search.best)
            return _Kept(
                base.where(better, point, kept.point),
                jnp.where(better, search.best_value, kept.value),
                search.fooled,
            )

        kept = _Kept(
            images, jnp.full(len(images), -jnp.inf), base.fooled(clean, labels)
        )
        return jax.lax.fori_loop(0, aims.shape[1] * restarts, run, kept).point

    return attack


def difference_of_logits_ratio(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Minus the margin over the first logit less the third, f32[B]; positive: fooled.

    Croce and Hein 2020, equation 6, with 1e-12 added to the denominator as in the
    authors' program.

    Args:
        logits: f32[B, K], K at least 3.
        labels: int[B].

    Raises:
        ArgumentError: fewer than 3 classes.
    """
    _check_classes(logits, 3)
    largest = jax.lax.top_k(logits, 3)[0]
    scale = largest[:, 0] - largest[:, 2] + 1e-12
    return -base.margin(logits, labels) / scale


def targeted_difference_of_logits_ratio(
    logits: jax.Array, labels: jax.Array, targets: jax.Array
) -> jax.Array:
    """The target's logit less the label's, over the spread of the first four, f32[B].

    Croce and Hein 2020, equation 7: the scale is the first logit less the mean of the
    third and the fourth.

    Args:
        logits: f32[B, K], K at least 4.
        labels: int[B] true classes.
        targets: int[B] wanted classes.

    Raises:
        ArgumentError: fewer than 4 classes.
    """
    _check_classes(logits, 4)
    largest = jax.lax.top_k(logits, 4)[0]
    scale = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12
    places = jnp.stack([targets, labels], axis=1)
    chosen = jnp.take_along_axis(logits, places, axis=1)
    return (chosen[:, 0] - chosen[:, 1]) / scale


def likeliest_others(logits: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """The classes besides the label by their logits, largest first, int32[B, count].

    Args:
        logits: f32[B, K].
        labels: int[B].
        count: of classes; at most the K - 1 that there are.
    """
    others = jnp.where(_is_label(logits, labels), -jnp.inf, logits)
    return jax.lax.top_k(others, min(count, logits.shape[-1] - 1))[1]


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step size is reconsidered, in order.

    Croce and Hein 2020, section 3: ceil(p_j steps), where p_1 = 0.22 and the distance
    of p_j shrinks by 0.03 each time, down to 0.06.
    """
    # In hundredths, since the ceiling of 0.57 * 100 in floating point is 57 or 58.
    before, part = 0, 22
    places = set()
    while part <= 100:
        places.add(-(-part * steps // 100))
        before, part = part, part + max(part - before - 3, 6)
    return sorted(places)


class _Bound(NamedTuple):
    epsilon: float
    norm: base.Norm


class _Kept(NamedTuple):
    """What is kept of all runs.

    Attributes:
        point: f32[B, H, W, C], the first one misclassified or the one of most loss.
        value: f32[B], its loss.
        fooled: bool[B].
    """

    point: jax.Array
    value: jax.Array
    fooled: jax.Array


class _Search(NamedTuple):
    """One run between two steps; pictures f32[B, H, W, C], the others [B].

    Attributes:
        step: int32[], steps taken.
        point, previous: where the pictures are, and where they were.
        value: the loss at `previous`.
        best, best_value, best_gradient: of the point of greatest loss.
        size: length of a step.
        rises: steps since the last checkpoint that raised the loss.
        halved: whether the last checkpoint halved the step.
        checked: the greatest loss at the last checkpoint.
        fooled: whether a misclassified point was found.
        found: the first such point.
    """

    step: jax.Array
    point: jax.Array
    previous: jax.Array
    value: jax.Array
    best: jax.Array
    best_value: jax.Array
    best_gradient: jax.Array
    size: jax.Array
    rises: jax.Array
    halved: jax.Array
    checked: jax.Array
    fooled: jax.Array
    found: jax.Array


def _climb(
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
    images: jax.Array,
    start: jax.Array,
    fooled: jax.Array,
    labels: jax.Array,
    bound: _Bound,
    steps: int,
) -> _Search:
    """One run, from `start` on; `evaluate` gives loss, gradient and logits."""
    windows = np.zeros(steps + 1, np.int32)
    places = checkpoints(steps)
    windows[places] = np.diff(places, prepend=0)
    window_at = jnp.asarray(windows)

    def unfinished(search: _Search) -> jax.Array:
        return (search.step <= steps) & ~search.fooled.all()

    def advance(search: _Search) -> _Search:
        value, gradient, logits = evaluate(search.point)
        hit = base.fooled(logits, labels) & ~search.fooled
        better = value > search.best_value
        best = base.where(better, search.point, search.best)
        best_value = jnp.where(better, value, search.best_value)
        best_gradient = base.where(better, gradient, search.best_gradient)
        rises = search.rises + (value > search.value)

        window = window_at[search.step]
        checking = window > 0
        wavering = rises <= _RISING * window
        stalled = ~search.halved & (best_value <= search.checked)
        halve = checking & (wavering | stalled)
        size = jnp.where(halve, search.size / 2, search.size)
        point = base.where(halve, best, search.point)
        gradient = base.where(halve, best_gradient, gradient)

        # There is nothing to go on from in the first step.
        momentum = jnp.where(search.step == 0, 1, _MOMENTUM)
        target = base.within(images, point + _direction(gradient, size, bound), *bound)
        further = (target - point) * momentum
        further += (point - search.previous) * (1 - momentum)
        return _Search(
            step=search.step + 1,
            point=base.within(images, point + further, *bound),
            previous=point,
            value=value,
            best=best,
            best_value=best_value,
            best_gradient=best_gradient,
            size=size,
            rises=jnp.where(checking, 0, rises),
            halved=jnp.where(checking, halve, search.halved),
            checked=jnp.where(checking, best_value, search.checked),
            fooled=search.fooled | hit,
            found=base.where(hit, search.point, search.found),
        )

    count = len(images)
    return jax.lax.while_loop(
        unfinished,
        advance,
        _Search(
            step=jnp.int32(0),
            point=start,
            previous=start,
            # The start itself is no rise.
            value=jnp.full(count, jnp.inf),
            best=start,
            best_value=jnp.full(count, -jnp.inf),
            best_gradient=jnp.zeros_like(images),
            size=jnp.full(count, 2.0 * bound.epsilon),
            rises=jnp.zeros(count, jnp.int32),
            # At the first checkpoint only the number of rises counts.
            halved=jnp.ones(count, bool),
            checked=jnp.full(count, -jnp.inf),
            fooled=fooled,
            found=images,
        ),
    )


def _objective(loss: Loss, targeted: bool) -> _Objective:
    """`(logits, labels, targets) -> f32[B]`, to be made large."""
    if targeted:
        return targeted_difference_of_logits_ratio
    if loss == "dlr":
        return lambda logits, labels, _: difference_of_logits_ratio(logits, labels)
    return lambda logits, labels, _: _cross_entropy(logits, labels)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label], f32[B], also where it is very small.

    As a difference of logits it would be zero for all margins above 16, and no step
    could be told to be better than another one.
    """
    others = jnp.where(_is_label(logits, labels), -jnp.inf, logits)
    its = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - its)


def _evaluated(
    logits: base.Logits,
    objective: _Objective,
    points: jax.Array,
    labels: jax.Array,
    aim: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss f32[B], its gradient, and logits f32[B, K], from one pass back and forth."""

    def total(points: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        found = logits(points).astype(jnp.promote_types(points.dtype, jnp.float32))
        values = objective(found, labels, aim)
        return values.sum(), (values, found)

    gradient, (values, found) = jax.grad(total, has_aux=True)(points)
    return values, gradient, found


def _random_start(
    keys: jax.Array, images: jax.Array, epsilon: float, norm: base.Norm
) -> jax.Array:
    """Points at the distance epsilon, before they are cut to [0, 1]."""
    shape = images.shape[1:]
    if norm == "linf":
        draw = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1))
        noise = draw(keys)
        length = jnp.abs(noise).max(axis=(1, 2, 3), keepdims=True)
    else:
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        length = _length(noise)
    noise = epsilon * noise / jnp.maximum(length, 1e-12)
    return base.within(images, images + noise, epsilon, norm)


def _direction(gradient: jax.Array, size: jax.Array, bound: _Bound) -> jax.Array:
    """The steepest step of a size for each picture, f32[B, H, W, C]."""
    size = size[:, None, None, None]
    if bound.norm == "linf":
        return size * jnp.sign(gradient)
    return size * gradient / (_length(gradient) + 1e-12)


def _length(values: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(values).sum(axis=(1, 2, 3), keepdims=True))


def _is_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def _check_classes(logits: jax.Array, least: int) -> None:
    if logits.shape[-1] < least:
        kind = "dlr" if least == 3 else "targeted dlr"
        raise errors.ArgumentError(
            f"the logits are of {logits.shape[-1]} classes, but the {kind} loss "
            f"compares the {least} largest ones; take loss='ce'"
        )
