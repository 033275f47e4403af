"""What a worker is asked to do, and how it answers.

Imports numpy alone, since its import time is part of every worker's start.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

Kind = Literal["steps", "race", "check", "floor"]

# Images per call when the whole test set is evaluated, in every library.
EVALUATION_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement in one process.

    Attributes:
        kind: `steps` (time of steps), `race` (time to the target accuracy), `check`
            (losses of the first steps), or `floor` (what the machine allows).
        variant: see `Contender`.
        batch_size: examples per step.
        device: `cpu`, `gpu` or `tpu`.
        tf32: whether matrix products may round their inputs to TF32.
        seed: of the order of the examples.
        data: an `.npz` in Keras's layout, uint8 [N, H, W, C], a whole number of batches
            to train on.
        weights: an `.npz` of the initial parameters by flaxnets' names.
        windows: epochs that `steps` times, after one that it does not.
        target: the test accuracy at which `race` ends.
        max_epochs: where `race` gives up.
    """

    kind: Kind
    variant: str
    batch_size: int
    device: str
    tf32: bool
    seed: int
    data: str
    weights: str
    windows: int
    target: float
    max_epochs: int


@dataclasses.dataclass(frozen=True)
class NetworkJob:
    """One measurement of a network of the registry, with drawn parameters.

    Attributes:
        kind: `forward` (logits of a batch) or `train_step` (SGD with momentum).
        variant: see `Contender`.
        network: the architecture, as `flaxnets.list_models()` names it.
        batch_size: images per call.
        side: height and width of the images.
        dtype: `float32` or `bfloat16`, of the computation.
        device: `cpu`, `gpu` or `tpu`.
        tf32: whether matrix products may round their inputs to TF32.
        seed: of the parameters and images.
        calls: calls in a window.
        windows: how many are timed, after one that is not.
    """

    kind: Literal["forward", "train_step"]
    variant: str
    network: str
    batch_size: int
    side: int
    dtype: str
    device: str
    tf32: bool
    seed: int
    calls: int
    windows: int

    def images(self) -> np.ndarray:
        """The batch, f32[B, side, side, 3]."""
        shape = (self.batch_size, self.side, self.side, 3)
        return np.random.default_rng(self.seed).normal(size=shape).astype(np.float32)

    def labels(self) -> np.ndarray:
        """Its classes, int64[B]."""
        return np.random.default_rng(self.seed).integers(0, 1000, self.batch_size)


@dataclasses.dataclass(frozen=True)
class TransferJob:
    """One training of a new head on VGG-16, whose own layers are frozen.

    Attributes:
        kind: `train` (time of all epochs) or `check` (losses of the first one).
        variant: see `Contender`.
        batch_size: pictures per step.
        device: `cpu`, `gpu` or `tpu`.
        tf32: whether matrix products may round their inputs to TF32.
        seed: of the order of the pictures.
        data: an `.npz` in Keras's layout, uint8 [N, H, W, 3], a whole number of batches
            to train on.
        weights: an `.npz` of the parameters by flaxnets' names, `backbone/...` and
            `head/...`.
        epochs: passes over the pictures.
        learning_rate: of SGD with a momentum of 0.9.
        stored: whether the backbone sees each picture once, and the head is trained on
            what it made of them; flaxnets alone is asked to.
    """

    kind: Literal["train", "check"]
    variant: str
    batch_size: int
    device: str
    tf32: bool
    seed: int
    data: str
    weights: str
    epochs: int
    learning_rate: float
    stored: bool


@dataclasses.dataclass(frozen=True)
class PicturesJob:
    """Epochs of pictures read from a folder.

    Attributes:
        kind: `read`.
        batch_size: pictures in a batch.
        device: `cpu`.
        seed: of their order.
        folder: with a folder of pictures a class.
        workers: of PyTorch's DataLoader.
    """

    kind: Literal["read"]
    batch_size: int
    device: str
    seed: int
    folder: str
    workers: int


@dataclasses.dataclass(frozen=True)
class UnpoolingJob:
    """One measurement of an autoencoder, or of an un-pooling operator alone.

    Attributes:
        kind: `train_step` (Adam on the mean squared error), or `operator` (what
            un-pooling gives, and its gradient).
        variant: see `Contender`.
        unpooling: as `flaxnets.models.autoencoder.UNPOOLINGS` names it.
        batch_size: images per call.
        side: height and width of the images, or of the maps that are un-pooled.
        channels: of them.
        widths: of the autoencoder, as `flaxnets.models.Autoencoder` has its levels.
        device: `cpu`, `gpu` or `tpu`.
        tf32: whether matrix products may round their inputs to TF32.
        seed: of the parameters and images.
        calls: calls in a window.
        windows: how many are timed, after one that is not.
    """

    kind: Literal["train_step", "operator"]
    variant: str
    unpooling: str
    batch_size: int
    side: int
    channels: int
    widths: tuple[int, ...]
    device: str
    tf32: bool
    seed: int
    calls: int
    windows: int

    def images(self) -> np.ndarray:
        """f32[B, side, side, channels] in [0, 1]."""
        shape = (self.batch_size, self.side, self.side, self.channels)
        return np.random.default_rng(self.seed).random(shape, np.float32)

    def cotangent(self) -> np.ndarray:
        """What comes back to an operator, f32[B, 2 side, 2 side, channels]."""
        shape = (self.batch_size, 2 * self.side, 2 * self.side, self.channels)
        if self.unpooling == "subpixel":
            shape = (*shape[:3], self.channels // 4)
        return np.random.default_rng(self.seed + 1).random(shape, np.float32)

    def kernels(self) -> dict[str, np.ndarray]:
        """The autoencoder's kernels by flaxnets' names, [3, 3, C, F].

        Drawn as He et al. 2015 do; an operator's single one is `kernel`.
        """
        generator = np.random.default_rng(self.seed)
        channels = (self.channels, *self.widths)
        sizes = {}
        if self.kind == "operator":
            sizes["kernel"] = (self.channels, self.channels)
        for level in range(1, len(channels)):
            sizes[f"encoder/level{level}_conv1"] = channels[level - 1 : level + 1]
        blocks = 4 if self.unpooling == "subpixel" else 1
        for level in range(len(self.widths), 0, -1):
            wanted = blocks * channels[level - 1]
            sizes[f"decoder/level{level}_conv1"] = (channels[level], wanted)
        return {
            name: generator.normal(0, np.sqrt(2 / 9 / size[0]), (3, 3, *size)).astype(
                np.float32
            )
            for name, size in sizes.items()
        }


@dataclasses.dataclass(frozen=True)
class AttackJob:
    """One measurement of an attack on the lecture's network, with drawn parameters.

    Attributes:
        kind: `pgd`, for L-infinity.
        variant: see `Contender`.
        epsilon: bound of the perturbation, of pictures in [0, 1].
        attack_steps: gradient steps.
        step_size: of each.
        random_start: whether it starts at a random point of the ball.
        until_fooled: whether a picture that is fooled is left alone from then on, by a
            library that can do that.
        file: an `.npz` file of pictures and parameters, as `saved` leaves it; if empty,
            both are drawn.
        batch_size: pictures that are attacked at once.
        device: `cpu`, `gpu` or `tpu`.
        tf32: whether matrix products may round their inputs to TF32.
        seed: of the parameters, the pictures and the starts.
        calls: calls in a window.
        windows: how many are timed, after one that is not.
    """

    kind: Literal["pgd"]
    variant: str
    epsilon: float
    attack_steps: int
    step_size: float
    random_start: bool
    until_fooled: bool
    file: str
    batch_size: int
    device: str
    tf32: bool
    seed: int
    calls: int
    windows: int

    # Of a picture, and the number of classes.
    SHAPE: ClassVar[tuple[int, int, int]] = (28, 28, 1)
    CLASSES: ClassVar[int] = 10

    def images(self) -> np.ndarray:
        """f32[B, 28, 28, 1] in [0, 1], dark ones to light ones.

        With no biases what fools a picture half as light is half as large, so that at
        any epsilon that is not too large some are fooled and some are not.
        """
        if self.file:
            with np.load(self.file) as held:
                return held[_IMAGES][: self.batch_size]
        generator = np.random.default_rng(self.seed)
        pixels = generator.random((self.batch_size, *self.SHAPE), np.float32)
        return pixels * generator.random((self.batch_size, 1, 1, 1), np.float32)

    def weights(self) -> dict[str, np.ndarray]:
        """The network's parameters by flaxnets' names: HWIO, [in, out], no biases.

        Drawn as He et al. 2015 do.
        """
        if self.file:
            with np.load(self.file) as held:
                return {name: held[name] for name in held.files if name != _IMAGES}
        height, width, channels = self.SHAPE
        kernels = {
            "conv1": (3, 3, channels, 16),
            "conv2": (3, 3, 16, 32),
            "conv3": (3, 3, 32, 64),
            "dense1": (height // 4 * (width // 4) * 64, 512),
            "dense2": (512, 512),
            "logits": (512, self.CLASSES),
        }
        generator = np.random.default_rng(self.seed + 1)
        found = {}
        for name, shape in kernels.items():
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            kernel = generator.normal(0, deviation, shape).astype(np.float32)
            found[f"{name}/kernel"] = kernel
            found[f"{name}/bias"] = np.zeros(shape[-1], np.float32)
        return found

    @staticmethod
    def saved(path: Path, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        """Keeps pictures and parameters for the workers; returns the path as text."""
        np.savez(path, allow_pickle=False, **{_IMAGES: images}, **weights)
        return str(path)


# What a file of pictures and parameters calls the pictures.
_IMAGES = "images"

AnyJob = Job | NetworkJob | TransferJob | PicturesJob | UnpoolingJob | AttackJob

# The field that no other job has.
_TOLD_BY: dict[str, type[AnyJob]] = {
    "network": NetworkJob,
    "stored": TransferJob,
    "workers": PicturesJob,
    "unpooling": UnpoolingJob,
    "epsilon": AttackJob,
    "target": Job,
}


class NetworkMissing(Exception):
    """The library has no such network."""


def timed(
    call: Callable[[], Any],
    job: NetworkJob | UnpoolingJob | AttackJob,
    steps: int = 1,
) -> dict[str, Any]:
    """Times windows of calls, each of which waits for its result.

    Args:
        call: does the work.
        job: how often it is to be done in a window.
        steps: how often a call does it, a divisor of that.
    """
    start = time.perf_counter()
    call()
    first, first_at = time.perf_counter() - start, time.time()
    ends = []
    for _ in range(1 + job.windows):
        for _ in range(job.calls // steps):
            call()
        ends.append(time.perf_counter())
    seconds = np.diff(ends)
    return {
        "first_step_at": first_at,
        "compile_seconds": first - float(np.median(seconds)) * steps / job.calls,
        "window_steps": job.calls,
        "window_seconds": seconds.tolist(),
    }


class Arrays(NamedTuple):
    """A job's data: images uint8[N, H, W, C], labels int[N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def class_count(self) -> int:
        return int(self.train_labels.max()) + 1


class DeviceMissing(Exception):
    """The library sees no device of the kind that the job asks for."""


def arrays(job: Job | TransferJob) -> Arrays:
    """Reads the job's data."""
    with np.load(job.data) as found:
        return Arrays(
            found["x_train"], found["y_train"], found["x_test"], found["y_test"]
        )


def weights(job: Job | TransferJob) -> dict[str, np.ndarray]:
    """Reads the job's initial parameters: convolutions HWIO, dense [in, out]."""
    with np.load(job.weights) as found:
        return dict(found)


def reached(accuracy: float, job: Job) -> bool:
    """Whether a test accuracy, perhaps a float32, is the target's or better."""
    return round(float(accuracy), 6) >= job.target


def answer(**fields: Any) -> None:
    """Prints the worker's one line."""
    print(json.dumps(fields), flush=True)


def asked() -> tuple[str, AnyJob]:
    """The contender's name and the job, from the worker's command line."""
    name, text = sys.argv[1:]
    fields = json.loads(text)
    (kind,) = (kind for field, kind in _TOLD_BY.items() if field in fields)
    return name, kind(**fields)
