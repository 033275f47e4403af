"""Attacks in each library; imports the one it is asked for."""

from collections.abc import Callable
from importlib import metadata, util
from typing import Any, NamedTuple, cast

import numpy as np

from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import Contender


class Work(NamedTuple):
    """What is timed.

    Attributes:
        facts: where it runs, and by what.
        call: attacks the pictures, all of which are classified rightly before: their
            labels are the network's own. Returns what `pictures` and `fooled` take.
        pictures: what `call` returned as f32[B, H, W, C].
        fooled: bool[B], of what `call` returned.
    """

    facts: dict[str, Any]
    call: Callable[[], Any]
    pictures: Callable[[Any], np.ndarray]
    fooled: Callable[[Any], np.ndarray]


def work(contender: Contender, job: jobs.AttackJob) -> dict[str, Any]:
    """Does a job in the contender's library, and times it."""
    found = made(contender, job)
    held: list[Any] = [None]

    def call() -> None:
        held[0] = found.call()

    timed = jobs.timed(call, job)
    success = float(found.fooled(held[0]).mean())
    return {**found.facts, **timed, "success_rate": success}


def made(contender: Contender, job: jobs.AttackJob) -> Work:
    """A job's work, ready to be done."""
    if contender.module == "keras":
        raise jobs.NetworkMissing("Keras has no attacks")
    libraries = {"flaxnets": in_flaxnets, "pytorch": in_pytorch}
    return libraries[contender.module](job)


def in_flaxnets(job: jobs.AttackJob) -> Work:
    """`attack.pgd`, compiled."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmark import jax_device
    from flaxnets import attack, models, params

    facts = jax_device.select(cast(Any, job))
    apply: Any = models.CNN().apply
    variables = jax.device_put({"params": params.unflatten(job.weights())})
    images = jnp.asarray(job.images())
    ascent = attack.pgd(
        job.epsilon,
        steps=job.attack_steps,
        step_size=job.step_size,
        random_start=job.random_start,
        stop_when_fooled=job.until_fooled,
    )

    @jax.jit
    def classes(variables: Any, images: jax.Array) -> jax.Array:
        return apply(variables, images)[0].argmax(axis=-1)

    @jax.jit
    def attacked(
        variables: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        return ascent(lambda images: apply(variables, images)[0], images, labels, key)

    labels, key = classes(variables, images), jax.random.key(job.seed)
    return Work(
        facts,
        lambda: jax.block_until_ready(attacked(variables, images, labels, key)),
        np.asarray,
        lambda found: np.asarray(classes(variables, found) != labels),
    )


def in_pytorch(job: jobs.AttackJob) -> Work:
    """torchattacks' PGD on a network that is eager, channels last or compiled."""
    import torch

    from experiments.benchmark.workers import pytorch

    if util.find_spec("torchattacks") is None:
        raise jobs.NetworkMissing("torchattacks, which has the attack, is missing")
    import torchattacks

    device = pytorch.device_of(cast(Any, job))
    layout = torch.contiguous_format if job.variant == "eager" else torch.channels_last
    network = pytorch.network(jobs.AttackJob.SHAPE, jobs.AttackJob.CLASSES)
    pytorch.load(network, job.weights(), jobs.AttackJob.SHAPE)
    network = cast(Any, network).to(device, memory_format=layout).eval()
    # Or a compiled network's backward pass computes the gradients of its kernels too.
    network.requires_grad_(False)
    if job.variant == "compile":
        network = torch.compile(network)
    images = torch.from_numpy(np.moveaxis(job.images(), -1, 1).copy())
    images = images.to(device).contiguous(memory_format=layout)
    torch.manual_seed(job.seed)
    ascent = torchattacks.PGD(
        network,
        eps=job.epsilon,
        alpha=job.step_size,
        steps=job.attack_steps,
        random_start=job.random_start,
    )

    def classes(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return cast(Any, network)(images).argmax(dim=1)

    labels = classes(images)

    def call() -> torch.Tensor:
        found = ascent(images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    version = metadata.version("torchattacks")
    return Work(
        {**pytorch.facts(device), "attack": f"torchattacks {version}"},
        call,
        lambda found: np.moveaxis(found.cpu().numpy(), 1, -1),
        lambda found: (classes(found) != labels).cpu().numpy(),
    )
