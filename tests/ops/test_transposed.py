"""Convolutions of un-pooled values and transposed ones, in each of their forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, ops
from flaxnets.ops import transposed

UNPOOL = {"nearest": ops.nearest, "bed_of_nails": ops.bed_of_nails}


@pytest.mark.parametrize("kind", UNPOOL)
@pytest.mark.parametrize(
    ("window", "factor"),
    [((3, 3), (2, 2)), ((3, 3), (2, 3)), ((3, 3), (3, 1)), ((2, 5), (2, 4)), ((3,), 2)],
)
def test_nothing_is_lost_by_not_unpooling(kind, window, factor) -> None:
    """Values and gradients are those of un-pooling and then convolving."""
    shape = (2, *(4, 5)[: len(window)], 3)
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (*window, 3, 2))

    @jax.jit
    def both(x, kernel):
        whole, plain = jax.vjp(
            lambda x, kernel: ops.conv(UNPOOL[kind](x, factor), kernel), x, kernel
        )
        once, pulled = jax.vjp(
            lambda x, kernel: ops.unpooled_conv(x, kernel, factor, kind), x, kernel
        )
        upstream = jnp.sin(jnp.arange(whole.size, dtype=whole.dtype))
        upstream = upstream.reshape(whole.shape)
        return (whole, *plain(upstream)), (once, *pulled(upstream))

    for expected, found in zip(*both(x, kernel), strict=True):
        # Sums of up to 100 products of normal numbers in float32.
        np.testing.assert_allclose(found, expected, atol=3e-5)


@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize(
    ("window", "steps"),
    [
        ((3, 3), (2, 2)),
        ((4, 2), (3, 1)),
        ((1, 3), (2, 4)),
        ((5, 5), (2, 3)),
        ((4,), (2,)),
        ((3, 2, 3), (2, 2, 1)),
    ],
)
def test_a_transposed_convolution_is_the_same_in_both_forms(
    window, steps, features
) -> None:
    """That of CPU, with many features and with few, and that of others."""
    rank = len(window)
    x = jax.random.normal(jax.random.key(0), (2, *(4, 5, 3)[:rank], 3))
    kernel = jax.random.normal(jax.random.key(1), (*window, 3, features))
    for cut in range(3):
        lows = [cut] * rank
        lengths = [
            (size - 1) * step + taps - 1 - cut
            for size, step, taps in zip(x.shape[1:-1], steps, window, strict=True)
        ]
        outputs = transposed._Outputs(steps, lows, lengths)
        overlaps, places = (
            jax.jit(functools.partial(form, outputs=outputs))(x, kernel)
            for form in (transposed._in_overlaps, transposed._in_places)
        )
        np.testing.assert_allclose(overlaps, places, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "fill", "message"),
    [(4, "nearest", "unpooled_conv takes x"), (3, "nails", "fill is 'nails'")],
)
def test_what_does_not_fit_is_refused(channels: int, fill, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        ops.unpooled_conv(
            jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, channels, 2)), 2, fill
        )
