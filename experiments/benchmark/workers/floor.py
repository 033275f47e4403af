"""What the machine allows: the network's matrix products and Adam's memory traffic.

A step cannot be much faster than its matrix products, each at the best rate measured
here at its own shape, and the bytes that Adam has to move. Everything else (patches,
activations, pooling, the loss) is left out, so no library reaches the sum.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import jax_device
from experiments.benchmark import job as jobs

# Long enough to be timed well; the best of some tries is what the machine can do.
_TRY_SECONDS = 0.03
_TRIES = 7

# Adam reads the parameter, its gradient and two moments, and writes all but the
# gradient back: seven float32 streams.
_ADAM_READS, _ADAM_WRITES = 4, 3


class Product(NamedTuple):
    """One matrix product of a training step, [m, k] times [k, n]."""

    layer: str
    role: str
    m: int
    k: int
    n: int
    dimensions: tuple[tuple[int, ...], tuple[int, ...]]
    left: tuple[int, int]
    right: tuple[int, int]


def floor(job: jobs.Job) -> dict[str, Any]:
    """Measures the floor of a step of `job.batch_size` examples."""
    facts = jax_device.select(job)
    shapes = {name: array.shape for name, array in jobs.weights(job).items()}
    image = jobs.arrays(job).train_images.shape[1:]
    products = [
        {
            **product._asdict(),
            "seconds": product_seconds(product, on_host=job.device == "cpu"),
        }
        for product in matrix_products(shapes, image, job.batch_size)
    ]
    parameters = sum(math.prod(shape) for shape in shapes.values())
    adam = traffic_seconds(parameters)
    seconds = sum(product["seconds"] for product in products)
    flops = sum(2 * p["m"] * p["k"] * p["n"] for p in products)
    return {
        **facts,
        "products": products,
        "product_seconds": seconds,
        "product_flops": flops,
        "adam_bytes": 4 * parameters * (_ADAM_READS + _ADAM_WRITES),
        "adam_seconds": adam,
        "floor_seconds": seconds + adam,
    }


def matrix_products(
    shapes: dict[str, tuple[int, ...]], image: tuple[int, ...], batch: int
) -> list[Product]:
    """The products of one step: forward, kernel gradient, input gradient.

    A convolution counts as patches times its kernel as a matrix; the first layer needs
    no gradient of its input.
    """
    height, width = image[:2]
    found = []
    for index, (name, shape) in enumerate(_kernels(shapes)):
        # The map has the image's size, then a half, then a quarter of it.
        positions = (height >> index) * (width >> index) if len(shape) == 4 else 1
        m, k, n = batch * positions, math.prod(shape[:-1]), shape[-1]
        forward = ((1,), (0,)), (m, k), (k, n)
        of_kernel = ((0,), (0,)), (m, k), (m, n)
        of_input = ((1,), (1,)), (m, n), (k, n)
        found.append(Product(name, "forward", m, k, n, *forward))
        found.append(Product(name, "kernel gradient", k, m, n, *of_kernel))
        if index:
            found.append(Product(name, "input gradient", m, n, k, *of_input))
    return found


def product_seconds(product: Product, *, on_host: bool) -> float:
    """The best time of one product, by jax and (`on_host`) by numpy's BLAS."""
    generator = np.random.default_rng(0)
    left, right = (
        generator.standard_normal(shape, np.float32)
        for shape in (product.left, product.right)
    )
    dimensions = (product.dimensions, ((), ()))

    @jax.jit
    def repeated(operands: tuple[jax.Array, jax.Array], count: jax.Array) -> Any:
        def body(_: jax.Array, operands: tuple[jax.Array, jax.Array]) -> Any:
            product = jax.lax.dot_general(*operands, dimensions)
            # A product of what never changes would be moved out of the loop.
            changed = 1e-30 * product[:1, :1]
            return tuple(
                jax.lax.dynamic_update_slice(operand, changed, (0, 0))
                for operand in operands
            )

        return jax.lax.fori_loop(0, count, body, operands)

    operands = jax.device_put((left, right))
    seconds = [best_seconds(lambda n: jax.block_until_ready(repeated(operands, n)))]
    if on_host:
        x = left.T if product.dimensions[0] == (0,) else left
        y = right.T if product.dimensions[1] == (1,) else right
        out = np.empty((product.m, product.n), np.float32)

        def on_numpy(count: int) -> None:
            for _ in range(count):
                np.matmul(x, y, out=out)

        seconds.append(best_seconds(on_numpy))
    return min(seconds)


def traffic_seconds(count: int) -> float:
    """The best time of reading four and writing three float32 arrays of `count`."""

    def update(arrays: Any, gradient: jax.Array) -> Any:
        return jax.tree.map(lambda array: array + gradient, arrays)

    @functools.partial(jax.jit, donate_argnums=0)
    def repeated(arrays: Any, gradient: jax.Array, count: jax.Array) -> Any:
        return jax.lax.fori_loop(
            0,
            count,
            # The barrier keeps the additions of several rounds from becoming one.
            lambda _, last: update(jax.lax.optimization_barrier(last), gradient),
            arrays,
        )

    once = jax.jit(update, donate_argnums=0)
    gradient = jnp.ones(count)
    held = [tuple(jnp.zeros(count) for _ in range(_ADAM_WRITES))]

    def in_one_call(rounds: int) -> None:
        held[0] = jax.block_until_ready(repeated(held[0], gradient, rounds))

    def in_many_calls(rounds: int) -> None:
        for _ in range(rounds):
            held[0] = once(held[0], gradient)
        jax.block_until_ready(held[0])

    return min(best_seconds(in_one_call), best_seconds(in_many_calls))


def best_seconds(run: Callable[[Any], Any]) -> float:
    """The least time of one round of `run(rounds)`, over several tries."""
    run(1)
    rounds, elapsed = 1, 0.0
    while elapsed < _TRY_SECONDS:
        rounds *= 2
        elapsed = _seconds(run, rounds)
    return min(_seconds(run, rounds) / rounds for _ in range(_TRIES))


def _seconds(run: Callable[[Any], Any], rounds: int) -> float:
    start = time.perf_counter()
    run(rounds)
    return time.perf_counter() - start


def _kernels(shapes: dict[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (name.removesuffix("/kernel"), shape)
        for name, shape in shapes.items()
        if name.endswith("/kernel")
    ]
