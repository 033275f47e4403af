"""Random noise as an attack, which every other one has to be better than."""

import jax
import jax.numpy as jnp

from flaxnets.attack import base, gradient, streams


def random_sampling(
    epsilon: float, norm: base.Norm = "linf", *, samples: int = 100
) -> base.Attack:
    """Points of the ball drawn at random until one is misclassified.

    The brute-force search of Athalye et al. 2018 (arXiv 1802.00420), section 3.1. It
    asks for logits only. A picture comes back as the first of its points that is
    misclassified, and unchanged where there is none, or where it is misclassified as
    it is. The work ends when all are misclassified.

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2"; for how points are drawn see `gradient.random_point`.
        samples: points drawn for each picture.

    Raises:
        ArgumentError: an option out of its range.
    """
    epsilon = base.checked_epsilon(epsilon, norm)
    base.check_at_least_one("samples", samples)

    def attack(
        logits: base.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        keys = streams.per_picture(key, len(images))

        def unfinished(search: tuple) -> jax.Array:
            number, _, is_fooled = search
            return (number < samples) & ~is_fooled.all()

        def drawn(search: tuple) -> tuple:
            number, found, is_fooled = search
            its = streams.advanced(keys, number)
            points = gradient.random_point(its, images, epsilon, norm)
            hit = base.fooled(logits(points), labels) & ~is_fooled
            return number + 1, base.where(hit, points, found), is_fooled | hit

        start = jnp.int32(0), images, base.fooled(logits(images), labels)
        return jax.lax.while_loop(unfinished, drawn, start)[1]

    return attack
