"""Each form of a convolution as matrix products, against XLA's own in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from flaxnets.ops import products

SAME = products.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
FORMS = {
    "window": products.window_conv,
    "two rows": functools.partial(products.window_conv, tile=2),
    "row": products.row_conv,
    "tap": products.tap_conv,
    "winograd": products.winograd_conv,
    "winograd2d": products.winograd2d_conv,
    "spread": products.spread_conv,
}


def direct(x, kernel) -> np.ndarray:
    """The SAME convolution in float64, by scipy."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    y = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for b, c, f in np.ndindex(len(x), x.shape[-1], kernel.shape[-1]):
        y[b, ..., f] += signal.correlate2d(x[b, ..., c], kernel[..., c, f], "same")
    return y


@pytest.mark.parametrize(
    ("form", "height", "width"),
    [
        (form, height, width)
        for form in FORMS
        for height, width in [(8, 5), (2, 3), (7, 6), (1, 4)]
        # Two rows at once need an even height.
        if form != "two rows" or height % 2 == 0
    ],
)
def test_values_and_gradients(form: str, height: int, width: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    upstream = jax.random.normal(jax.random.key(2), (2, height, width, 4))
    y, pull = jax.vjp(lambda *args: FORMS[form](*args, SAME), x, kernel)
    # Sums of 27 products of normal numbers in float32.
    np.testing.assert_allclose(y, direct(x, kernel), atol=2e-5)
    of_x, of_kernel = pull(upstream)
    # The gradient of the input is the convolution with the kernel turned around.
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    np.testing.assert_allclose(of_x, direct(upstream, turned), atol=2e-5)
    # The convolution is linear in its kernel: <dy, conv(x, k)> = <dk, k>.
    other = jax.random.normal(jax.random.key(3), kernel.shape)
    expected = np.sum(np.asarray(upstream, np.float64) * direct(x, other))
    np.testing.assert_allclose(
        np.sum(of_kernel * other), expected, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("form", FORMS)
def test_zeros_stay_zeros(form: str) -> None:
    """Beside a bright patch, no rounding noise: a unit that sees black stays at 0."""
    x = jnp.zeros((1, 8, 8, 2)).at[:, 3:5, 3:5].set(1.7)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    y = FORMS[form](x, kernel, SAME)
    lit = np.zeros((8, 8), bool)
    lit[2:6, 2:6] = True
    assert np.all(np.asarray(y)[:, ~lit] == 0)
    assert np.all(np.asarray(y)[:, lit] != 0)


@pytest.mark.parametrize(
    ("case", "form"),
    [
        # The lecture's network at batch 128 and at batch 16.
        (((128, 28, 28, 1), 16), "window"),
        (((128, 14, 14, 16), 32), "winograd"),
        (((128, 7, 7, 32), 64), "winograd"),
        (((16, 14, 14, 16), 32), "row"),
        (((16, 7, 7, 64), 64), "winograd2d"),
        # Autoencoders' wide maps, and their last convolutions.
        (((128, 14, 14, 32), 64), "winograd2d"),
        (((128, 28, 28, 32), 1), "spread"),
        (((128, 14, 14, 2), 64), "window"),
    ],
)
def test_the_form_follows_the_shapes(case, form: str, monkeypatch) -> None:
    shape, features = case
    taken = []
    for name in ("window", "row", "winograd", "winograd2d", "spread"):
        original = getattr(products, f"{name}_conv")

        def noted(*args, name=name, original=original, **options):
            taken.append(name)
            return original(*args, **options)

        monkeypatch.setattr(products, f"{name}_conv", noted)
    x = jnp.ones(shape)
    kernel = jnp.ones((3, 3, shape[-1], features))
    y = products.conv(x, kernel, SAME)
    assert taken == [form]
    # All ones: the middle counts its window.
    assert float(y[0, 5, 5, 0]) == 9 * shape[-1]


def test_few_channels_go_side_by_side_before_a_window_strides() -> None:
    """The stem of a ResNet: no patches of seven by seven pixels are made."""
    geometry = products.Geometry((2, 2), ((3, 3), (3, 3)), (1, 1))
    text = str(
        jax.make_jaxpr(functools.partial(products.conv, geometry=geometry))(
            jnp.ones((2, 16, 16, 3)), jnp.ones((7, 7, 3, 8))
        )
    )
    # Four taps of rows of four pixels, each of four pixels' three channels.
    assert text.count("dot_general") == 4
    assert "f32[4,4,12,8]" in text


def test_bfloat16_is_not_transformed() -> None:
    """Winograd's sums would lose two of its eight bits."""
    x = jax.random.normal(jax.random.key(0), (128, 8, 8, 16), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 32), jnp.bfloat16)
    taken = products.conv(x, kernel, SAME)
    row = products.row_conv(x, kernel, SAME)
    np.testing.assert_array_equal(taken, row)


@pytest.mark.parametrize(
    "padding", [((0, 0), (0, 0)), ((1, 2), (0, 1)), ((2, 0), (1, 1))]
)
def test_winograds_form_takes_any_padding(padding) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    geometry = products.Geometry((1, 1), padding, (1, 1))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = products.winograd2d_conv(x, kernel, geometry)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "features", "size", "stride"),
    [
        ((6, 9, 8, 64), 64, 3, 1),
        ((6, 9, 8, 8), 8, 5, 2),
        ((6, 9, 8, 3), 8, 5, 2),
        ((5, 9, 8, 64), 64, 3, 1),
    ],
)
def test_large_maps_are_done_in_parts(
    shape, features, size, stride, monkeypatch
) -> None:
    """The same values and gradients, with room for two images at a time."""
    pixels = shape[1] * shape[2] * shape[3]
    monkeypatch.setattr(products, "TILE_FLOATS", 2 * pixels)
    monkeypatch.setattr(products, "_PATCH_FLOATS", 2 * size**2 * pixels // stride**2)
    # The pixels of an image whose windows stride, side by side: 7 by 6.
    monkeypatch.setattr(products, "_OUTPUT_FLOATS", 2 * 7 * 6 * features)
    pad = size // 2
    geometry = products.Geometry((stride,) * 2, ((pad, pad),) * 2, (1, 1))
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (size, size, shape[-1], features))

    def native(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            geometry.strides,
            geometry.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def parts(x, kernel):
        return products.conv(x, kernel, geometry)

    loops = [
        equation.params["length"]
        for equation in jax.make_jaxpr(parts)(x, kernel).eqns
        if equation.primitive.name == "scan"
    ]
    # Of five images two pairs, and the last one by itself.
    assert loops == [shape[0] // 2]
    for found, expected in zip(
        _with_gradients(parts, x, kernel),
        _with_gradients(native, x, kernel),
        strict=True,
    ):
        scale = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def _with_gradients(form, x, kernel) -> list[jax.Array]:
    y, pull = jax.vjp(form, x, kernel)
    upstream = jax.random.normal(jax.random.key(2), y.shape)
    return [y, *pull(upstream)]
