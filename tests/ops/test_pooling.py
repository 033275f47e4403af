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
