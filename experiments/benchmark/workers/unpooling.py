"""Autoencoders and un-pooling in each library; imports the one it is asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import Contender

# Adam's.
RATE = 1e-3


class Work(NamedTuple):
    """What is timed.

    Attributes:
        facts: where it runs.
        call: does steps, and returns the loss before the last one; or what an operator
            gives, and its gradients with respect to the map and, where there is one,
            the kernel.
        steps: that a call does, one after the other.
    """

    facts: dict[str, Any]
    call: Callable[[], Any]
    steps: int = 1


def work(contender: Contender, job: jobs.UnpoolingJob) -> dict[str, Any]:
    """Does a job in the contender's library, and times it."""
    found = made(contender, job)
    return {**found.facts, **jobs.timed(found.call, job, found.steps)}


def made(contender: Contender, job: jobs.UnpoolingJob) -> Work:
    """A job's work, ready to be done."""
    libraries = {"flaxnets": in_flaxnets, "keras": in_keras, "pytorch": in_pytorch}
    return libraries[contender.module](job)


def in_flaxnets(job: jobs.UnpoolingJob) -> Work:
    """`train.make_step`, or an operator of `flaxnets.ops`."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmark import jax_device
    from flaxnets import models, ops, params, train
    from flaxnets.train import optimizers, reconstruction

    facts = jax_device.select(cast(Any, job))
    images = jnp.asarray(job.images())
    if job.kind == "train_step":
        model = models.Autoencoder(job.widths, job.channels, cast(Any, job.unpooling))
        drawn = params.initialize(model, jax.random.key(0), images.shape)["params"]
        given = {f"{name}/kernel": kernel for name, kernel in job.kernels().items()}
        leaves = {**params.flatten(drawn), **jax.device_put(given)}
        optimizer, _ = optimizers.make("adam", learning_rate=RATE, total_steps=1)
        state = train.create(
            {"params": params.unflatten(leaves)}, optimizer, key=jax.random.key(0)
        )
        loss = reconstruction.reconstruction(model.apply)
        step = train.make_step(loss, optimizer)
        batch = {"image": images, "label": jnp.zeros(job.batch_size, jnp.int32)}

        def several(state: train.State) -> Any:
            """As `train.fit` does them: one compiled loop, with no work between."""
            return jax.lax.scan(
                lambda state, _: step(state, batch), state, length=job.calls
            )

        run = jax.jit(several, donate_argnums=0)
        held = [state]

        def train_steps() -> Any:
            held[0], metrics = run(held[0])
            jax.block_until_ready(held[0])
            return metrics["loss"][-1]

        return Work(facts, train_steps, job.calls)
    given, size = jnp.asarray(job.cotangent()), 2 * job.side
    _, switches = jax.jit(lambda x: ops.max_pool_with_switches(x, 2))(given)
    ways: dict[str, Any] = {
        "nearest": lambda x: ops.nearest(x, 2),
        "bed_of_nails": lambda x: ops.bed_of_nails(x, 2),
        "max_unpool": lambda x: ops.max_unpool(x, switches, (size, size), 2),
        "transposed": lambda x, kernel: ops.conv_transpose(x, kernel, strides=2),
        "subpixel": lambda x: ops.depth_to_space(x, 2),
    }
    differentiated = [images]
    if job.unpooling == "transposed":
        differentiated.append(jnp.asarray(job.kernels()["kernel"]))

    @jax.jit
    def both(back: jax.Array, *values: jax.Array) -> Any:
        found, pulled = jax.vjp(ways[job.unpooling], *values)
        return found, *pulled(back)

    return Work(facts, lambda: jax.block_until_ready(both(given, *differentiated)))


def in_pytorch(job: jobs.UnpoolingJob) -> Work:
    """A plain loop, eager or compiled; in channels last where that is asked for."""
    import torch
    from torch import nn

    from experiments.benchmark.workers import pytorch

    device = pytorch.device_of(cast(Any, job))
    layout = torch.contiguous_format if job.variant == "eager" else torch.channels_last

    def put(array: np.ndarray) -> torch.Tensor:
        found = torch.from_numpy(np.moveaxis(array, -1, 1).copy())
        return found.to(device).contiguous(memory_format=layout)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    class Network(nn.Module):
        """The description of `flaxnets.models.Autoencoder`, in modules."""

        def __init__(self) -> None:
            super().__init__()
            channels = (job.channels, *job.widths)
            down, up = [], []
            for before, after in zip(channels[:-1], channels[1:], strict=True):
                down.append(nn.Conv2d(before, after, 3, padding=1))
                if job.unpooling == "transposed":
                    up.insert(0, nn.ConvTranspose2d(after, before, 3, 2, 1, 1))
                else:
                    up.insert(0, nn.Conv2d(after, before, 3, padding=1))
            self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
            self.pool = nn.MaxPool2d(2, return_indices=job.unpooling == "max_unpool")
            self.unpool = nn.MaxUnpool2d(2)
            self.nearest = nn.Upsample(scale_factor=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            switches = []
            for layer in self.down:
                x = self.pool(torch.relu(layer(x)))
                if job.unpooling == "max_unpool":
                    x, places = x
                    switches.append(places)
            for layer in self.up:
                if job.unpooling == "max_unpool":
                    x = self.unpool(x, switches.pop())
                elif job.unpooling == "nearest":
                    x = self.nearest(x)
                x = layer(x)
                if layer is not self.up[-1]:
                    x = torch.relu(x)
            return x

    def compiled(function: Any) -> Any:
        return torch.compile(function) if job.variant == "compile" else function

    images = put(job.images())
    if job.kind == "train_step":
        network = Network()
        layers = [*network.down, *network.up]
        for layer, kernel in zip(layers, job.kernels().values(), strict=True):
            # PyTorch's transposed convolution has the input's channels first.
            order = (
                (2, 3, 0, 1) if isinstance(layer, nn.ConvTranspose2d) else (3, 2, 0, 1)
            )
            with torch.no_grad():
                cast(Any, layer).weight.copy_(
                    torch.from_numpy(kernel.transpose(order).copy())
                )
                cast(Any, layer).bias.zero_()
        network = cast(Any, network).to(device, memory_format=layout)
        optimizer = torch.optim.Adam(network.parameters(), RATE, fused=True)

        def objective(x: torch.Tensor) -> torch.Tensor:
            return nn.functional.mse_loss(network(x), x)

        loss = compiled(objective)

        def train_step() -> Any:
            value = loss(images)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            wait()
            return value.detach()

        return Work(pytorch.facts(device), train_step)
    back = put(job.cotangent())
    _, switches = nn.functional.max_pool2d(back, 2, return_indices=True)
    unpool = nn.MaxUnpool2d(2)

    def bed_of_nails(x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros_like(back)
        found[:, :, ::2, ::2] = x
        return found

    ways: dict[str, Any] = {
        "nearest": nn.Upsample(scale_factor=2),
        "bed_of_nails": bed_of_nails,
        "max_unpool": lambda x: unpool(x, switches),
        "transposed": lambda x, kernel: nn.functional.conv_transpose2d(
            x, kernel, stride=2, padding=1, output_padding=1
        ),
        "subpixel": nn.PixelShuffle(2),
    }
    differentiated = [images.requires_grad_()]
    if job.unpooling == "transposed":
        kernel = torch.from_numpy(job.kernels()["kernel"].transpose(2, 3, 0, 1).copy())
        differentiated.append(kernel.to(device).requires_grad_())
    run = compiled(ways[job.unpooling])

    def call() -> Any:
        found = run(*differentiated)
        gradients = torch.autograd.grad(found, differentiated, back)
        wait()
        return found.detach(), *gradients

    return Work(pytorch.facts(device), call)


def in_keras(job: jobs.UnpoolingJob) -> Work:
    """`train_on_batch`, on the backend that KERAS_BACKEND names."""
    from experiments.benchmark.workers import keras as worker

    keras = worker.keras
    if job.kind == "operator":
        raise jobs.NetworkMissing("Keras has no operators to be timed alone")
    if job.unpooling not in ("nearest", "transposed"):
        raise jobs.NetworkMissing(f"Keras has no {job.unpooling}")
    facts = worker.select(cast(Any, job))
    layers = keras.layers
    found: Any = [keras.Input((job.side, job.side, job.channels))]
    for width in job.widths:
        found.append(layers.Conv2D(width, 3, padding="same", activation="relu"))
        found.append(layers.MaxPooling2D(2))
    for index in range(len(job.widths), 0, -1):
        width = (job.channels, *job.widths)[index - 1]
        activation = "relu" if index > 1 else None
        if job.unpooling == "transposed":
            layer = layers.Conv2DTranspose(
                width, 3, 2, padding="same", activation=activation
            )
        else:
            found.append(layers.UpSampling2D(2))
            layer = layers.Conv2D(width, 3, padding="same", activation=activation)
        found.append(layer)
    network = keras.Sequential(found)
    with_kernels = [layer for layer in network.layers if layer.weights]
    for layer, kernel in zip(with_kernels, job.kernels().values(), strict=True):
        if isinstance(layer, layers.Conv2DTranspose):
            kernel = kernel.swapaxes(2, 3)
        bias = np.zeros(layer.bias.shape, np.float32)
        layer.set_weights([kernel, bias])
    network.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), "mean_squared_error")
    images = keras.ops.convert_to_tensor(job.images())
    return Work(facts, lambda: network.train_on_batch(images, images))
