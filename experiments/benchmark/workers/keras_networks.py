"""Keras: the applications' networks, on the backend that KERAS_BACKEND names."""

from typing import Any

from experiments.benchmark import job as jobs
from experiments.benchmark.workers import keras as worker

keras = worker.keras

# Keras's ResNet is that of version 1.
_APPLICATIONS = {"vgg16": "VGG16", "vgg19": "VGG19", "resnet50_v1": "ResNet50"}


def forward(job: jobs.NetworkJob) -> dict[str, Any]:
    """The logits of a batch."""
    facts = worker.select(job)
    model = _created(job)
    images = keras.ops.convert_to_tensor(job.images())
    return {**facts, **jobs.timed(lambda: model.predict_on_batch(images), job)}


def train_step(job: jobs.NetworkJob) -> dict[str, Any]:
    """Steps of SGD with momentum on a batch."""
    facts = worker.select(job)
    model = _created(job)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = map(keras.ops.convert_to_tensor, (job.images(), job.labels()))
    return {**facts, **jobs.timed(lambda: model.train_on_batch(images, labels), job)}


def _created(job: jobs.NetworkJob) -> Any:
    if job.network not in _APPLICATIONS:
        raise jobs.NetworkMissing(f"Keras has no {job.network}")
    if job.dtype != "float32":
        keras.mixed_precision.set_global_policy(f"mixed_{job.dtype}")
    keras.utils.set_random_seed(job.seed)
    options: dict[str, Any] = {"weights": None, "classifier_activation": None}
    if job.side != 224:
        options["input_shape"] = (job.side, job.side, 3)
    return getattr(keras.applications, _APPLICATIONS[job.network])(**options)
