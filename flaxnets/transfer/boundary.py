"""Where frozen work ends, found in the network itself.

A network's computation is a list of operations. Those that depend on pictures and
frozen parameters only lie below the boundary: their results are the same in every
epoch. What they hand to the operations above, a picture's features, can be computed
once.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors, ops, params
from flaxnets.data import arrays
from flaxnets.data.augmentation import Augmentation
from flaxnets.models import freezing
from flaxnets.train.evaluation import as_float
from flaxnets.transfer import program, store
from flaxnets.transfer.program import Kind


class Boundary:
    """A network cut in two where its frozen work ends.

    >>> boundary = transfer.Boundary(model, frozen, images.shape[1:])
    >>> features = boundary.features(variables, images)
    >>> loss = losses.classification(boundary.apply)

    `apply` takes features where `model.apply` takes images, and gives the same logits
    and, with respect to what is trained, the same gradients. Any Linen module can be
    cut, at any set of frozen parameters; it needs no endpoint there.

    Args:
        model: the whole network, which returns an array, or an array and endpoints.
        frozen: names of the frozen parameters (`params.select`).
        image_shape: [H, W, C].
    """

    def __init__(
        self, model: Any, frozen: Iterable[str], image_shape: Sequence[int]
    ) -> None:
        self.frozen = frozenset(frozen)
        self.image_shape = tuple(image_shape)
        self.apply_whole = freezing.apply_frozen(model, self.frozen)
        self._cuts: dict[Any, program.Program] = {}
        self._programs: dict[Any, program.Program] = {}
        # As many pixels at a time as suit networks of 224x224.
        parts = max(1, 8 * 224**2 // math.prod(self.image_shape[:2]))
        # One function, so that what is compiled of it is kept.
        self._below: Callable[[Any, Any], Any] = jax.jit(
            ops.in_parts(self._lower, parts)
        )

    def size(self, variables: Any) -> int:
        """Numbers in the features of one picture."""
        return sum(math.prod(shape) for shape in self._shapes(self._cut(variables, 1)))

    def features(
        self,
        variables: Any,
        images: np.ndarray,
        *,
        batch_size: int = 32,
        augment: Augmentation | None = None,
        views: int = 1,
        key: jax.Array | None = None,
        folder: Path | None = None,
    ) -> np.ndarray:
        """What lies below the boundary, f32[N * views, D], of images [N, H, W, C].

        Args:
            variables: of the whole network.
            images: uint8, or float32 as the network takes them; an array, or
                `data.Pictures`.
            batch_size: images at a time.
            augment: `(key, images f32[B, H, W, C]) -> images`, of the same size.
            views: how often each image is augmented and looked at; the features of
                all images come before those of the next view.
            key: of the augmentation.
            folder: where features are kept in files, under a key of the weights,
                images and operations that they come from; where such a file is
                there, it is used. Without a folder they are computed, and in memory.

        Raises:
            ArgumentError: images of another shape, or a frozen part that looks at
                several images together, so that its output is not an image's own; or
                views without an augmentation and its key.
            DataError: no images.
            RunFolderError: the file cannot be written.
        """
        if images.shape[1:] != self.image_shape:
            raise errors.ArgumentError(
                f"images are {list(images.shape)}, but the network was cut for "
                f"{['N', *self.image_shape]}"
            )
        if len(images) == 0:
            raise errors.DataError("no images: the first dimension is 0")
        if (
            views < 1
            or (views > 1 or augment is not None)
            and (augment is None or key is None)
        ):
            raise errors.ArgumentError(
                f"views is {views}, augment {augment} and key {key}; several views "
                "need an augmentation, and an augmentation needs a key"
            )
        size = self.size(variables)
        shape = (views * len(images), size)
        pieces = self._pieces(variables, images, batch_size, augment, views, key)
        if folder is not None:
            drawn = (augment, views, key, batch_size)
            name = self._key(variables, images, None if augment is None else drawn)
            return store.kept(folder, name, shape, pieces)
        found = np.empty(shape, np.float32)
        row = 0
        for piece in pieces:
            found[row : row + len(piece)] = piece
            row += len(piece)
        return found

    def _pieces(
        self,
        variables: Any,
        images: np.ndarray,
        batch_size: int,
        augment: Augmentation | None,
        views: int,
        key: jax.Array | None,
    ) -> Iterator[np.ndarray]:
        """Features of one batch after the other, of one view after the other."""
        changed = None if augment is None else jax.jit(augment)
        batch_size = min(batch_size, len(images) + 1)
        # The first image goes along with every batch, to see that its company is
        # nothing to it.
        carried = min(1, batch_size - 1)
        fresh = batch_size - carried
        places = itertools.product(range(views), range(0, len(images), fresh))
        probe = unchanged = images[:1].repeat(batch_size, axis=0)
        if changed is not None:
            probe = np.asarray(as_float(jnp.asarray(probe)))

        def read() -> tuple[int, int, np.ndarray] | None:
            view, start = next(places, (None, 0))
            return (
                None if view is None else (view, start, images[start : start + fresh])
            )

        expected = None
        # The next batch is read, and decoded, while the device works on one.
        with ThreadPoolExecutor(1) as reader:
            promise = reader.submit(read)
            while (found := promise.result()) is not None:
                promise = reader.submit(read)
                view, start, batch = found
                count = len(batch)
                if changed is not None and key is not None:
                    own = jax.random.fold_in(jax.random.fold_in(key, view), start)
                    whole = np.concatenate([batch, unchanged[: fresh - count]])
                    batch = np.asarray(changed(own, as_float(jnp.asarray(whole))))
                    batch = batch[:count]
                together = np.concatenate([batch, probe[: batch_size - count]])
                features = np.asarray(self._below(variables, together))
                if carried:
                    expected = features[-1] if expected is None else expected
                    _check_alone(expected, features[-1])
                yield features[:count]
            if carried and len(images) <= fresh and views == 1:
                _check_alone(expected, np.asarray(self._below(variables, probe))[-1])

    def _key(
        self, variables: Any, images: np.ndarray, drawn: tuple[Any, ...] | None
    ) -> str:
        """A SHA-256 of all that features depend on, and of nothing else."""
        cut = self._cut(variables, 1)
        leaves = jax.tree.leaves(variables)
        digest = hashlib.sha256()
        for text in cut.described(cut.boundary):
            digest.update(text.encode())
        # The first input is the images.
        for place, kind in enumerate(self._kinds(variables), start=1):
            if kind == Kind.CONSTANT:
                value = np.asarray(leaves[place - 1])
                digest.update(f"{place} {value.dtype} {value.shape}".encode())
                digest.update(np.ascontiguousarray(value).data)
        arrays.update_digest(digest, images)
        if drawn is not None:
            augment, views, key, batch_size = drawn
            batch = jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.float32)
            digest.update(program.described(augment, key, batch).encode())
            digest.update(f"{views} {batch_size}".encode())
            digest.update(np.asarray(jax.random.key_data(key)).tobytes())
        return digest.hexdigest()

    def apply(
        self,
        variables: Any,
        features: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        mutable: Sequence[str] | bool = False,
    ) -> Any:
        """`model.apply` from the features on, without endpoints.

        Args:
            variables: of the whole network; what is frozen is read only where an
                operation above the boundary needs it.
            features: f32[B, D].
            train, rngs, mutable: as for `model.apply`.

        Returns:
            `(logits, {})`, or with `mutable` `((logits, {}), changed)`.
        """
        rngs = dict(rngs or {})
        cut = self._cut(variables, len(features))
        shapes = self._shapes(cut)
        sizes = [math.prod(shape) for shape in shapes]
        if features.shape[1:] != (sum(sizes),):
            raise errors.ArgumentError(
                f"features are {list(features.shape)}, but this network, cut here, "
                f"takes [B, {sum(sizes)}]; compute them with `features`"
            )
        whole = self._program(
            variables, len(features), train=train, mutable=mutable, rngs=rngs
        )
        boundary = whole.same(cut.boundary, cut)
        pieces = jax.lax.split(features, sizes, axis=1) if sizes else []
        given = {
            value: piece.reshape(len(features), *shape)
            for value, piece, shape in zip(boundary, pieces, shapes, strict=True)
        }
        # The images themselves are never looked at.
        leaves = jax.tree.leaves((variables, rngs))
        inputs = dict(zip(whole.inputs, [None, *leaves], strict=True))
        logits, changed = whole.run({**inputs, **given}, whole.outputs)
        return (logits, {}) if mutable is False else ((logits, {}), changed)

    def _lower(self, variables: Any, images: jax.Array) -> jax.Array:
        cut = self._cut(variables, len(images))
        self._shapes(cut)
        # The last one is the key, which nothing here depends on.
        leaves = [as_float(images), *jax.tree.leaves(variables), None]
        inputs = dict(zip(cut.inputs, leaves, strict=True))
        found = cut.values(inputs, cut.boundary)
        return jnp.concatenate([piece.reshape(len(images), -1) for piece in found], 1)

    def _cut(self, variables: Any, batch: int) -> program.Program:
        """The network in training, its boundary where it also lies outside of it."""
        kind = (batch, *_kind(variables))
        if kind not in self._cuts:
            key = jax.eval_shape(lambda: jax.random.key(0))
            collections = [name for name in variables if name != "params"]
            training = self._program(
                variables, batch, train=True, mutable=collections, rngs={"dropout": key}
            )
            # Dropout's division, for one, is no part of the other.
            self._cuts[kind] = training.restricted(
                self._program(variables, batch, train=False, mutable=False, rngs={})
            )
        return self._cuts[kind]

    def _program(
        self,
        variables: Any,
        batch: int,
        *,
        train: bool,
        mutable: Sequence[str] | bool,
        rngs: Mapping[str, jax.Array],
    ) -> program.Program:
        """The network's operations on a batch, and what each value depends on.

        Traced once for each kind of arguments: tracing takes longer than a step.
        """
        seen = mutable if isinstance(mutable, bool) else tuple(mutable)
        kind = (batch, train, seen, *_kind((variables, dict(rngs))))
        if kind in self._programs:
            return self._programs[kind]

        def whole(images: jax.Array, variables: Any, rngs: Any) -> Any:
            found = self.apply_whole(
                variables, images, train=train, mutable=mutable, rngs=rngs or None
            )
            output, changed = (found, {}) if mutable is False else found
            logits = output[0] if isinstance(output, tuple) else output
            return logits, changed

        image = jax.ShapeDtypeStruct((batch, *self.image_shape), jnp.float32)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            (variables, dict(rngs)),
        )
        kinds = [Kind.PICTURE, *self._kinds(variables)]
        kinds += [Kind.TRAINED] * len(jax.tree.leaves(rngs))
        self._programs[kind] = program.Program(whole, (image, *shapes), kinds)
        return self._programs[kind]

    def _kinds(self, variables: Mapping[str, Any]) -> list[Kind]:
        """Of each variable, in the order of `jax.tree.leaves`."""
        trained = set(params.flatten(variables["params"])) - self.frozen

        def kind(path: tuple[Any, ...], leaf: Any) -> Kind:
            collection, *rest = [entry.key for entry in path]
            name = "/".join(rest)
            if collection == "params":
                fixed = name in self.frozen
            else:
                module = name.rpartition("/")[0]
                fixed = params.belongs(module, self.frozen, trained)
            return Kind.CONSTANT if fixed else Kind.TRAINED

        return jax.tree.leaves(jax.tree_util.tree_map_with_path(kind, variables))

    def _shapes(self, cut: program.Program) -> list[tuple[int, ...]]:
        """Shapes of the features of one picture.

        Raises:
            ArgumentError: they are not one array of numbers a picture.
        """
        batch = cut.shapes[cut.inputs[0]].shape[0]
        found = [cut.shapes[value] for value in cut.boundary]
        for feature in found:
            own = feature.shape[:1] == (batch,)
            if not own or feature.dtype != jnp.float32:
                raise errors.ArgumentError(
                    f"below the boundary there is {feature.dtype}{list(feature.shape)} "
                    f"for {batch} pictures, but features are float32 [B, ...]; train "
                    "this network without stored features"
                )
        return [feature.shape[1:] for feature in found]


def _kind(tree: Any) -> tuple[Any, ...]:
    """What the trace of a function depends on of its arguments."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def _check_alone(expected: Any, found: np.ndarray) -> None:
    """Raises an ArgumentError where an image's features depend on another's."""
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(found).max()):
        raise errors.ArgumentError(
            "the frozen part of this network gives an image other features beside "
            "other images, as batch normalisation does in training; train it without "
            "stored features"
        )
