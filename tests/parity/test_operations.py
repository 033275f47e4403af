"""Operations and losses against PyTorch's, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import ops
from flaxnets.train import losses
from tests.parity.exchange import channels_first, channels_last

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize(
    ("rank", "strides", "padding", "dilation", "groups"),
    [
        (1, 1, 1, 1, 1),
        (1, 2, 2, 2, 2),
        (2, 1, 1, 1, 1),
        (2, 2, 3, 1, 1),
        (2, 2, 2, 2, 2),
        (2, 1, 0, 1, 4),
        (3, 1, 1, 1, 1),
        (3, 2, 1, 2, 2),
    ],
)
def test_convolution(rank, strides, padding, dilation, groups) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *(9, 8, 7)[:rank], 4))
    kernel = jax.random.normal(jax.random.key(1), (*(3,) * rank, 4 // groups, 8))
    y, pull = jax.vjp(
        lambda x, kernel: ops.conv(
            x,
            kernel,
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
        ),
        x,
        kernel,
    )
    image = channels_first(x)
    weights = torch.tensor(
        np.moveaxis(np.asarray(kernel), (-1, -2), (0, 1)).copy(), requires_grad=True
    )
    operation = getattr(torch.nn.functional, f"conv{rank}d")
    expected = operation(image, weights, None, strides, padding, dilation, groups)
    # Sums of up to 108 products in float32, in another order.
    np.testing.assert_allclose(y, channels_last(expected), rtol=1e-4, atol=1e-4)
    upstream = jax.random.normal(jax.random.key(2), y.shape)
    expected.backward(torch.tensor(np.moveaxis(np.asarray(upstream), -1, 1).copy()))
    image_gradient, kernel_gradient = pull(upstream)
    assert image.grad is not None and weights.grad is not None
    np.testing.assert_allclose(
        image_gradient, channels_last(image.grad), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(kernel_gradient), (-1, -2), (0, 1)),
        weights.grad.numpy(),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("window", "strides", "padding"), [(2, 2, 0), (3, 3, 0), (3, 2, 1), (2, 1, 0)]
)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_with_ties(kind: str, window: int, strides: int, padding: int) -> None:
    x = jax.random.randint(jax.random.key(0), (2, 9, 8, 3), 0, 4).astype(jnp.float32)
    options = {"strides": strides, "padding": padding}
    if kind == "avg":
        options["count_include_pad"] = True
    pool = getattr(ops, f"{kind}_pool")
    y, pull = jax.vjp(lambda x: pool(x, window, **options), x)
    image = channels_first(x)
    operation = getattr(torch.nn.functional, f"{kind}_pool2d")
    expected = operation(image, window, strides, padding)
    np.testing.assert_allclose(y, channels_last(expected), rtol=1e-6)
    upstream = jax.random.normal(jax.random.key(1), y.shape)
    expected.backward(torch.tensor(np.moveaxis(np.asarray(upstream), -1, 1).copy()))
    assert image.grad is not None
    np.testing.assert_allclose(
        pull(upstream)[0], channels_last(image.grad), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", range(4, 11))
@pytest.mark.parametrize(
    ("window", "strides", "padding"), [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 3, 1)]
)
def test_ceil_mode(size: int, window: int, strides: int, padding: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, size, 7, 3))
    y = ops.max_pool(x, window, strides=strides, padding=padding, ceil_mode=True)
    expected = torch.nn.functional.max_pool2d(
        channels_first(x), window, strides, padding, ceil_mode=True
    )
    np.testing.assert_array_equal(y, channels_last(expected))


@pytest.mark.parametrize(("size", "outputs"), [(7, 7), (13, 6), (5, 7), (9, 1)])
def test_adaptive_average(size: int, outputs: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, size, size + 2, 3))
    expected = torch.nn.functional.adaptive_avg_pool2d(channels_first(x), outputs)
    np.testing.assert_allclose(
        ops.adaptive_avg_pool(x, outputs), channels_last(expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    logits = 5 * jax.random.normal(jax.random.key(0), (6, 4))
    labels = np.array([0, 1, 2, 3, 0, 1])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(logits)),
        torch.tensor(labels),
        reduction="none",
        label_smoothing=smoothing,
    ).numpy()
    for targets in (jnp.asarray(labels), jax.nn.one_hot(labels, 4)):
        ours = losses.cross_entropy(logits, targets, label_smoothing=smoothing)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (losses.binary_cross_entropy, "binary_cross_entropy_with_logits"),
        (losses.mean_squared_error, "mse_loss"),
        (losses.mean_absolute_error, "l1_loss"),
        (losses.huber, "huber_loss"),
    ],
)
def test_losses_of_arrays(ours, theirs: str) -> None:
    outputs = 2 * jax.random.normal(jax.random.key(0), (5, 3, 2))
    targets = jax.random.uniform(jax.random.key(1), outputs.shape)
    tensors = (torch.tensor(np.asarray(array)) for array in (outputs, targets))
    expected = getattr(torch.nn.functional, theirs)(*tensors, reduction="none")
    np.testing.assert_allclose(
        ours(outputs, targets), expected.numpy().mean(axis=(1, 2)), rtol=1e-5
    )
