import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, ops

NUMBERS = {1: ("NWC", "WIO"), 2: ("NHWC", "HWIO"), 3: ("NDHWC", "DHWIO")}

CASES = [
    # spatial sizes, window, channels, kernels, strides, padding, dilation, groups
    ((9,), (3,), 2, 4, 1, "SAME", 1, 1),
    ((9,), (4,), 2, 4, 2, "VALID", 2, 1),
    ((8,), (3,), 2, 4, 1, "SAME", 1, 1),
    ((8, 7), (3, 3), 1, 5, 1, "SAME", 1, 1),
    ((8, 7), (3, 2), 4, 6, 2, "SAME", 1, 1),
    ((8, 9), (3, 3), 4, 6, (2, 1), "VALID", (1, 2), 1),
    ((8, 8), (3, 3), 4, 6, 2, 1, 1, 2),
    ((8, 8), (3, 3), 4, 4, 1, "SAME", 1, 4),
    ((9, 9), (5, 5), 2, 3, 3, ((2, 0), (1, 3)), 1, 1),
    ((4, 5, 6), (3, 2, 3), 2, 3, 1, "SAME", 1, 1),
    ((5, 5, 5), (2, 2, 2), 2, 4, 2, 1, 1, 2),
]


def operands(case):
    sizes, window, channels, kernels, *_, groups = case
    x = jax.random.normal(jax.random.key(0), (2, *sizes, channels))
    shape = (*window, channels // groups, kernels)
    return x, jax.random.normal(jax.random.key(1), shape)


def reference(case, x, kernel):
    """XLA's own convolution, given every option as it is."""
    sizes, window, _, _, strides, padding, dilation, groups = case
    rank = len(sizes)
    strides, dilation = (
        (value,) * rank if isinstance(value, int) else value
        for value in (strides, dilation)
    )
    if isinstance(padding, int):
        padding = ((padding, padding),) * rank
    layout, weights = NUMBERS[rank]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=(layout, weights, layout),
        feature_group_count=groups,
    )


def ours(case, x, kernel):
    *_, strides, padding, dilation, groups = case
    return ops.conv(
        x, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_equal_xla(case) -> None:
    x, kernel = operands(case)
    y, pull = jax.vjp(lambda *args: ours(case, *args), x, kernel)
    expected, pull_expected = jax.vjp(lambda *args: reference(case, *args), x, kernel)
    # Sums of up to 50 products in float32, in another order.
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    upstream = jax.random.normal(jax.random.key(2), y.shape)
    for one, other in zip(pull(upstream), pull_expected(upstream), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_ones_kernel_counts_the_window() -> None:
    y = ops.conv(jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 2, 1)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[8, 12, 8], [12, 18, 12], [8, 12, 8]])


def test_equals_loops() -> None:
    case = CASES[5]
    x, kernel = (np.asarray(array) for array in operands(case))
    y = np.asarray(ours(case, x, kernel))
    expected = np.zeros_like(y)
    for b, i, j in itertools.product(*map(range, y.shape[:3])):
        for di, dj in itertools.product(range(3), range(3)):
            expected[b, i, j] += x[b, 2 * i + di, j + 2 * dj] @ kernel[di, dj]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_products_on_cpu_and_the_native_convolution_elsewhere() -> None:
    x, kernel = operands(CASES[3])
    lowered = {
        platform: jax.jit(ops.conv)
        .trace(x, kernel)
        .lower(lowering_platforms=(platform,))
        for platform in ("cpu", "tpu")
    }
    assert "stablehlo.convolution" not in lowered["cpu"].as_text()
    assert "stablehlo.convolution" in lowered["tpu"].as_text()


def test_works_under_vmap_forward_mode_scan_and_bfloat16() -> None:
    x, kernel = operands(CASES[3])
    y = ops.conv(x, kernel)
    stacked = jax.vmap(ops.conv, in_axes=(0, None))(x[None], kernel)[0]
    np.testing.assert_allclose(stacked, y, rtol=1e-5, atol=1e-5)
    _, tangent = jax.jvp(lambda x: ops.conv(x, kernel), (x,), (x,))
    np.testing.assert_allclose(tangent, y, rtol=1e-5, atol=1e-5)
    _, scanned = jax.lax.scan(lambda c, x: (c, ops.conv(x, kernel)), 0, x[None])
    np.testing.assert_allclose(scanned[0], y, rtol=1e-5, atol=1e-5)
    half = ops.conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # bfloat16 has 8 bits of mantissa; sums of 9 products of normal numbers.
    np.testing.assert_allclose(half.astype(jnp.float32), y, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 0}, "strides is 0"),
        ({"strides": (1, 2, 3)}, "2 of them"),
        ({"padding": "FULL"}, "'SAME', 'VALID'"),
        ({"padding": (1,)}, "2 entries"),
        ({"padding": -1}, "cannot be negative"),
        ({"groups": 2}, "groups=2"),
    ],
)
def test_bad_options_are_named(options, message: str) -> None:
    x, kernel = operands(CASES[3])
    with pytest.raises(errors.ArgumentError, match=message):
        ops.conv(x, kernel, **options)


def test_an_empty_batch_stays_empty() -> None:
    for channels, strides in ((1, 1), (3, 2), (64, 1), (64, 2)):
        kernel = jnp.ones((3, 3, channels, 64))
        y = ops.conv(jnp.ones((0, 8, 8, channels)), kernel, strides=strides)
        assert y.shape == (0, 8 // strides, 8 // strides, 64)


def test_a_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match=r"spans \(3, 3\).*only \(2, 5\)"):
        ops.conv(jnp.ones((1, 2, 5, 1)), jnp.ones((3, 3, 1, 1)), padding="VALID")


def test_bad_ranks_are_named() -> None:
    with pytest.raises(errors.ArgumentError, match=r"\(4, 4\)"):
        ops.conv(jnp.ones((4, 4)), jnp.ones((3, 3)))
