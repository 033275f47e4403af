"""Keras: `model.fit` on arrays in memory, on the backend that KERAS_BACKEND names."""

import importlib
import time
from typing import Any

import numpy as np

from experiments.benchmark import job as jobs
from flaxnets import data

# Imported by name, since this file has the same one.
keras: Any = importlib.import_module("keras")

# Batches per call of Keras, which saves what each call costs: on a CPU some 5% of a
# step of 16, nothing of one of 128. 50 saved no more.
STEPS_PER_EXECUTION = 10


class EpochEnds(keras.callbacks.Callback):
    """Notes when each epoch ended. No hook on batches, which would slow each one."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.moments.append(time.perf_counter())


class Target(keras.callbacks.Callback):
    """Notes the test accuracy after each epoch, and stops at the target."""

    def __init__(self, job: jobs.Job) -> None:
        super().__init__()
        self._job = job
        self.accuracies: list[list[float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        accuracy = float(logs["val_accuracy"])
        self.accuracies.append([time.time(), accuracy])
        if jobs.reached(accuracy, self._job):
            self.model.stop_training = True


class Losses(keras.callbacks.Callback):
    """The loss of each batch, out of the running mean that Keras reports."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0.0
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        total = float(logs["loss"]) * (batch + 1)
        self.losses.append(total - self._sum)
        self._sum = total


def network(shape: tuple[int, ...], class_count: int) -> Any:
    """The lecture's network for images of `shape` (height, width, channels)."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dense(512, activation="relu", name="dense1"),
            layers.Dense(512, activation="relu", name="dense2"),
            layers.Dense(class_count, name="logits"),
        ]
    )


def prepare(
    job: jobs.Job,
    metrics: tuple[str, ...] = (),
    steps_per_execution: int = STEPS_PER_EXECUTION,
) -> Any:
    """The compiled network with its initial weights, the data, and where it runs."""
    facts = select(job)
    keras.utils.set_random_seed(job.seed)
    found = jobs.arrays(job)
    found = found._replace(
        train_images=found.train_images.astype(np.float32) / 255,
        test_images=found.test_images.astype(np.float32) / 255,
    )
    model = network(found.train_images.shape[1:], found.class_count)
    weights = jobs.weights(job)
    for name in dict.fromkeys(path.split("/")[0] for path in weights):
        model.get_layer(name).set_weights(
            [weights[f"{name}/kernel"], weights[f"{name}/bias"]]
        )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
        steps_per_execution=steps_per_execution,
    )
    return model, found, {**facts, "jit_compile": bool(model.jit_compile)}


def steps(job: jobs.Job) -> dict[str, Any]:
    """Times whole epochs; the first one is not counted."""
    model, found, facts = prepare(job)
    options: dict[str, Any] = {"batch_size": job.batch_size, "verbose": 0}
    images, labels = found.train_images, found.train_labels
    start = time.perf_counter()
    model.fit(images[: job.batch_size], labels[: job.batch_size], **options)
    first_seconds = time.perf_counter() - start
    first_step_at = time.time()
    ends = EpochEnds()
    model.fit(images, labels, epochs=1 + job.windows, callbacks=[ends], **options)
    count = len(labels) // job.batch_size
    windows = np.diff(ends.moments)
    return {
        **facts,
        "first_step_at": first_step_at,
        "compile_seconds": first_seconds - float(np.median(windows)) / count,
        "window_steps": count,
        "window_seconds": windows.tolist(),
    }


def race(job: jobs.Job) -> dict[str, Any]:
    """Trains until the test accuracy at an epoch's end reaches the target."""
    model, found, facts = prepare(job, metrics=("accuracy",))
    target = Target(job)
    model.fit(
        found.train_images,
        found.train_labels,
        batch_size=job.batch_size,
        epochs=job.max_epochs,
        validation_data=(found.test_images, found.test_labels),
        validation_batch_size=jobs.EVALUATION_BATCH,
        callbacks=[target],
        verbose=0,
    )
    return {**facts, "accuracies": target.accuracies}


def check(job: jobs.Job) -> dict[str, Any]:
    """The losses of one epoch in flaxnets' order, and the evaluation after it."""
    # One at a time, since the loss of each is asked for.
    model, found, facts = prepare(job, metrics=("accuracy",), steps_per_execution=1)
    order = data.epoch_order(len(found.train_labels), job.batch_size, job.seed, 0)
    losses = Losses()
    model.fit(
        found.train_images[order.ravel()],
        found.train_labels[order.ravel()],
        batch_size=job.batch_size,
        shuffle=False,
        callbacks=[losses],
        verbose=0,
    )
    tested = model.evaluate(
        found.test_images,
        found.test_labels,
        batch_size=jobs.EVALUATION_BATCH,
        verbose=0,
        return_dict=True,
    )
    return {
        **facts,
        "keras": {
            "losses": losses.losses,
            "mean_loss": float(np.mean(losses.losses)),
            "test_loss": float(tested["loss"]),
            "test_accuracy": float(tested["accuracy"]),
        },
    }


def select(job: jobs.Job | jobs.NetworkJob) -> dict[str, Any]:
    """Sets the backend's device and precision; says where it runs."""
    if keras.backend.backend() == "jax":
        from experiments.benchmark import jax_device

        return jax_device.select(job)
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(job.tf32)
    devices = tf.config.list_physical_devices("GPU")
    if job.device == "cpu":
        return {"backend": "cpu", "device": "cpu"}
    if job.device != "gpu" or not devices:
        raise jobs.DeviceMissing(f"this build of TensorFlow sees no {job.device}")
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    details = tf.config.experimental.get_device_details(devices[0])
    return {"backend": "gpu", "device": details.get("device_name", "gpu")}
