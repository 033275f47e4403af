"""Is a file what it should be, and if not, what was done to it?

A network is run on one image, and each block's activations are compared with what they
should be. A wrong conversion has the right names and shapes; what it got wrong shows
in the first block that differs, and in which change would make that block right.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxnets import errors, params
from flaxnets.data.preprocessing import Preprocessing
from flaxnets.models import registry
from flaxnets.weights import names

# Largest difference over largest value: what float32 on different machines stays
# below, and what a wrong convention does not.
TOLERANCE = 1e-4

# Values of an endpoint that are kept, and of those in its middle that must agree.
_SAMPLES = 64
_ENOUGH = 8

_FIXTURES = "flaxnets.weights.fixtures"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some of an endpoint's activations.

    Attributes:
        shape: of the whole, without the batch.
        values: those at `positions(shape)`.
        largest: magnitude of the largest of all.
    """

    shape: tuple[int, ...]
    values: np.ndarray
    largest: float


Fixture = Mapping[str, Sample]


def image(side: int, preprocessing: Preprocessing) -> np.ndarray:
    """The image that networks are run on, as their input f32[1, side, side, 3].

    Waves of other lengths along each axis and in each channel: mirrored, turned, moved
    or with its channels in another order it is another one.
    """
    y, x = np.mgrid[:side, :side].astype(np.float64)
    planes = [
        np.sin(y * (0.11 + 0.05 * channel) + x * x * 0.0009 * (channel + 1) + channel)
        for channel in range(3)
    ]
    picture = np.round(127.5 + 127.5 * np.stack(planes, axis=-1)).astype(np.uint8)
    return preprocessing.normalized(picture)[None]


def positions(shape: tuple[int, ...]) -> np.ndarray:
    """Where an endpoint is sampled: flat indices, everywhere and in no pattern."""
    size = int(np.prod(shape))
    # Multiples of the golden ratio leave no two samples close to each other.
    share = np.arange(1, min(_SAMPLES, size) + 1) * ((5**0.5 - 1) / 2) % 1
    return np.floor(share * size).astype(np.int64)


def sampled(endpoints: Mapping[str, Any]) -> dict[str, Sample]:
    """A fixture of activations [1, ...] by endpoint."""
    found = {}
    for name, activation in endpoints.items():
        values = np.asarray(activation, np.float64)[0]
        found[name] = Sample(
            values.shape,
            values.reshape(-1)[positions(values.shape)],
            float(np.max(np.abs(values))),
        )
    return found


def stored(model: str, tag: str) -> Fixture | None:
    """The fixture that is kept of an entry of the catalogue, if one is."""
    file = resources.files(_FIXTURES) / f"{model}-{tag}.json"
    if not file.is_file():
        return None
    return decoded(file.read_text())


def decoded(text: str) -> dict[str, Sample]:
    """The fixture of a text of `encoded`."""
    return {
        name: Sample(tuple(row["shape"]), np.array(row["values"]), row["largest"])
        for name, row in json.loads(text).items()
    }


def encoded(fixture: Fixture) -> str:
    """A fixture as JSON, one line an endpoint."""
    rows = {
        name: {
            "shape": sample.shape,
            "largest": float(f"{sample.largest:.7g}"),
            "values": [float(f"{value:.7g}") for value in sample.values],
        }
        for name, sample in fixture.items()
    }
    lines = [f'"{name}": {json.dumps(row)}' for name, row in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def recorded(
    name: str, model: Any, variables: Any, preprocessing: Preprocessing
) -> dict[str, Sample]:
    """The fixture of a network that is known to be right.

    Args:
        name: the architecture, as `models.list_models()` names it.
        model: its module.
        variables: its variables.
        preprocessing: of its weights.
    """
    side = registry.architecture(name).side
    return sampled(_applied(model)(variables, image(side, preprocessing)))


@dataclasses.dataclass(frozen=True)
class Finding:
    """How a network's activations differ from a fixture.

    Attributes:
        differences: of each endpoint, the largest difference over the largest value.
        first: the first endpoint that differs; None if none does.
        cause: what would make that endpoint right; None if nothing that is known does.
    """

    differences: dict[str, float]
    first: str | None = None
    cause: str | None = None


def compare(
    name: str,
    model: Any,
    variables: Any,
    preprocessing: Preprocessing,
    fixture: Fixture,
) -> Finding:
    """Runs a network and compares each block with a fixture.

    Args:
        name: the architecture, as `models.list_models()` names it.
        model: its module.
        variables: what is checked.
        preprocessing: of the fixture's weights.
        fixture: how it should be.

    Raises:
        ArgumentError: the fixture has none of the model's endpoints.
    """
    probe = image(registry.architecture(name).side, preprocessing)
    apply = _applied(model)
    found = apply(variables, probe)
    shared = [endpoint for endpoint in found if endpoint in fixture]
    if not shared:
        raise errors.ArgumentError(
            f"nothing to compare: the fixture has the endpoints {', '.join(fixture)}, "
            f"the model {', '.join(found)}"
        )
    differences = {
        endpoint: _difference(found[endpoint], fixture[endpoint]) for endpoint in shared
    }
    wrong = [endpoint for endpoint in shared if not differences[endpoint] <= TOLERANCE]
    if not wrong:
        return Finding(differences)
    for suspicion in _suspicions(model, variables, probe):
        activation = apply(suspicion.variables, suspicion.images)[wrong[0]]
        remains = _difference(activation, fixture[wrong[0]], suspicion.inner)
        if remains <= TOLERANCE:
            return Finding(differences, wrong[0], suspicion.cause)
    return Finding(differences, wrong[0])


Apply = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


def _applied(model: Any) -> Apply:
    """A network's endpoints of variables and images, from the input on."""
    order: list[str] = []

    @jax.jit
    def compiled(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        _, endpoints = model.apply(variables, images)
        # What comes out of jit is sorted by name.
        order[:] = endpoints
        return endpoints

    def apply(variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        with jax.default_matmul_precision("highest"):
            endpoints = compiled(variables, images)
        return {name: np.asarray(endpoints[name]) for name in order}

    return apply


def _difference(activation: np.ndarray, sample: Sample, inner: bool = False) -> float:
    """Largest difference over the largest value.

    Infinite for other shapes, and where too few values are left to tell.

    Args:
        activation: [1, ...].
        sample: how it should be.
        inner: compare only what lies in the middle half of a map.
    """
    values = activation[0]
    if values.shape != sample.shape:
        return float("inf")
    places = positions(values.shape)
    chosen = np.ones(len(places), bool)
    if inner and values.ndim == 3:
        for axis, place in enumerate(np.unravel_index(places, values.shape)[:2]):
            length = values.shape[axis]
            chosen &= (place >= length / 4) & (place < length * 3 / 4)
        if np.sum(chosen) < _ENOUGH:
            return float("inf")
    apart = np.abs(values.reshape(-1)[places] - sample.values)[chosen]
    return float(np.max(apart, initial=0)) / (sample.largest or 1.0)


class Suspicion(NamedTuple):
    """What may have gone wrong, and the same network with it undone.

    Attributes:
        cause: what was done, in words.
        variables: with it undone.
        images: the image with it undone.
        inner: whether it can be undone only in the middle of a map.
    """

    cause: str
    variables: Any
    images: np.ndarray
    inner: bool = False


def _suspicions(model: Any, variables: Any, probe: np.ndarray) -> Iterator[Suspicion]:
    leaves = {
        name: np.asarray(leaf) for name, leaf in params.flatten(variables).items()
    }

    def changed(changes: Mapping[str, np.ndarray]) -> Any:
        return params.unflatten({**leaves, **changes})

    windows = {name: leaf for name, leaf in leaves.items() if leaf.ndim == 4}
    for name, kernel in windows.items():
        if kernel.shape[2] == probe.shape[-1]:
            cause = f"channel order: {name} is for BGR where RGB is meant, or reversed"
            yield Suspicion(cause, changed({name: kernel[:, :, ::-1]}), probe)
    for name, (channels, height, width) in names.flattened(model).items():
        rows = leaves.get(name)
        if rows is None:
            continue
        for order, axes, was in (
            ((channels, height, width), (1, 2, 0, 3), "channels, height, width"),
            ((height, width, channels), (2, 0, 1, 3), "height, width, channels"),
        ):
            turned = rows.reshape(*order, -1).transpose(axes).reshape(rows.shape)
            cause = (
                f"flatten order: {name} was written for a map that is flattened by "
                f"{was}, and is read as if it were not"
            )
            yield Suspicion(cause, changed({name: turned}), probe)
    turned = {name: kernel[::-1, ::-1] for name, kernel in windows.items()}
    cause = "convolution: kernels are turned by 180 degrees, as Theano's were"
    yield Suspicion(cause, changed(turned), probe)
    turned = {name: kernel.transpose(1, 0, 2, 3) for name, kernel in windows.items()}
    cause = "kernel layout: height and width are exchanged"
    yield Suspicion(cause, changed(turned), probe)
    variances = {name: leaf for name, leaf in leaves.items() if name.endswith("/var")}
    if variances:
        yield from _normalization(variances, changed, probe)
    # A padding of its own moves what a strided layer sees by a pixel of its input.
    for stride in (1, 2, 4, 8, 16):
        for shift in (-stride, stride):
            moved = np.roll(probe, (shift, shift), axis=(1, 2))
            cause = (
                "padding: a strided layer sees its input a pixel "
                f"{'later' if shift < 0 else 'earlier'} (TensorFlow's SAME against "
                "PyTorch's symmetric padding)"
            )
            yield Suspicion(cause, variables, moved, inner=True)


def _normalization(
    variances: Mapping[str, np.ndarray],
    changed: Callable[[Mapping[str, np.ndarray]], Any],
    probe: np.ndarray,
) -> Iterator[Suspicion]:
    for more in (1e-3 - 1e-5, 1e-5 - 1e-3):
        which = ("1e-3", "1e-5") if more > 0 else ("1e-5", "1e-3")
        cause = (
            f"BatchNorm epsilon: {which[0]} was meant where the model has {which[1]}"
        )
        moved = {name: np.maximum(leaf + more, 0) for name, leaf in variances.items()}
        yield Suspicion(cause, changed(moved), probe)
    cause = "BatchNorm variance: standard deviations were written"
    squared = {name: np.square(leaf) for name, leaf in variances.items()}
    yield Suspicion(cause, changed(squared), probe)
