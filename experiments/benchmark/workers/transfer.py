"""A new head on a frozen VGG-16, in each library; imports the one it is asked for."""

import time
from collections.abc import Callable
from importlib import util
from typing import Any, NamedTuple, cast

import numpy as np

from experiments.benchmark import inputs
from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import Contender
from flaxnets import data

# Of SGD, the same in every library.
MOMENTUM = 0.9


class Training(NamedTuple):
    """A training whose pictures and network, with its parameters, are in memory.

    Attributes:
        facts: where it runs.
        begin: does what is done once, before the first epoch.
        fit: trains for all epochs after `begin`, calling its argument at the end of
            each.
        check: trains for one epoch on flaxnets' batches; the loss of each.
    """

    facts: dict[str, Any]
    begin: Callable[[], None]
    fit: Callable[[Callable[[], None]], None]
    check: Callable[[], list[float]]


def work(contender: Contender, job: jobs.TransferJob) -> dict[str, Any]:
    """Does a job in the contender's library, and times it."""
    libraries = {"flaxnets": in_flaxnets, "keras": in_keras, "pytorch": in_pytorch}
    training = libraries[contender.module](job)
    if job.kind == "check":
        return {**training.facts, "losses": training.check()}
    ends: list[float] = []
    start = time.perf_counter()
    training.begin()
    training.fit(lambda: ends.append(time.perf_counter()))
    total = time.perf_counter() - start
    # Once more, now that it is compiled.
    again = time.perf_counter()
    training.begin()
    once = time.perf_counter() - again
    epochs = np.diff(ends)
    return {
        **training.facts,
        "total_seconds": total,
        "pass_seconds": once,
        "epoch_seconds": epochs.tolist(),
        # What the first time took longer than it takes afterwards.
        # Where nothing is compiled, noise can make the difference negative.
        "compile_seconds": max(0.0, ends[0] - start - once - float(np.median(epochs))),
    }


def in_flaxnets(job: jobs.TransferJob) -> Training:
    """`transfer.Plan` and `train.fit`, as a study uses them."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmark import jax_device
    from flaxnets import models, params, train, transfer
    from flaxnets.train import losses, optimizers

    facts = jax_device.select(cast(Any, job))
    dataset = data.load(job.data)
    shape = dataset.train.images.shape[1:]
    classes = len(dataset.class_names)
    model = models.WithHead(
        models.build("vgg16", num_classes=None), models.Head(classes)
    )
    given = params.unflatten(jobs.weights(job))
    expected = params.abstract(model, (1, *shape))["params"]
    if found := params.differences(expected, given):
        raise ValueError(f"the weights do not fit the network: {found}")
    variables = jax.device_put({"params": given})
    plan = transfer.Plan(model, shape, "feature_extraction", stored=job.stored)
    steps = data.steps_per_epoch(len(dataset.train.labels), job.batch_size)
    optimizer, schedule = optimizers.make(
        "sgd",
        learning_rate=job.learning_rate,
        momentum=MOMENTUM,
        total_steps=job.epochs * steps,
    )
    step = train.make_step(
        losses.classification(plan.apply), optimizer, frozen=plan.frozen
    )
    # The peers evaluate nothing, and this looks at nothing.
    evaluator = train.Evaluator(
        lambda variables, images: (jnp.zeros((len(images), classes)), {}), batch_size=1
    )
    held: dict[str, data.Split] = {}

    def begin() -> None:
        held["seen"] = plan.seen(variables, dataset.train, batch_size=job.batch_size)

    def created() -> train.State:
        # A copy, since training gives its buffers away.
        copied = jax.tree.map(jnp.copy, variables)
        key = jax.random.key(job.seed)
        return train.create(copied, optimizer, key=key, frozen=plan.frozen)

    def fitted(
        state: train.State, split: data.Split, epochs: int, ended: Callable[[], None]
    ) -> train.Fitted:
        test = data.Split(*(part[:1] for part in split))
        return train.fit(
            state,
            step,
            dataset._replace(train=split, test=test),
            epochs=epochs,
            batch_size=job.batch_size,
            seed=job.seed,
            evaluator=evaluator,
            learning_rate=schedule,
            on_record=lambda record: ended(),
        )

    def fit(ended: Callable[[], None]) -> None:
        fitted(created(), held["seen"], job.epochs, ended)

    def check() -> list[float]:
        begin()
        images, labels = held["seen"]
        order = data.epoch_order(len(labels), job.batch_size, job.seed, 0)
        state, found = created(), []
        # Epochs of one batch, each from where the one before it ended.
        for number, index in enumerate(order, start=1):
            batch = data.Split(images[index], labels[index])
            run = fitted(state, batch, number, _nothing)
            state, loss = run.state, run.records[-1]["train_loss"]
            found.append(loss)
        return found

    return Training(facts, begin, fit, check)


def in_keras(job: jobs.TransferJob) -> Training:
    """`trainable = False` and `model.fit`, on the backend that KERAS_BACKEND names."""
    from experiments.benchmark.workers import keras as worker

    keras = worker.keras
    facts = worker.select(cast(Any, job))
    keras.utils.set_random_seed(job.seed)
    found = jobs.arrays(job)
    images, labels = found.train_images.astype(np.float32) / 255, found.train_labels
    backbone = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=images.shape[1:]
    )
    backbone.trainable = False
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            backbone,
            layers.Flatten(),
            layers.Dense(inputs.HIDDEN, activation="relu", name="dense1"),
            layers.Dense(found.class_count, name="logits"),
        ]
    )
    weights = jobs.weights(job)
    for name in dict.fromkeys(path.rpartition("/")[0] for path in weights):
        part, _, layer = name.partition("/")
        owner = backbone if part == "backbone" else model
        owner.get_layer(layer.replace("/", "_")).set_weights(
            [weights[f"{name}/kernel"], weights[f"{name}/bias"]]
        )

    def fitted(images: np.ndarray, labels: np.ndarray, **options: Any) -> None:
        model.compile(
            keras.optimizers.SGD(job.learning_rate, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(images, labels, batch_size=job.batch_size, verbose=0, **options)

    def fit(ended: Callable[[], None]) -> None:
        at_end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: ended()
        )
        fitted(images, labels, epochs=job.epochs, callbacks=[at_end])

    def check() -> list[float]:
        order = data.epoch_order(len(labels), job.batch_size, job.seed, 0).ravel()
        noted = worker.Losses()
        fitted(images[order], labels[order], shuffle=False, callbacks=[noted])
        return noted.losses

    return Training(facts, _nothing, fit, check)


def in_pytorch(job: jobs.TransferJob) -> Training:
    """`requires_grad_(False)` and a plain loop, eager, channels last or compiled."""
    import torch
    from torch import nn

    from experiments.benchmark.torchvision_import import imported
    from experiments.benchmark.workers import pytorch as worker

    device = worker.device_of(cast(Any, job))
    if util.find_spec("torchvision") is None:
        raise jobs.NetworkMissing("torchvision, which has the network, is missing")
    torch.manual_seed(job.seed)
    layout = torch.contiguous_format if job.variant == "eager" else torch.channels_last
    found = jobs.arrays(job)
    pixels = torch.from_numpy(found.train_images).to(device).permute(0, 3, 1, 2)
    images = pixels.float().div_(255).contiguous(memory_format=layout)
    labels = torch.from_numpy(found.train_labels.astype(np.int64)).to(device)
    weights = jobs.weights(job)
    with torch.device("meta"):
        # Its dense layers are left away before they take memory.
        backbone = imported().models.vgg16(weights=None).features
    backbone.to_empty(device="cpu").requires_grad_(False).eval()
    grid = found.train_images.shape[1] // 32
    head = nn.Sequential(
        nn.Flatten(),
        nn.Linear(len(weights["head/dense1/kernel"]), inputs.HIDDEN),
        nn.ReLU(),
        nn.Linear(inputs.HIDDEN, found.class_count),
    )
    layers = [
        layer
        for layer in (*backbone, *head)
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    names = dict.fromkeys(path.rpartition("/")[0] for path in weights)
    with torch.no_grad():
        for name, layer in zip(names, layers, strict=True):
            kernel = weights[f"{name}/kernel"]
            if name == "head/dense1":
                # The map is flattened channels first here, channels last there.
                parts = kernel.reshape(grid, grid, -1, inputs.HIDDEN)
                kernel = parts.transpose(2, 0, 1, 3).reshape(kernel.shape)
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.copy_(torch.from_numpy(kernel.transpose(axes).copy()))
            cast(Any, layer.bias).copy_(torch.from_numpy(weights[f"{name}/bias"]))
    backbone.to(device, memory_format=layout)
    head.to(device)

    def objective(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(backbone(images)), labels)

    loss = torch.compile(objective) if job.variant == "compile" else objective
    optimizer = torch.optim.SGD(
        head.parameters(), lr=job.learning_rate, momentum=MOMENTUM, fused=True
    )

    def step(index: torch.Tensor) -> torch.Tensor:
        value = loss(images[index], labels[index])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value.detach()

    def fit(ended: Callable[[], None]) -> None:
        for _ in range(job.epochs):
            total = torch.zeros((), device=device)
            order = torch.randperm(len(labels), device=device)
            for index in order.split(job.batch_size):
                total += step(index)
            total.item()
            ended()

    def check() -> list[float]:
        order = data.epoch_order(len(labels), job.batch_size, job.seed, 0)
        return [
            step(torch.from_numpy(index).long().to(device)).item() for index in order
        ]

    return Training(worker.facts(device), _nothing, fit, check)


def _nothing() -> None:
    """Does nothing."""
