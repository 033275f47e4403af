"""Un-pooling and transposed convolution against PyTorch's, values and gradients."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, ops
from tests.parity import exchange

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
functional = torch.nn.functional

WINDOWS = [
    (1, (11,), 2, 2, 0),
    (2, (8, 6), 2, 2, 0),
    (2, (9, 7), 2, 2, 0),
    (2, (9, 8), 3, 2, 1),
    (2, (7, 7), 3, 1, 0),
    (2, (9, 9), 2, 3, 0),
    (2, (8, 8), 3, 3, 1),
    (3, (5, 6, 4), 2, 2, 0),
    (3, (5, 6, 5), 3, 2, 1),
]


@pytest.mark.parametrize(("rank", "shape", "window", "strides", "padding"), WINDOWS)
def test_switches_and_max_unpooling(rank, shape, window, strides, padding) -> None:
    """With ties, of which PyTorch too takes the first."""
    x = jax.random.randint(jax.random.key(0), (2, *shape, 3), 0, 4).astype(jnp.float32)
    geometry = {"strides": strides, "padding": padding}

    def there(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return ops.max_pool_with_switches(x, window, **geometry)

    pooled, upstream, (gradient,), switches = exchange.pulled(there, x, has_aux=True)
    image = exchange.channels_first(x)
    pool = getattr(functional, f"max_pool{rank}d")
    expected, places = pool(
        image, window, strides, padding=padding, return_indices=True
    )
    np.testing.assert_array_equal(pooled, exchange.channels_last(expected))
    np.testing.assert_array_equal(switches, exchange.channels_last(places))
    expected.backward(exchange.channels_first(upstream).detach())
    np.testing.assert_allclose(
        gradient, exchange.channels_last(image.grad), rtol=1e-6, atol=1e-6
    )

    # Back, with other values than the maxima, as a decoder has them.
    values = jax.random.normal(jax.random.key(2), pooled.shape)

    def back(values: jax.Array) -> jax.Array:
        return ops.max_unpool(values, switches, shape, window, **geometry)

    y, upstream, (gradient,) = exchange.pulled(back, values)
    given = exchange.channels_first(values)
    unpool = getattr(functional, f"max_unpool{rank}d")
    expected = unpool(given, places, window, strides, padding, output_size=shape)
    np.testing.assert_array_equal(y, exchange.channels_last(expected))
    expected.backward(exchange.channels_first(upstream).detach())
    np.testing.assert_array_equal(gradient, exchange.channels_last(given.grad))
    # Un-pooled maxima are pooled to themselves.
    again = jax.jit(lambda x: ops.max_pool(back(x), window, **geometry))(pooled)
    np.testing.assert_array_equal(again, jnp.maximum(pooled, 0))


@pytest.mark.parametrize(
    ("rank", "size", "strides", "padding", "output_padding", "dilation"),
    [
        (1, 4, 2, 1, 0, 1),
        (2, 3, 1, 1, 0, 1),
        (2, 3, 2, 1, 1, 1),
        (2, 4, 2, 1, 0, 1),
        (2, 2, 2, 0, 0, 1),
        (2, 2, 3, 0, 2, 1),
        (2, 5, 3, 2, 1, 1),
        (2, 3, 2, 2, 1, 2),
        (2, 3, 1, 2, 1, 2),
        (3, 3, 2, 1, 1, 1),
    ],
)
def test_transposed_convolution(
    rank, size, strides, padding, output_padding, dilation
) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *(5, 4, 3)[:rank], 4))
    kernel = jax.random.normal(jax.random.key(1), (*(size,) * rank, 4, 6))
    y, upstream, (image_gradient, kernel_gradient) = exchange.pulled(
        lambda x, kernel: ops.conv_transpose(
            x,
            kernel,
            strides=strides,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
        ),
        x,
        kernel,
    )
    image = exchange.channels_first(x)
    weights = torch.tensor(
        np.moveaxis(np.asarray(kernel), (-2, -1), (0, 1)).copy(), requires_grad=True
    )
    operation = getattr(functional, f"conv_transpose{rank}d")
    expected = operation(
        image, weights, None, strides, padding, output_padding, 1, dilation
    )
    # Sums of up to 108 products in float32, in another order.
    np.testing.assert_allclose(
        y, exchange.channels_last(expected), rtol=1e-4, atol=1e-4
    )
    expected.backward(exchange.channels_first(upstream).detach())
    np.testing.assert_allclose(
        image_gradient, exchange.channels_last(image.grad), rtol=1e-4, atol=1e-4
    )
    assert weights.grad is not None
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(kernel_gradient), (-2, -1), (0, 1)),
        weights.grad.numpy(),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "strides"), [(3, 1), (3, 2), (4, 2), (2, 3), (5, 3)])
def test_transposed_convolution_of_keras(size: int, strides: int, padding: str) -> None:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layer = keras.layers.Conv2DTranspose(
        6, size, strides, padding.lower(), use_bias=False
    )
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 4))
    expected = layer(np.asarray(x))
    kernel = np.swapaxes(np.asarray(layer.kernel), -1, -2)
    run = functools.partial(ops.conv_transpose, strides=strides, padding=padding)
    y = jax.jit(run)(x, jnp.asarray(kernel))
    np.testing.assert_allclose(y, np.asarray(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rank", "factor"), [(1, 3), (2, 2), (2, (2, 3)), (3, 2)])
def test_blocks_equal_loops(rank: int, factor: Any) -> None:
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, *(3, 4, 2)[:rank], 24)))
    sizes = tuple(np.broadcast_to(factor, rank).tolist())
    shape = (2, *(a * b for a, b in zip(x.shape[1:-1], sizes, strict=True)))
    repeated, nails = np.zeros((*shape, 24)), np.zeros((*shape, 24))
    channels = 24 // math.prod(sizes)
    shuffled = np.zeros((*shape, channels))
    for place in itertools.product(*map(range, shape[1:])):
        block = tuple(a // b for a, b in zip(place, sizes, strict=True))
        inside = tuple(a % b for a, b in zip(place, sizes, strict=True))
        at, source = (slice(None), *place), x[(slice(None), *block)]
        repeated[at] = source
        nails[at] = source if not any(inside) else 0
        number = int(np.ravel_multi_index(inside, sizes))
        shuffled[at] = source[:, number * channels : (number + 1) * channels]
    np.testing.assert_array_equal(ops.nearest(x, factor), repeated)
    np.testing.assert_array_equal(ops.bed_of_nails(x, factor), nails)
    np.testing.assert_array_equal(ops.depth_to_space(x, factor), shuffled)


def test_sub_pixels_of_pytorch() -> None:
    """Its channels are those of a place next to each other."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 12))
    ours = x.reshape(2, 3, 4, 3, 4).swapaxes(-1, -2).reshape(2, 3, 4, 12)
    expected = functional.pixel_shuffle(exchange.channels_first(x), 2)
    np.testing.assert_array_equal(
        ops.depth_to_space(ours, 2), exchange.channels_last(expected)
    )


def test_the_gradient_of_nails_is_what_was_nailed() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    y, pull = jax.vjp(lambda x: ops.bed_of_nails(x, 2), x)
    upstream = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_array_equal(pull(upstream)[0], upstream[:, ::2, ::2])


def test_what_does_not_fit() -> None:
    x = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(errors.ArgumentError, match="3 channels, .* multiple of 4"):
        ops.depth_to_space(x, 2)
    with pytest.raises(errors.ArgumentError, match=r"gives \[2, 5, 5, 3\]"):
        ops.max_unpool(x, jnp.zeros(x.shape, jnp.int32), (10, 10), 2)
    with pytest.raises(errors.ArgumentError, match="output_padding is 2"):
        ops.conv_transpose(
            x, jnp.zeros((3, 3, 3, 1)), strides=2, padding=1, output_padding=2
        )
    with pytest.raises(errors.ArgumentError, match="goes with numbers only"):
        ops.conv_transpose(x, jnp.zeros((3, 3, 3, 1)), output_padding=1)
    with pytest.raises(errors.ArgumentError, match="cuts the whole output"):
        ops.conv_transpose(x, jnp.zeros((3, 3, 3, 1)), padding=3)
    with pytest.raises(errors.ArgumentError, match=r"\[\*window, C, F\]"):
        ops.conv_transpose(x, jnp.zeros((3, 3, 1, 3)))
