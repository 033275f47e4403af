"""The files that every worker reads: data of each job, and the initial parameters."""

from pathlib import Path

import numpy as np

from flaxnets import data, errors

# The lecture's network: kernels of the convolutions, units of the dense layers.
CONVOLUTIONS = (16, 32, 64)
DENSE = (512, 512)
# Test examples of a job that times steps: some, since a data set must have them.
FEW = 16
CHECK_STEPS = 20
CHECK_BATCH = 128
CHECK_TEST = 500

# VGG-16 (Simonyan and Zisserman 2014, table 1, D): kernels and convolutions of each
# block; and the lecture's head: units of the hidden layer, classes.
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
HIDDEN, CLASSES = 50, 2


def initial_weights(
    shape: tuple[int, ...], class_count: int, seed: int
) -> dict[str, np.ndarray]:
    """Glorot-uniform kernels (2010, equation 16) and zero biases, by flaxnets' names.

    Args:
        shape: height, width and channels of the images.
        class_count: number of logits.
        seed: of the kernels.
    """
    generator = np.random.default_rng(seed)
    height, width, channels = shape
    kernels = {}
    for index, units in enumerate(CONVOLUTIONS, start=1):
        kernels[f"conv{index}"] = (3, 3, channels, units)
        channels = units
    features = (height // 4) * (width // 4) * channels
    for index, units in enumerate(DENSE, start=1):
        kernels[f"dense{index}"] = (features, units)
        features = units
    kernels["logits"] = (features, class_count)
    weights = {}
    for name, size in kernels.items():
        weights[f"{name}/kernel"] = _glorot(generator, size)
        weights[f"{name}/bias"] = np.zeros(size[-1], np.float32)
    return weights


def transfer_weights(side: int, seed: int) -> dict[str, np.ndarray]:
    """VGG-16's convolutions and a new head, by the names in `models.WithHead`.

    The backbone's kernels are normal with a variance of 2 over a unit's inputs (He et
    al. 2015, equation 10), so that activations keep their size through the thirteen
    ReLUs; the head's are Glorot's; biases are zero.

    Args:
        side: height and width of the pictures.
        seed: of the kernels.
    """
    generator = np.random.default_rng(seed)
    weights, channels = {}, 3
    for block, (units, depth) in enumerate(VGG16, start=1):
        for index in range(1, depth + 1):
            shape = (3, 3, channels, units)
            deviation = np.float32(np.sqrt(2 / (9 * channels)))
            name = f"backbone/block{block}/conv{index}"
            kernel = generator.standard_normal(shape, np.float32) * deviation
            weights[f"{name}/kernel"] = kernel
            weights[f"{name}/bias"] = np.zeros(units, np.float32)
            channels = units
    units = transfer_features(side)
    for name, wanted in (("head/dense1", HIDDEN), ("head/logits", CLASSES)):
        weights[f"{name}/kernel"] = _glorot(generator, (units, wanted))
        weights[f"{name}/bias"] = np.zeros(wanted, np.float32)
        units = wanted
    return weights


def transfer_features(side: int) -> int:
    """Numbers that VGG-16 makes of a picture, after its five poolings."""
    return (side // 2 ** len(VGG16)) ** 2 * VGG16[-1][0]


def _glorot(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel [*window, in, out], uniform (Glorot and Bengio 2010, equation 16)."""
    window = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
    return generator.uniform(-limit, limit, shape).astype(np.float32)


class Inputs:
    """Writes the workers' files into a folder.

    Args:
        folder: where.
        dataset: what to train on.
        batch_sizes: those whose steps are timed.
        steps: how many steps an epoch of a timing job has.
        race_batch: batch size of the race.
        seeds: of the initial parameters.

    Raises:
        ArgumentError: the images do not suit the network, or a batch is larger than
            the data.
    """

    def __init__(
        self,
        folder: Path,
        dataset: data.Dataset,
        *,
        batch_sizes: tuple[int, ...],
        steps: int,
        race_batch: int,
        seeds: range,
    ) -> None:
        self._folder = folder
        shape = dataset.train.images.shape[1:]
        if min(shape[:2]) < 4:
            raise errors.ArgumentError(
                f"--dataset {dataset.name}: images of {shape[0]}x{shape[1]} pixels are "
                "too small for two poolings; 4 a side are needed"
            )
        for seed in seeds:
            weights = initial_weights(shape, len(dataset.class_names), seed)
            np.savez(self.weights(seed), **weights)  # pyright: ignore[reportArgumentType]
        few = data.Split(*(part[:FEW] for part in dataset.test))
        for batch in batch_sizes:
            train = _first(dataset.train, steps * batch)
            _save(self.steps(batch), train, few)
        count = len(dataset.train.labels)
        whole = data.steps_per_epoch(count, race_batch) * race_batch
        _save(self.race, _first(dataset.train, whole), dataset.test)
        _save(
            self.check,
            _first(dataset.train, CHECK_STEPS * CHECK_BATCH),
            data.Split(*(part[:CHECK_TEST] for part in dataset.test)),
        )

    @property
    def race(self) -> Path:
        """The whole data set, less what does not fill a batch."""
        return self._folder / "race.npz"

    @property
    def check(self) -> Path:
        """CHECK_STEPS batches."""
        return self._folder / "check.npz"

    def steps(self, batch_size: int) -> Path:
        """A number of batches to time."""
        return self._folder / f"steps-{batch_size}.npz"

    def weights(self, seed: int) -> Path:
        """The initial parameters of a seed."""
        return self._folder / f"weights-{seed}.npz"


class TransferInputs:
    """Writes the workers' files of a transfer into a folder.

    Pictures are noise, each with a brightness of its own in each colour, since how long
    the work takes does not depend on what they show.

    Args:
        folder: where.
        pictures: how many to train on; their classes alternate.
        side: height and width.
        seeds: of the parameters; the first also of the pictures.
    """

    def __init__(self, folder: Path, pictures: int, side: int, seeds: range) -> None:
        self._folder = folder
        generator = np.random.default_rng(seeds.start)
        shape = (pictures, side, side, 3)
        noise = generator.integers(0, 256, shape, np.uint8)
        brightness = generator.random((pictures, 1, 1, 3), np.float32)
        images = (noise * brightness).astype(np.uint8)
        train = data.Split(images, np.arange(pictures) % CLASSES)
        # A data set must have something to test with.
        _save(self.pictures, train, data.Split(*(part[:1] for part in train)))
        for seed in seeds:
            np.savez(self.weights(seed), **transfer_weights(side, seed))  # pyright: ignore[reportArgumentType]

    @property
    def pictures(self) -> Path:
        """The pictures."""
        return self._folder / "pictures.npz"

    def weights(self, seed: int) -> Path:
        """The parameters of a seed."""
        return self._folder / f"weights-{seed}.npz"


def _first(split: data.Split, count: int) -> data.Split:
    """`count` examples, repeating a split that has fewer."""
    index = np.arange(count) % len(split.labels)
    return data.Split(split.images[index], split.labels[index])


def _save(path: Path, train: data.Split, test: data.Split) -> None:
    np.savez(
        path,
        x_train=train.images,
        y_train=train.labels,
        x_test=test.images,
        y_test=test.labels,
    )
