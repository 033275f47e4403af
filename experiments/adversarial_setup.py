"""Who is attacked, and with which pictures: the study's data and classifiers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cats_dogs_setup as setup
from experiments import commands, invert_setup
from flaxnets import data, errors, models, ops, params, train, weights
from flaxnets.data import preprocessing
from flaxnets.train.evaluation import Apply

# The data set that is a folder or zip of photographs.
PHOTOGRAPHS = "cats_dogs"
# Means and deviations that LeNets are trained with; their files do not say which.
NORMALISATIONS = ((0.0, 1.0), (0.1307, 0.3081))
# Training pictures by which a file's is told.
TOLD_BY = 1000
# Layers of a LeNet, and the side of the map that its first dense layer is given.
LENET, SIDE = ("conv1", "conv2", "fc1", "fc2"), 4
# As many values go through a network at once as 500 pictures of MNIST have.
MOST, LEAST, VALUES = 500, 8, 500 * 28 * 28


class Network(NamedTuple):
    """The classifier under attack.

    Attributes:
        apply: as a Linen module's, on images in [0, 1].
        begun: variables from which trainings set out.
        given: variables of a classifier that is trained already, or None.
        tuned: whether `begun` is pretrained, so that training is fine-tuning.
        words: what it is, for people.
    """

    apply: Apply
    begun: Any
    given: Any
    tuned: bool
    words: str

    def fingerprint(self) -> str:
        """The SHA-256 of the variables that it comes with."""
        own = self.begun if self.given is None else self.given
        return params.fingerprint(jax.device_get(own))


def pictures_of(
    names: Sequence[str], backbone: str, file: str, size: int, seed: int
) -> tuple[data.Dataset, preprocessing.Preprocessing]:
    """The pictures, and how photographs are prepared.

    Args:
        names: of a data set that `data.load` knows; or `cats_dogs`, and a folder or zip
            of photographs with a folder a class, by default the lecture's.
        backbone, file: see `network_of`.
        size: pixels of a side of photographs.
        seed: of the share of photographs that is held out, where the folder has none.

    Raises:
        ArgumentError: no such data, or a backbone for other pictures.
    """
    cnn = backbone == invert_setup.CNN
    prepare = setup.preparation(backbone, "none" if cnn else file, size)
    if not names or len(names) > (2 if names[0] == PHOTOGRAPHS else 1):
        raise errors.ArgumentError(
            f"--dataset is {' '.join(names) or 'empty'}, but must be one name; only "
            f"{PHOTOGRAPHS} may be followed by a folder or zip of photographs"
        )
    if names[0] == PHOTOGRAPHS:
        path = setup.located(Path(names[1]) if len(names) > 1 else None)
        folder = data.image_folder(path, seed=seed)
        first, second = (
            folder.read(listing, prepare.cropped).split
            for listing in (folder.train, folder.validation)
        )
        dataset = data.Dataset(path.stem, first, second, folder.class_names, str(path))
        return dataset, prepare
    dataset = data.load(names[0])
    channels = dataset.train.images.shape[-1]
    if not cnn and channels != 3:
        raise errors.ArgumentError(
            f"--dataset {names[0]} has pictures of {channels} channel, but {backbone} "
            f"takes 3; give --backbone {invert_setup.CNN}, or --dataset {PHOTOGRAPHS}"
        )
    return dataset, prepare


def some(split: data.Split, limit: int, seed: int) -> data.Split:
    """At most `limit` examples, drawn by a seed; fewer are the first of them."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = generator.permutation(len(split.labels))[:limit]
    return data.Split(split.images[chosen], split.labels[chosen])


def together(shape: Sequence[int], count: int) -> int:
    """How many of `count` pictures [H, W, C] go through a network at once."""
    fitting = VALUES // int(np.prod(shape))
    return min(max(fitting, LEAST), MOST, count)


def network_of(
    backbone: str,
    file: str,
    dataset: data.Dataset,
    prepare: preprocessing.Preprocessing,
    seed: int,
) -> Network:
    """The classifier, as it is before the study trains anything.

    Args:
        backbone: cnn, or a network of photographs as `flaxnets.list_models()` has it.
        file: none for new parameters; of a cnn, the folder of a run of
            experiments.mnist, or a PyTorch file of a LeNet; of the others, published
            weights or a file of them, below a new head.
        dataset: whose pictures and classes it takes.
        prepare: see `pictures_of`.
        seed: of new parameters.

    Raises:
        ArgumentError: no such network or run, or it is for other pictures.
        WeightsError: a file that cannot be used.
    """
    shape, key = dataset.train.images.shape[1:], jax.random.key(seed)
    classes = len(dataset.class_names)
    if backbone != invert_setup.CNN:
        model = setup.network(backbone, "linear", prepare, classes)
        pretrained = setup.body(backbone, file)
        begun = setup.drawn(model, shape, key, pretrained)
        return Network(model.apply, begun, None, pretrained is not None, backbone)
    if file != "none" and Path(file).is_file():
        return lenet_of(Path(file), dataset)
    given, words = None, "the lecture's network"
    if file != "none":
        given = commands.network_of_run(
            "--weights",
            Path(file),
            dataset,
            otherwise=", a LeNet's state dict, or none to train one",
        )
        words = f"the network of {file}"
    model = models.CNN(num_classes=classes)
    begun = params.initialize(model, key, (1, *shape))
    return Network(model.apply, begun, given, False, words)


def lenet_of(path: Path, dataset: data.Dataset) -> Network:
    """A LeNet that others have trained; what it is trained further sets out from it.

    Whether it takes pictures as they are or normalised is told by which of the two
    gives the smaller loss on training pictures.

    Args:
        path: a state dict of PyTorch with the layers conv1, conv2, fc1 and fc2.
        dataset: of pictures of 28x28 pixels, of ten classes.

    Raises:
        ArgumentError: the data set is another.
        WeightsError: the file cannot be read, or holds another network.
    """
    shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
    if (shape, classes) != ((28, 28, 1), 10):
        raise errors.ArgumentError(
            f"--weights {path} is a LeNet for ten classes of 28x28x1 pictures, but "
            f"{dataset.name} has {classes} classes of {'x'.join(map(str, shape))}; "
            "give --dataset mnist"
        )
    variables = _turned(weights.read(path), path)
    few = data.Split(*(part[:TOLD_BY] for part in dataset.train))
    applied = {numbers: lenet(*numbers) for numbers in NORMALISATIONS}
    losses = {
        numbers: train.Evaluator(apply).evaluate(variables, *few)["loss"]
        for numbers, apply in applied.items()
    }
    chosen = min(losses, key=losses.__getitem__)
    words = f"the LeNet of {path.name}, mean {chosen[0]:g}, deviation {chosen[1]:g}"
    return Network(applied[chosen], variables, variables, True, words)


def lenet(mean: float, deviation: float) -> Apply:
    """The `apply` of LeNets in PyTorch: 5x5 convolutions without padding, 2x2 pooling.

    Args:
        mean, deviation: of the normalisation, which it does itself.
    """

    def apply(
        variables: Any,
        images: jax.Array,
        *,
        train: bool = False,
        rngs: Any = None,
        mutable: Sequence[str] | None = None,
    ) -> Any:
        del train, rngs
        layers = variables["params"]
        x = (images - mean) / deviation
        for name in LENET[:2]:
            x = ops.conv(x, layers[name]["kernel"], padding="VALID")
            x = jax.nn.relu(x + layers[name]["bias"].reshape(1, 1, 1, -1))
            # Of a maximum, it is the same before and after.
            x = ops.max_pool(x, 2)
        x = x.reshape(len(x), -1)
        for name in LENET[2:]:
            x = x @ layers[name]["kernel"] + layers[name]["bias"].reshape(1, -1)
            x = x if name == LENET[-1] else jax.nn.relu(x)
        output = x, {"logits": x}
        return output if mutable is None else (output, {})

    return apply


def _turned(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """A LeNet's variables, channels last."""
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = {f"{layer}.{kind}" for layer in LENET for kind in ("weight", "bias")}
    channels = found.get("conv2.weight", (0,))[0]
    values = channels * SIDE * SIDE
    if found.keys() != wanted or found["fc1.weight"][1:] != (values,):
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in found.items())
        raise errors.WeightsError(
            f"{path}: holds {shown}; but the layers {', '.join(LENET)} of a LeNet for "
            f"28x28 pictures are expected, fc1 with {SIDE}x{SIDE} values a channel; "
            f"give such a file, or a run of experiments.mnist"
        )
    leaves = {}
    for layer in LENET:
        weight = np.asarray(tensors[f"{layer}.weight"], np.float32)
        if layer == "fc1":
            weight = weight.reshape(-1, channels, SIDE, SIDE)
            kernel = weight.transpose(2, 3, 1, 0).reshape(values, -1)
        else:
            kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        leaves[layer] = {
            "kernel": np.ascontiguousarray(kernel),
            "bias": np.array(tensors[f"{layer}.bias"], np.float32),
        }
    return {"params": leaves}
