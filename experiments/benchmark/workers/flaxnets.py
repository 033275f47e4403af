"""flaxnets: `train.fit`, as the study `experiments.mnist` uses it."""

import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark import jax_device
from experiments.benchmark import job as jobs
from flaxnets import data, models, params, train
from flaxnets.train import losses, optimizers


class Reached(Exception):
    """Ends `fit` at the target."""


class Training:
    """What `fit` takes, for a job."""

    def __init__(
        self, job: jobs.Job, optimizer: optax.GradientTransformation | None = None
    ) -> None:
        self.job = job
        self.facts = jax_device.select(job)
        self.dataset = data.load(job.data)
        model = models.CNN(num_classes=len(self.dataset.class_names))
        shape = self.dataset.train.images[:1].shape
        keys = jax.random.split(jax.random.key(job.seed))
        variables = params.initialize(model, keys[0], shape)
        # Drawn as a user would draw them, then replaced by those that all share.
        given = params.unflatten(jobs.weights(job))
        found = params.differences(variables["params"], given)
        if found:
            raise ValueError(f"initial weights do not fit the network: {found}")
        variables = {"params": jax.device_put(given)}
        count = len(self.dataset.train.labels)
        adam, self.schedule = optimizers.make(
            "adam",
            learning_rate=1e-3,
            total_steps=data.steps_per_epoch(count, job.batch_size) * job.max_epochs,
        )
        optimizer = adam if optimizer is None else optimizer
        self.step = train.make_step(losses.classification(model.apply), optimizer)
        self.state = train.create(variables, optimizer, key=keys[1])
        size = min(jobs.EVALUATION_BATCH, len(self.dataset.test.labels))
        self.evaluator = train.Evaluator(model.apply, batch_size=size)

    def fit(self, epochs: int, on_record: Any) -> train.Fitted:
        return train.fit(
            self.state,
            self.step,
            self.dataset,
            epochs=epochs,
            batch_size=self.job.batch_size,
            seed=self.job.seed,
            evaluator=self.evaluator,
            learning_rate=self.schedule,
            on_record=on_record,
        )


def steps(job: jobs.Job) -> dict[str, Any]:
    """Times whole epochs; the first one is not counted.

    The test data of such a job are a handful, so an epoch is its steps.
    """
    training = Training(job)
    ends = []
    fitted = training.fit(
        1 + job.windows, lambda record: ends.append(time.perf_counter())
    )
    return {
        **training.facts,
        "first_step_at": fitted.first_step_at,
        "compile_seconds": fitted.compile_seconds,
        "window_steps": len(training.dataset.train.labels) // job.batch_size,
        "window_seconds": np.diff(ends).tolist(),
    }


def race(job: jobs.Job) -> dict[str, Any]:
    """Trains until the test accuracy at an epoch's end reaches the target."""
    training = Training(job)
    accuracies = []

    def look(record: dict[str, Any]) -> None:
        accuracies.append([time.time(), record["test_accuracy"]])
        if jobs.reached(record["test_accuracy"], job):
            raise Reached

    try:
        training.fit(job.max_epochs, look)
    except Reached:
        pass
    return {**training.facts, "accuracies": accuracies}


def check(job: jobs.Job) -> dict[str, Any]:
    """The losses of one epoch, step by step, and what `fit` says of the same epoch.

    Once with Adam as optax, PyTorch and the paper have it (`paper`), once with Keras's
    place of epsilon (`keras`), which alone moves the losses by some percent.
    """
    training = {"paper": Training(job), "keras": Training(job, keras_adam(1e-3))}
    return {
        **training["paper"].facts,
        **{name: _checked(way) for name, way in training.items()},
    }


def keras_adam(
    rate: float, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam with epsilon beside the root of the uncorrected second moment."""

    def init(weights: Any) -> Any:
        first, second = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
        return jnp.zeros((), jnp.int32), first, second

    def update(gradients: Any, state: Any, weights: Any = None) -> Any:
        count, first, second = state
        count = count + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, second, gradients)
        scale = rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(
            lambda m, v: -scale * m / (jnp.sqrt(v) + epsilon), first, second
        )
        return updates, (count, first, second)

    return optax.GradientTransformation(cast(Any, init), cast(Any, update))


def _checked(training: Training) -> dict[str, Any]:
    job = training.job
    images, labels = training.dataset.train
    order = data.epoch_order(len(labels), job.batch_size, job.seed, 0)
    step = jax.jit(training.step)
    state, found = training.state, []
    for index in order:
        state, metrics = step(state, {"image": images[index], "label": labels[index]})
        found.append(float(metrics["loss"]))
    (record,) = training.fit(1, lambda record: None).records
    return {
        "losses": found,
        "mean_loss": record["train_loss"],
        "test_loss": record["test_loss"],
        "test_accuracy": record["test_accuracy"],
    }
