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
    # So narrow that places of a window lie in the padding on both sides.
    (2, (4, 1), 3, 2, 1),
    (2, (4, 2), 3, 1, 1),
    (3, (4, 1, 2), 3, 1, 1),
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
        (2, (3, 4), (2, 3), (1, 0), (1, 2), (1, 2)),
        (3, (1, 3, 2), (2, 1, 3), (0, 1, 1), (1, 0, 2), (1, 2, 1)),
    ],
)
def test_transposed_convolution(
    rank, size, strides, padding, output_padding, dilation
) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *(5, 4, 3)[:rank], 4))
    window = np.broadcast_to(size, rank).tolist()
    kernel = jax.random.normal(jax.random.key(1), (*window, 4, 6))
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


def test_sides_of_a_transposed_convolution_are_cut_apart() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 1, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 3, 3, 2))
    whole, some = (
        jax.jit(
            lambda x, kernel, padding=padding: ops.conv_transpose(
                x, kernel, strides=(3, 2), padding=padding
            )
        )(x, kernel)
        for padding in ("VALID", ((0, 2), (3, 1)))
    )
    np.testing.assert_allclose(some, whole[:, :2, 3:-1], atol=1e-6)


def test_overlapping_unpooling_has_all_derivatives() -> None:
    """It is linear, but that none covers another in the derivative."""
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    pooled, switches = ops.max_pool_with_switches(x, 3, strides=2, padding=1)

    def back(values: jax.Array, switches: jax.Array = switches) -> jax.Array:
        return ops.max_unpool(values, switches, (7, 8), 3, strides=2, padding=1)

    tangent, upstream = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in ((1, pooled.shape), (2, x.shape))
    )
    _, forward = jax.jvp(back, (pooled,), (tangent,))
    _, pulled = jax.vjp(back, pooled)
    backward = jnp.vdot(pulled(upstream)[0], tangent)
    np.testing.assert_allclose(jnp.vdot(forward, upstream), backward, rtol=1e-5)
    each = jax.vmap(lambda v, s: back(v[None], s[None])[0])(pooled, switches)
    np.testing.assert_array_equal(each, back(pooled))


def test_an_empty_batch_and_numbers_of_numpy() -> None:
    """As a data set of its own may give them."""
    two: Any = np.int64(2)
    x = jnp.zeros((0, 4, 6, 8))
    assert ops.depth_to_space(x, two).shape == (0, 8, 12, 2)
    kernel = jnp.zeros((3, 3, 8, 5))
    found = ops.conv_transpose(
        x, kernel, strides=two, padding=two, output_padding=two // 2
    )
    assert found.shape == (0, 6, 10, 5)
    assert ops.conv(x, kernel, strides=two, padding=two).shape == (0, 3, 4, 5)
    assert ops.max_pool(x, two).shape == (0, 2, 3, 8)


@pytest.mark.parametrize(
    "operation",
    [ops.conv, ops.conv_transpose, lambda x, k: ops.unpooled_conv(x, k, 2, "nearest")],
)
def test_halves_with_a_kernel_of_float32_are_float32(operation) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3)).astype(jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 2))
    for found in (operation(x, kernel), jax.jit(operation)(x, kernel)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(
            found, operation(x.astype(jnp.float32), kernel), atol=1e-5
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
