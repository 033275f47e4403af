"""flaxnets: networks of the registry, as a research script would run them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import flaxnets
from experiments.benchmark import jax_device
from experiments.benchmark import job as jobs
from experiments.benchmark.workers import floor
from flaxnets import ops, params, train
from flaxnets.train import losses


def forward(job: jobs.NetworkJob) -> dict[str, Any]:
    """The logits of a batch that is on the device."""
    facts = jax_device.select(job)
    model, variables = _created(job)
    images = jnp.asarray(job.images(), job.dtype)

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images)[0]

    apply: Any = jax.jit(ops.in_parts(logits))

    return {
        **facts,
        **jobs.timed(lambda: jax.block_until_ready(apply(variables, images)), job),
        "flops": job.batch_size * params.summary(model, (1, *images.shape[1:])).flops,
        "product_flops_per_second": _product_rate(job),
    }


def train_step(job: jobs.NetworkJob) -> dict[str, Any]:
    """Steps of SGD with momentum on a batch that is on the device."""
    facts = jax_device.select(job)
    model, variables = _created(job)
    optimizer = optax.sgd(1e-3, momentum=0.9)
    state = train.create(variables, optimizer, key=jax.random.key(job.seed))
    step = train.make_step(losses.classification(model.apply), optimizer)
    compiled = jax.jit(step, donate_argnums=0)
    batch = {
        "image": jnp.asarray(job.images(), job.dtype),
        "label": jnp.asarray(job.labels(), jnp.int32),
    }
    held = [state]

    def call() -> None:
        held[0], _ = compiled(held[0], batch)
        jax.block_until_ready(held[0])

    return {**facts, **jobs.timed(call, job)}


def _created(job: jobs.NetworkJob) -> tuple[Any, Any]:
    dtype = None if job.dtype == "float32" else jnp.dtype(job.dtype)
    return flaxnets.create(job.network, key=jax.random.key(job.seed), dtype=dtype)


def _product_rate(job: jobs.NetworkJob) -> float:
    """Operations per second of one large matrix product in the job's type."""
    size = 2048 if job.device == "cpu" else 8192
    matrix = jnp.ones((size, size), job.dtype)
    product = jax.jit(jnp.matmul)

    def run(count: int) -> None:
        for _ in range(count):
            result = product(matrix, matrix)
        jax.block_until_ready(result)

    return 2 * size**3 / floor.best_seconds(run)
