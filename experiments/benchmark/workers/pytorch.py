"""PyTorch: a plain loop over tensors in memory, eager or compiled.

Fused Adam, the images converted once and kept on the device, batches taken by a
permutation, nothing read back between steps.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from experiments.benchmark import job as jobs
from flaxnets import data


class Training:
    """Network, optimizer and data of a job on its device."""

    def __init__(self, job: jobs.Job) -> None:
        self.job = job
        self.device = device_of(job)
        self.layout = (
            torch.channels_last
            if job.variant == "channels-last"
            else torch.contiguous_format
        )
        found = jobs.arrays(job)
        self.images, self.labels = self._put(found.train_images, found.train_labels)
        self.test = self._put(found.test_images, found.test_labels)
        model = network(found.train_images.shape[1:], found.class_count)
        load(model, jobs.weights(job), found.train_images.shape[1:])
        self.model = cast(Any, model).to(self.device, memory_format=self.layout)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=True
        )
        self.loss: Callable[..., torch.Tensor] = self._loss
        if job.variant == "compile":
            self.loss = torch.compile(self._loss)
        torch.manual_seed(job.seed)

    def _put(self, images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        pixels = torch.from_numpy(images.copy()).to(self.device)
        return (
            pixels.permute(0, 3, 1, 2)
            .float()
            .div_(255)
            .contiguous(memory_format=self.layout),
            torch.from_numpy(labels.astype(np.int64)).to(self.device),
        )

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(images), labels)

    def step(self, index: torch.Tensor) -> torch.Tensor:
        """One step on the examples that `index` names; returns the loss before it."""
        loss = self.loss(self.images[index], self.labels[index])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self) -> Iterator[torch.Tensor]:
        """The indices of each batch of a new permutation."""
        order = torch.randperm(len(self.labels), device=self.device)
        yield from order.split(self.job.batch_size)

    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test data."""
        size = jobs.EVALUATION_BATCH
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device)
        with torch.inference_mode():
            for images, labels in zip(
                *(tensor.split(size) for tensor in self.test), strict=True
            ):
                logits = self.model(images)
                loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
                right += (logits.argmax(1) == labels).sum()
        count = len(self.test[1])
        return loss.item() / count, right.item() / count

    def wait(self) -> None:
        """Returns when the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def facts(device: torch.device) -> dict[str, Any]:
    """Where and how a worker runs."""
    gpu = device.type == "cuda"
    return {
        "backend": "gpu" if gpu else "cpu",
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


def network(shape: tuple[int, ...], class_count: int) -> nn.Module:
    """The lecture's network for images of `shape` (height, width, channels)."""
    height, width, channels = shape
    features = (height // 4) * (width // 4) * 64
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, class_count),
    )


def load(
    model: nn.Module, weights: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    """Gives the network flaxnets' parameters, channels first."""
    layers = [
        layer for layer in model.children() if any(True for _ in layer.parameters())
    ]
    names = dict.fromkeys(name.split("/")[0] for name in weights)
    for name, layer in zip(names, layers, strict=True):
        kernel = weights[f"{name}/kernel"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            if name == "dense1":
                # The map is flattened channels first here, channels last there.
                grid = kernel.reshape(shape[0] // 4, shape[1] // 4, -1, kernel.shape[1])
                kernel = grid.transpose(2, 0, 1, 3).reshape(kernel.shape)
            kernel = kernel.T
        with torch.no_grad():
            cast(Any, layer).weight.copy_(torch.from_numpy(kernel.copy()))
            cast(Any, layer).bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))


def steps(job: jobs.Job) -> dict[str, Any]:
    """Times whole epochs; the first one is not counted."""
    training = Training(job)
    count = len(training.labels) // job.batch_size
    ends, first_step_at, first_seconds = [], None, 0.0
    for _ in range(1 + job.windows):
        total = torch.zeros((), device=training.device)
        for index in training.epoch():
            if first_step_at is None:
                start = time.perf_counter()
                total += training.step(index)
                training.wait()
                first_seconds = time.perf_counter() - start
                first_step_at = time.time()
            else:
                total += training.step(index)
        total.item()
        training.wait()
        ends.append(time.perf_counter())
    windows = np.diff(ends)
    steady = float(np.median(windows)) / count
    compiled = job.variant == "compile"
    return {
        **facts(training.device),
        "first_step_at": first_step_at,
        "compile_seconds": first_seconds - steady if compiled else None,
        "window_steps": count,
        "window_seconds": windows.tolist(),
    }


def race(job: jobs.Job) -> dict[str, Any]:
    """Trains until the test accuracy at an epoch's end reaches the target."""
    training = Training(job)
    accuracies = []
    for _ in range(job.max_epochs):
        for index in training.epoch():
            training.step(index)
        accuracy = training.evaluate()[1]
        accuracies.append([time.time(), accuracy])
        if jobs.reached(accuracy, job):
            break
    return {**facts(training.device), "accuracies": accuracies}


def check(job: jobs.Job) -> dict[str, Any]:
    """The losses of one epoch in flaxnets' order, and the evaluation after it."""
    training = Training(job)
    order = data.epoch_order(len(training.labels), job.batch_size, job.seed, 0)
    losses = [
        training.step(torch.from_numpy(index).long().to(training.device)).item()
        for index in order
    ]
    test_loss, test_accuracy = training.evaluate()
    return {
        **facts(training.device),
        "paper": {
            "losses": losses,
            "mean_loss": float(np.mean(losses)),
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
        },
    }


def device_of(job: jobs.Job | jobs.NetworkJob) -> torch.device:
    """The job's device, with its precision set.

    Raises:
        DeviceMissing: PyTorch sees none.
    """
    if job.device == "cpu":
        return torch.device("cpu")
    if job.device != "gpu" or not torch.cuda.is_available():
        raise jobs.DeviceMissing(f"this build of PyTorch sees no {job.device}")
    torch.set_float32_matmul_precision("high" if job.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = job.tf32
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")
