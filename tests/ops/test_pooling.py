import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, ops

GEOMETRIES = [
    ((9, 8, 3), 2, None, "VALID"),
    ((7, 7, 2), 3, None, "VALID"),
    ((7, 9, 2), 3, 2, "SAME"),
    ((8, 8, 1), 2, 2, "SAME"),
    ((8, 6, 2), (2, 3), (1, 2), ((1, 0), (1, 1))),
    ((11, 2), 2, None, "VALID"),
    ((4, 6, 5, 2), 2, None, "VALID"),
]


def images(shape, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (2, *shape))


def brute_force(x: np.ndarray, window, strides, padding, reduce) -> np.ndarray:
    """Pools with Python loops; padding is NaN, which `reduce` leaves out."""
    rank = x.ndim - 2
    window = np.broadcast_to(window, rank)
    strides = window if strides is None else np.broadcast_to(strides, rank)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=np.nan)
    counts = (np.array(x.shape[1:-1]) - window) // strides + 1
    y = np.zeros((x.shape[0], *counts, x.shape[-1]), x.dtype)
    for place in np.ndindex(*counts):
        cut = tuple(
            slice(p * s, p * s + w)
            for p, s, w in zip(place, strides, window, strict=True)
        )
        axes = tuple(range(1, rank + 1))
        y[(slice(None), *place)] = reduce(x[(slice(None), *cut)], axis=axes)
    return y


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), GEOMETRIES)
def test_max_pool_equals_loops(shape, window, strides, padding) -> None:
    x = images(shape)
    y = ops.max_pool(x, window, strides=strides, padding=padding)
    expected = brute_force(np.asarray(x), window, strides, padding, np.nanmax)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), GEOMETRIES)
def test_avg_pool_equals_loops(shape, window, strides, padding) -> None:
    x = images(shape)
    y = ops.avg_pool(x, window, strides=strides, padding=padding)
    expected = brute_force(np.asarray(x), window, strides, padding, np.nanmean)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "padding", "expected"),
    [
        # Begins at 0, 2, 4: the third covers one value only.
        (5, 0, [2, 4]),
        (6, 0, [2, 4, 5]),
        # Begins at -1, 1, 3, 5, all inside.
        (6, 1, [1, 3, 5, 5]),
        # A window at 7 would begin in the padding, and is not taken.
        (7, 1, [1, 3, 5, 6]),
    ],
)
def test_ceil_mode_takes_windows_that_begin_inside(size, padding, expected) -> None:
    x = jnp.arange(float(size)).reshape(1, size, 1)
    y = ops.max_pool(x, 3, strides=2, padding=padding, ceil_mode=True)
    np.testing.assert_array_equal(y[0, :, 0], expected)


@pytest.mark.parametrize(
    ("size", "outputs"), [((7, 7), 7), ((9, 3), (4, 2)), ((2, 5), 6)]
)
def test_adaptive_avg_pool_divides_the_image(size, outputs) -> None:
    x = images((*size, 3))
    y = ops.adaptive_avg_pool(x, outputs)
    rows, columns = (outputs, outputs) if isinstance(outputs, int) else outputs
    assert y.shape == (2, rows, columns, 3)
    for i in range(rows):
        for j in range(columns):
            a, b = i * size[0] // rows, -(-(i + 1) * size[0] // rows)
            c, d = j * size[1] // columns, -(-(j + 1) * size[1] // columns)
            expected = np.asarray(x)[:, a:b, c:d].mean(axis=(1, 2))
            np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-5, atol=1e-6)


def test_avg_pool_can_count_padding() -> None:
    y = ops.avg_pool(
        jnp.ones((1, 2, 2, 1)), 2, strides=2, padding=1, count_include_pad=True
    )
    np.testing.assert_array_equal(y[0, :, :, 0], np.full((2, 2), 0.25))


@pytest.mark.parametrize("window", [2, 3])
def test_gradient_goes_to_the_first_of_equal_maxima(window: int) -> None:
    x = jax.random.randint(jax.random.key(0), (2, 6, 6, 3), 0, 3).astype(jnp.float32)

    def reference(x):
        shape = (1, window, window, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, shape, "VALID")

    weights = images((6 // window, 6 // window, 3), seed=1)
    gradients = [
        jax.grad(lambda x, pool=pool: jnp.sum(pool(x) * weights))(x)
        for pool in (lambda x: ops.max_pool(x, window), reference)
    ]
    np.testing.assert_array_equal(*gradients)


OVERLAPPING = [
    ((2, 7, 8, 3), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((2, 6, 6, 2), (3, 3), (1, 1), ((0, 0), (0, 0))),
    ((2, 9, 4, 2), (2, 3), (3, 2), ((1, 0), (0, 2))),
    ((2, 9, 3), (3,), (2,), ((1, 1),)),
    ((1, 4, 5, 4, 2), (2, 2, 2), (1, 2, 1), ((0, 0), (1, 1), (0, 1))),
]


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), OVERLAPPING)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_derivatives_of_overlapping_windows_are_reduce_windows(
    shape, window, strides, padding, dtype
) -> None:
    # Few values, so that many are equal.
    x = jax.random.randint(jax.random.key(0), shape, 0, 4).astype(dtype)
    direction = jax.random.normal(jax.random.key(1), shape).astype(dtype)

    def pool(x):
        return ops.max_pool(x, window, strides=strides, padding=padding)

    def reference(x):
        low = np.array(-np.inf, dtype)
        spans = (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
        return jax.lax.reduce_window(x, low, jax.lax.max, *spans)

    y, tangent = jax.jvp(pool, (x,), (direction,))
    np.testing.assert_array_equal(y, reference(x))
    upstream = jax.random.normal(jax.random.key(2), y.shape).astype(dtype)
    gradient, expected = (
        np.asarray(jax.vjp(f, x)[1](upstream)[0], np.float64) for f in (pool, reference)
    )
    # Sums of up to nine values in another order.
    tolerance = 1e-6 if dtype == jnp.float32 else 5e-2
    np.testing.assert_allclose(gradient, expected, atol=tolerance)
    # reduce_window's tangents do not keep to the first of equal values; those of a
    # linear map and its transpose belong together.
    forward = np.sum(np.asarray(tangent, np.float64) * np.asarray(upstream, np.float64))
    backward = np.sum(np.asarray(direction, np.float64) * gradient)
    np.testing.assert_allclose(forward, backward, rtol=20 * tolerance, atol=tolerance)
    # Linear around a point without ties: the second derivative is of the square alone.
    twice = jax.jvp(jax.grad(lambda x: jnp.sum(pool(x) ** 2)), (x,), (direction,))[1]
    wanted = jax.vjp(pool, x)[1](2 * tangent)[0]
    np.testing.assert_allclose(
        *(np.asarray(g, np.float32) for g in (twice, wanted)), atol=4 * tolerance
    )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.float16])
def test_overlapping_windows_of_any_type(dtype) -> None:
    x = jnp.arange(25).reshape(1, 5, 5, 1).astype(dtype)
    y = ops.max_pool(x, 3, strides=2, padding=1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(
        y[0, :, :, 0], [[6, 8, 9], [16, 18, 19], [21, 23, 24]]
    )
    assert ops.max_pool(x[:0], 3, strides=2, padding=1).shape == (0, 3, 3, 1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_means_of_halves_are_of_sums_in_float32(dtype) -> None:
    """In halves 3,136 ones are 256, and 4,096 hundreds infinite."""
    x = jnp.full((1, 64, 64, 1), 100, dtype)
    for mean in (ops.avg_pool(x, 64), ops.adaptive_avg_pool(x, 1)):
        assert mean.dtype == dtype and mean.item() == 100
    ends = ops.avg_pool(x, 64, strides=32, padding=32)
    assert ends.dtype == dtype and (ends == 100).all()


@pytest.mark.parametrize("pool", [ops.avg_pool, ops.adaptive_avg_pool])
def test_means_of_integers_are_refused(pool) -> None:
    with pytest.raises(errors.ArgumentError, match="x is uint8; convert it first"):
        pool(jnp.full((1, 4, 4, 1), 200, jnp.uint8), 2)


def test_a_window_larger_than_the_image_is_refused() -> None:
    for pool in (ops.max_pool, ops.avg_pool):
        with pytest.raises(
            errors.ArgumentError, match=r"spans \(3, 3\).*only \(2, 5\)"
        ):
            pool(jnp.ones((1, 2, 5, 1)), 3, strides=1)


def test_not_a_number_wins_wherever_it_stands() -> None:
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    for i in range(2):
        for j in range(2):
            assert jnp.isnan(ops.max_pool(x.at[0, i, j, 0].set(jnp.nan), 2)).all()


def test_forward_mode_and_vmap_work() -> None:
    x = images((4, 4, 1))
    _, tangent = jax.jvp(lambda x: ops.max_pool(x, 2), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, np.ones((2, 2, 2, 1)))
    stacked = jax.vmap(lambda x: ops.max_pool(x, 2))(x[None])
    np.testing.assert_array_equal(stacked[0], ops.max_pool(x, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.max_pool(x, 0), "window is 0"),
        (lambda x: ops.max_pool(x, (2, 2, 2)), "2 of them"),
        (lambda x: ops.max_pool(x, 2, padding=2), "as large as the window"),
        (lambda x: ops.max_pool(x, 2, padding="same!"), "'SAME', 'VALID'"),
        (lambda x: ops.max_pool(x[0, 0], 2), "1 to 3 spatial dimensions"),
    ],
)
def test_bad_options_are_named(call, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        call(jnp.ones((1, 4, 4, 1)))
