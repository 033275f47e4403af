"""Attacks that follow the gradient of the loss inside a ball around each picture."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxnets import errors
from flaxnets.attack import base, streams
from flaxnets.train import losses

# Where pictures stop as soon as they are fooled, the last of them are worked on alone
# once only this share of a batch is left, if that is of so many pictures or more.
_LAST_SHARE, _LAST_LEAST = 4, 16


class Ascent(NamedTuple):
    """How to `climb`; the options of `pgd`, with the momentum's `decay`."""

    epsilon: float
    norm: base.Norm
    steps: int
    step_size: float
    targeted: bool
    decay: float
    stop_when_fooled: bool


def fgsm(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    step_size: float | None = None,
    random_start: bool = False,
    targeted: bool = False,
) -> base.Attack:
    """The fast gradient sign method: one step.

    Goodfellow et al. 2015 (arXiv 1412.6572), section 4: images + epsilon sign(gradient
    of the cross-entropy). With a random start, the attack of fast adversarial training
    (Wong et al. 2020, arXiv 2001.03994, algorithm 3). For l2 the step is along the
    gradient itself.

    Args:
        epsilon, norm, targeted: see `pgd`.
        step_size: by default epsilon, or 1.25 epsilon from a random start.
        random_start: see `pgd`.

    Raises:
        ArgumentError: an option out of its range.
    """
    if step_size is None:
        step_size = (1.25 if random_start else 1) * epsilon
    return pgd(
        epsilon,
        norm,
        steps=1,
        step_size=step_size,
        random_start=random_start,
        targeted=targeted,
    )


def bim(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    steps: int = 10,
    step_size: float | None = None,
    targeted: bool = False,
    stop_when_fooled: bool = False,
) -> base.Attack:
    """The basic iterative method, or iterative FGSM: steps from the picture itself.

    Kurakin et al. 2017 (arXiv 1607.02533), section 2.2.

    Args:
        epsilon, norm, targeted, stop_when_fooled: see `pgd`.
        steps: gradient steps.
        step_size: by default epsilon / steps, as in Dong et al. 2018, section 3.1.

    Raises:
        ArgumentError: an option out of its range.
    """
    return mi_fgsm(
        epsilon,
        norm,
        decay=0,
        steps=steps,
        step_size=step_size,
        targeted=targeted,
        stop_when_fooled=stop_when_fooled,
    )


def mi_fgsm(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    decay: float = 1.0,
    steps: int = 10,
    step_size: float | None = None,
    targeted: bool = False,
    stop_when_fooled: bool = False,
) -> base.Attack:
    """The momentum iterative FGSM, whose pictures also fool other networks.

    Dong et al. 2018 (arXiv 1710.06081), algorithm 1: the direction is the sum of all
    gradients so far, each divided by its mean magnitude, the older ones by more powers
    of `decay`.

    Args:
        epsilon, norm, targeted, stop_when_fooled: see `pgd`.
        decay: what the sum is multiplied by before each gradient is added.
        steps: gradient steps.
        step_size: by default epsilon / steps.

    Raises:
        ArgumentError: an option out of its range.
    """
    base.check_not_negative("decay", decay)
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("steps", steps)
    step_size = epsilon / steps if step_size is None else step_size
    base.check_not_negative("step_size", step_size)
    ascent = Ascent(epsilon, norm, steps, step_size, targeted, decay, stop_when_fooled)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key
        active = jnp.ones(len(images), bool)
        return climb(ascent, logits, labels, images, images, active)

    return attack


def pgd(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    targeted: bool = False,
    stop_when_fooled: bool = False,
) -> base.Attack:
    """Projected gradient ascent on the cross-entropy.

    Madry et al. 2018 (arXiv 1706.06083), section 2.1. Each step is `step_size` along
    the gradient's sign (linf) or along the gradient made of length one (l2), and is
    followed by `within`. Where the gradient is zero the picture stays where it is.

    Of several restarts each picture keeps its best: one that is misclassified before
    one that is not, and then the one with the greater loss.

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2".
        steps: gradient steps of each restart.
        step_size: by default 2.5 epsilon / steps, which reaches the bound from any
            start and has steps left to move along it (Madry et al., appendix B).
        restarts: independent random starts.
        random_start: starts at a point of the ball that is uniform for linf, and for
            l2 uniform in its direction and in its distance; else at the picture.
        targeted: the labels are the classes that the pictures are to be taken for, and
            the loss is lowered.
        stop_when_fooled: each picture stays at its first point that is misclassified,
            and the work ends once all of them are. As many pictures or more are
            misclassified in the end, since the last step cannot undo it, but with less
            confidence; what happens to one picture does not depend on the others in
            its batch. By default all steps are taken, as in the paper.

    Returns:
        The attack. What it draws for a picture depends on its key and place only.

    Raises:
        ArgumentError: an option out of its range, or restarts that are all the same.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("steps", steps)
    base.check_at_least_one("restarts", restarts)
    if restarts > 1 and not random_start:
        raise errors.ArgumentError(
            f"restarts is {restarts} without random_start, but all of them would be "
            "the same; give restarts=1 or random_start=True"
        )
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    base.check_not_negative("step_size", step_size)
    ascent = Ascent(epsilon, norm, steps, step_size, targeted, 0, stop_when_fooled)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        keys = streams.per_picture(key, len(images))

        def climbed(restart: jax.Array | int, active: jax.Array) -> jax.Array:
            start = images
            if random_start:
                its = streams.advanced(keys, restart)
                start = random_point(its, images, epsilon, norm)
            return climb(ascent, logits, labels, images, start, active)

        active = jnp.ones(len(images), bool)
        if restarts == 1:
            return climbed(0, active)

        def kept(restart: jax.Array, best: tuple) -> tuple:
            best_images, best_loss, best_fooled = best
            active = ~best_fooled if stop_when_fooled else jnp.ones_like(best_fooled)
            found = climbed(restart, active)
            outputs = logits(found)
            loss = _loss(outputs, labels, targeted)
            is_fooled = base.fooled(outputs, labels, targeted)
            better = jnp.where(
                is_fooled == best_fooled, loss > best_loss, is_fooled & ~best_fooled
            )
            better &= active
            return (
                base.where(better, found, best_images),
                jnp.where(better, loss, best_loss),
                best_fooled | is_fooled,
            )

        nothing = jnp.full(len(images), -jnp.inf), jnp.zeros(len(images), bool)
        return jax.lax.fori_loop(0, restarts, kept, (images, *nothing))[0]

    return attack


def random_point(
    keys: jax.Array, images: jax.Array, epsilon: float, norm: base.Norm
) -> jax.Array:
    """A random picture of the ball around each, f32[B, H, W, C], cut to [0, 1].

    Args:
        keys: key[B].
        images: f32[B, H, W, C].
        epsilon, norm: of the ball; for linf uniform, for l2 uniform in its direction
            and in its distance.
    """

    def offset(key: jax.Array) -> jax.Array:
        shape = images.shape[1:]
        if norm == "linf":
            return jax.random.uniform(key, shape, minval=-epsilon, maxval=epsilon)
        direction, distance = jax.random.split(key)
        ahead = unit(jax.random.normal(direction, (1, *shape)))[0]
        return epsilon * jax.random.uniform(distance) * ahead

    return base.within(images, images + jax.vmap(offset)(keys), epsilon, norm)


def unit(directions: jax.Array) -> jax.Array:
    """Each divided by its L2 norm, f32[B, ...]; what is zero stays zero."""
    axes = tuple(range(1, directions.ndim))
    # First by the largest, whose square could be too small for a float32.
    largest = jnp.abs(directions).max(axis=axes, keepdims=True)
    scaled = directions / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.square(scaled).sum(axis=axes, keepdims=True))
    return scaled / jnp.where(length > 0, length, 1)


def loss_gradient(
    logits: base.Logits, images: jax.Array, labels: jax.Array, targeted: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Each picture's gradient of the loss that an attack raises, and the logits.

    Args:
        logits: the network.
        images: f32[B, H, W, C].
        labels: int[B] true classes, or the wanted ones if targeted.
        targeted: the loss is the cross-entropy's negative.

    Returns:
        f32[B, H, W, C] and f32[B, K].
    """

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = logits(images)
        # The sum, not the mean: a picture's gradient is then its own.
        return _loss(outputs, labels, targeted).sum(), outputs

    return jax.grad(total, has_aux=True)(images)


def climb(
    ascent: Ascent,
    logits: base.Logits,
    labels: jax.Array,
    images: jax.Array,
    start: jax.Array,
    active: jax.Array,
) -> jax.Array:
    """Steps up the loss for the pictures that are active, bool[B].

    Args:
        labels: see `loss_gradient`; where nothing stops when fooled, f32[B, K]
            probabilities will do too, as for `losses.cross_entropy`.
    """

    def climbed(images: jax.Array, labels: jax.Array, carry: tuple, left: int) -> tuple:
        """Until no more than `left` pictures are active, or all steps are done."""

        def unfinished(carry: tuple) -> jax.Array:
            step, _, _, active = carry
            return (step < ascent.steps) & (active.sum() > left)

        def stepped(carry: tuple) -> tuple:
            step, points, velocity, active = carry
            direction, outputs = loss_gradient(logits, points, labels, ascent.targeted)
            if ascent.stop_when_fooled:
                active &= ~base.fooled(outputs, labels, ascent.targeted)
            if ascent.decay:
                axes = tuple(range(1, points.ndim))
                mean = jnp.abs(direction).mean(axis=axes, keepdims=True)
                direction = direction / jnp.where(mean > 0, mean, 1)
                direction = velocity = ascent.decay * velocity + direction
            ahead = jnp.sign(direction) if ascent.norm == "linf" else unit(direction)
            moved = base.within(
                images, points + ascent.step_size * ahead, ascent.epsilon, ascent.norm
            )
            return step + 1, base.where(active, moved, points), velocity, active

        return jax.lax.while_loop(unfinished, stepped, carry)

    velocity = jnp.zeros_like(images) if ascent.decay else ()
    carry = jnp.int32(0), start, velocity, active
    few = len(images) // _LAST_SHARE
    if not ascent.stop_when_fooled or len(images) < _LAST_LEAST:
        return climbed(images, labels, carry, 0)[1]
    step, points, velocity, active = climbed(images, labels, carry, few)
    last = jnp.argsort(~active)[:few]
    own = jax.tree.map(lambda array: array[last], (points, velocity, active))
    _, found, _, _ = climbed(images[last], labels[last], (step, *own), 0)
    # After all steps more may be active than these: they are where they were.
    return points.at[last].set(found)


def _loss(outputs: jax.Array, labels: jax.Array, targeted: bool) -> jax.Array:
    loss = losses.cross_entropy(outputs, labels)
    return -loss if targeted else loss
