"""One perturbation for all pictures."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxnets.attack import base, gradient
from flaxnets.train import losses

# Shafahi et al., section 3.2, where pictures already lost stop to count.
_LOSS_LIMIT = 9.0

Universal = Callable[[base.Logits, jax.Array, jax.Array, jax.Array], jax.Array]
"""`(logits, images f32[N, H, W, C], labels int[N], key) -> perturbation f32[H, W, C]`.

Pure, so that the caller compiles it.
"""


def universal(
    epsilon: float,
    norm: base.Norm = "linf",
    *,
    steps: int = 500,
    batch_size: int = 128,
    step_size: float | None = None,
    targeted: bool = False,
) -> Universal:
    """The stochastic gradient form of universal perturbations.

    Shafahi et al. 2020 (arXiv 1811.11304), algorithm 1: ascent on the cross-entropy of
    batches, cut off at 9 for each picture so that no single one takes the perturbation
    over, with a projection into the ball after each step. Moosavi-Dezfooli et al. 2017
    (arXiv 1610.08401) run DeepFool on one picture after the other instead, which
    neither batches nor has an objective that one could watch; the paper finds it
    slower and weaker. Steps go along the gradient's sign (linf) or along the gradient
    made of length one (l2), and shrink linearly, so that the end is not a random
    batch's.

    >>> make = attack.universal(0.3)
    >>> perturbation = jax.jit(partial(make, logits))(images, labels, key)
    >>> found = attack.run(attack.added(perturbation, 0.3), apply, variables, ...)

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`; it holds for what is
            returned to the last bit.
        norm: "linf" or "l2".
        steps: gradient steps.
        batch_size: pictures of a step, drawn anew without replacement; at most all.
        step_size: of the first step; by default epsilon / 10.
        targeted: the labels are the classes that the pictures are to be taken for, and
            the loss, not cut off, is lowered.

    Raises:
        ArgumentError: an option out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("steps", steps)
    base.check_at_least_one("batch_size", batch_size)
    step_size = epsilon / 10 if step_size is None else step_size
    base.check_not_negative("step_size", step_size)

    def make(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        count = min(batch_size, len(images))

        def objective(
            perturbation: jax.Array, images: jax.Array, labels: jax.Array
        ) -> jax.Array:
            outputs = logits(jnp.clip(images + perturbation, 0, 1))
            loss = losses.cross_entropy(outputs.astype(jnp.float32), labels)
            gain = -loss if targeted else jnp.minimum(loss, _LOSS_LIMIT)
            return gain.mean()

        def step(number: jax.Array, perturbation: jax.Array) -> jax.Array:
            order = jax.random.permutation(jax.random.fold_in(key, number), len(images))
            chosen = order[:count]
            slope = jax.grad(objective)(perturbation, images[chosen], labels[chosen])
            ahead = jnp.sign(slope) if norm == "linf" else gradient.unit(slope)
            moved = perturbation + step_size * (1 - number / steps) * ahead
            return base.in_ball(moved, epsilon, norm)

        start = jnp.zeros((1, *images.shape[1:]), images.dtype)
        return jax.lax.fori_loop(0, steps, step, start)[0]

    return make


def added(
    perturbation: jax.Array, epsilon: float, norm: base.Norm = "linf"
) -> base.Attack:
    """The attack that adds the same perturbation to each picture.

    Args:
        perturbation: f32[H, W, C], such as `universal` makes.
        epsilon, norm: the bound, see `within`.

    Raises:
        ArgumentError: epsilon out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        del logits, labels, key
        return base.within(images, images + perturbation[None], epsilon, norm)

    return attack
