"""The network of the face swap, its training, and the use of what was trained."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors, models, ops, params, train
from flaxnets.data import Split
from flaxnets.train import reconstruction

Direction = Literal["a_to_b", "b_to_a"]
Sees = Literal["edges", "pictures"]
DIRECTIONS: tuple[Direction, ...] = ("a_to_b", "b_to_a")
# Faces per compiled call.
AT_ONCE = 20


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a network is built for.

    Attributes:
        size: height and width of its pictures.
        channels: 3, or 1 for grey.
        widths: kernels of the encoder's levels, each of which halves the picture.
        code: numbers that a face becomes.
        names: of the decoders.
        sees: what the encoder is given; see `seen`.
    """

    size: tuple[int, int]
    channels: int
    widths: tuple[int, ...] = (32, 64, 128, 128)
    code: int = 64
    names: tuple[str, ...] = ("a", "b")
    sees: Sees = "pictures"

    def network(self) -> models.SharedAutoencoder:
        """The encoder and the decoders."""
        return models.SharedAutoencoder(
            self.widths,
            self.channels,
            self.names,
            unpooling="subpixel",
            bottleneck=self.code,
        )

    def single(self) -> models.Autoencoder:
        """The encoder and one of the decoders."""
        return models.Autoencoder(
            self.widths, self.channels, unpooling="subpixel", bottleneck=self.code
        )

    def initialize(self, key: jax.Array) -> Any:
        """Variables of a new network."""
        one = jax.ShapeDtypeStruct((1, *self.size, self.channels), np.float32)
        return params.initialize(
            self.network(), key, jax.eval_shape(self.seen, one).shape
        )

    def seen(self, images: jax.Array) -> jax.Array:
        """What the encoder is given of images f32[..., H, W, C].

        Of two people whose hair and skin are the one light and dark and the other dark
        and light, an encoder of pictures calls the one's turn to the left the other's
        to the right: in both something bright moves to the right. Edges are alike in
        both, and a picture's mean brightness tells how strong the light is.
        """
        if self.sees == "pictures":
            return images
        around = max(1, min(self.size) // 8 * 2 - 1)
        edges = ops.unsigned_gradients(images, neighbourhood=around)
        brightness = images.mean(axis=(-3, -2, -1), keepdims=True)
        shape = (*images.shape[:-1], 1)
        return jnp.concatenate([edges, jnp.broadcast_to(brightness, shape)], axis=-1)


def strips(faces: Sequence[np.ndarray], count: int) -> Split:
    """Pictures of several people as one, each below the other.

    Args:
        faces: of each person, uint8[N, H, W, C]; the numbers N may differ.
        count: strips to make; of a person with fewer pictures each is used about
            equally often, of one with more the first ones.

    Returns:
        uint8[count, K * H, W, C], and labels that are all 0.
    """
    parts = [one[np.resize(np.arange(len(one)), count)] for one in faces]
    return Split(np.concatenate(parts, axis=1), np.zeros(count, np.int32))


def people_of(strip: jax.Array, count: int) -> jax.Array:
    """Strips [B, K * H, W, C] as pictures [K, B, H, W, C]."""
    return jnp.stack(jnp.split(strip, count, axis=1))


def strip_of(people: jax.Array) -> jax.Array:
    """What `people_of` takes apart."""
    return jnp.concatenate(list(people), axis=1)


def own_decoders(shape: Shape, names: Sequence[str]) -> Callable[..., Any]:
    """The `apply` of a network that gives each picture of a strip back."""
    network = shape.network()

    def apply(variables: Any, strip: jax.Array, **options: Any) -> Any:
        people = shape.seen(people_of(strip, len(names)))
        mutable = options.get("mutable", False)
        found: Any = network.apply(
            variables, people, tuple(names), method="own", mutable=mutable
        )
        if mutable is False:
            return strip_of(found), {}
        images, changed = found
        return (strip_of(images), {}), changed

    return apply


def in_strips(
    change: reconstruction.Change | None, count: int
) -> reconstruction.Change | None:
    """A random change of pictures as one of strips, each picture by itself."""
    if change is None:
        return None

    def changed(key: jax.Array, strip: jax.Array) -> jax.Array:
        people = people_of(strip, count)
        flat = change(key, people.reshape(-1, *people.shape[2:]))
        return strip_of(flat.reshape(people.shape))

    return changed


class Framing(NamedTuple):
    """How a network's pictures lie around a face, in heights of a face as it is found.

    Attributes:
        scale: a picture's height.
        down, across: from the middle of the face to that of the picture.
    """

    scale: float = 1.0
    down: float = 0.0
    across: float = 0.0


class Swapper(NamedTuple):
    """A trained face swap.

    Attributes:
        swap: `(faces uint8[N, H, W, C]) -> uint8[N, H, W, C]`, the one's in, as the
            other out.
        size: H and W.
        channels: C.
        framing: of the faces that it was trained to take.
        sha256: of the network's parameters and what else the swap depends on.
    """

    swap: Callable[[np.ndarray], np.ndarray]
    size: tuple[int, int]
    channels: int
    framing: Framing = Framing()
    sha256: str = ""


def with_codes(
    shape: Shape, variables: Any, faces: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Variables, with what each person's codes are like under `codes`.

    Args:
        shape: of the network.
        variables: of the network.
        faces: of each person, uint8[N, H, W, C], those that were trained on.
    """
    codes = {}
    for name, images in faces.items():
        found = _encoder(shape).predict(variables, images)
        codes[name] = {
            "mean": found.mean(axis=0, keepdims=True),
            "deviation": found.std(axis=0, keepdims=True),
        }
    return {**variables, "codes": codes}


@functools.cache
def _encoder(shape: Shape) -> train.Evaluator:
    """Compiled once for all networks of a shape, as the next one is."""
    single = shape.single()

    def encode(variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        own = {"encoder": variables["params"]["encoder"]}
        given = shape.seen(images)
        found: Any = single.apply({"params": own}, given, method="encode")
        return found.values, None

    return train.Evaluator(encode, batch_size=AT_ONCE)


@functools.cache
def _translator(shape: Shape) -> train.Evaluator:
    single = shape.single()

    def translate(given: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        own = {"params": given["params"]}
        code: Any = single.apply(own, shape.seen(images), method="encode")
        first, second = given["first"], given["second"]
        scale = second["deviation"] / jnp.maximum(first["deviation"], 1e-6)
        values = (code.values - first["mean"]) * scale + second["mean"]
        code = code.replace(values=values)
        found: Any = single.apply(own, code, method="decode")
        return found, None

    return train.Evaluator(translate, batch_size=AT_ONCE)


def swapper(
    shape: Shape, variables: Any, first: str, second: str, *, aligned: bool = False
) -> Swapper:
    """What a network's encoder and one of its decoders make of a person's faces.

    Two people's codes of the same pose and light are not the same. Where both were seen
    in much the same poses and lights, though never in the same ones, the mean and the
    deviation of each number of the code show by how much: aligned, a code is brought
    from the first person's to the second's (as Sun, Feng and Saenko 2016 align domains,
    arXiv 1511.05547, here with a diagonal covariance).

    Args:
        shape: of the network.
        variables: of the network, from `with_codes`.
        first: whose faces go in.
        second: whose decoder makes the pictures.
        aligned: whether the codes are aligned.
    """
    units = {
        "mean": np.zeros((1, shape.code), np.float32),
        "deviation": np.ones((1, shape.code), np.float32),
    }
    codes = variables["codes"] if aligned else {first: units, second: units}
    given = {
        "params": {
            "encoder": variables["params"]["encoder"],
            "decoder": variables["params"][f"decoder_{second}"],
        },
        "first": codes[first],
        "second": codes[second],
    }

    def swap(faces: np.ndarray) -> np.ndarray:
        expected = (*shape.size, shape.channels)
        if faces.ndim != 4 or faces.shape[1:] != expected or faces.dtype != np.uint8:
            raise errors.ArgumentError(
                f"faces are {faces.dtype}{list(faces.shape)}, but this network takes "
                f"uint8[N, {', '.join(map(str, expected))}]"
            )
        if len(faces) == 0:
            return faces
        found = _translator(shape).predict(given, faces)
        return np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)

    return Swapper(swap, shape.size, shape.channels, sha256=params.fingerprint(given))


def load_swapper(run: Path, direction: Direction = "a_to_b") -> Swapper:
    """The face swap that a run of `experiments.face_swap` trained.

    It is that of the procedure that did best in the run.

    Args:
        run: the run folder.
        direction: whose faces go in, and as whom they come out.

    Raises:
        ArgumentError: there is no such direction.
        RunFolderError: it holds no run, another study's, or one that is not finished.
    """
    if direction not in DIRECTIONS:
        raise errors.ArgumentError(
            f"direction is {direction!r}, but must be one of {', '.join(DIRECTIONS)}"
        )
    config = train.read_config(run)
    if config.get("study") != "face_swap":
        raise errors.RunFolderError(
            f"{run}: is a run of {config.get('study', 'another study')}, but one of "
            "face_swap is needed"
        )
    try:
        result = json.loads((run / "result.json").read_bytes())
        chosen = result["swapper"]
        framings = chosen["framings"]
    except (OSError, ValueError, KeyError):
        raise errors.RunFolderError(
            f"{run}: the run is not finished (there is no whole result.json); go on "
            "with it: --resume"
        ) from None
    shape = shape_from(chosen["shape"])
    with train.Checkpoints(run / "checkpoints") as checkpoints:
        variables = params.unflatten(checkpoints.leaves(chosen["checkpoint"]))
    first, second = chosen["names"]
    if direction == "b_to_a":
        first, second = second, first
    found = swapper(shape, variables, first, second, aligned=chosen["aligned"])
    framing = framings[first]
    return found if framing is None else found._replace(framing=Framing(*framing))


def shape_from(fields: Mapping[str, Any]) -> Shape:
    """What `dataclasses.asdict` made of a shape, also by way of JSON."""
    whole: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    return Shape(**whole)
