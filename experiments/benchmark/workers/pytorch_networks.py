"""PyTorch: torchvision's networks, eager, channels last or compiled."""

from importlib import util
from typing import Any, cast

import numpy as np
import torch

from experiments.benchmark import job as jobs
from experiments.benchmark.torchvision_import import imported
from experiments.benchmark.workers import pytorch

# torchvision's ResNet is that of version 1.5.
_OTHERS = ("_v1", "_caffe")


def forward(job: jobs.NetworkJob) -> dict[str, Any]:
    """The logits of a batch that is on the device."""
    network, images, _ = _created(job)
    network.eval()
    run = torch.compile(network) if job.variant == "compile" else network

    def call() -> None:
        with torch.inference_mode():
            run(images)
            _wait(images)

    return {**pytorch.facts(images.device), **jobs.timed(call, job)}


def train_step(job: jobs.NetworkJob) -> dict[str, Any]:
    """Steps of SGD with momentum on a batch that is on the device."""
    network, images, labels = _created(job)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def objective(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(images), labels)

    loss = torch.compile(objective) if job.variant == "compile" else objective

    def call() -> None:
        value = loss(images, labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        _wait(images)

    return {**pytorch.facts(images.device), **jobs.timed(call, job)}


def _created(job: jobs.NetworkJob) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The network, its images and labels, on the job's device."""
    device = pytorch.device_of(job)
    if util.find_spec("torchvision") is None:
        raise jobs.NetworkMissing("torchvision, which has the networks, is missing")
    if job.network.endswith(_OTHERS):
        raise jobs.NetworkMissing(f"torchvision has no {job.network}")
    torch.manual_seed(job.seed)
    network = getattr(imported().models, job.network)(weights=None)
    dtype = getattr(torch, job.dtype)
    layout = torch.contiguous_format if job.variant == "eager" else torch.channels_last
    images = torch.from_numpy(np.moveaxis(job.images(), -1, 1).copy())
    return (
        cast(Any, network).to(device, dtype, memory_format=layout),
        images.to(device, dtype).contiguous(memory_format=layout),
        torch.from_numpy(job.labels()).to(device),
    )


def _wait(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize()
