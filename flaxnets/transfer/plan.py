"""A way of transferring, applied to a network."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors, params
from flaxnets.data import Split
from flaxnets.data.augmentation import Augmentation
from flaxnets.models import freezing
from flaxnets.transfer import modes
from flaxnets.transfer.boundary import Boundary


class Plan:
    """What a mode freezes in a network, and what it is therefore trained on.

    >>> plan = transfer.Plan(model, (224, 224, 3), "feature_extraction")
    >>> step = train.make_step(
    ...     losses.classification(plan.apply), optimizer, frozen=plan.frozen
    ... )
    >>> seen = plan.seen(variables, dataset.train)

    Args:
        model: such as `models.WithHead`.
        image_shape: [H, W, C].
        mode: see `transfer.frozen_globs`.
        up_to: the last layer that `partial_fine_tuning` freezes.
        body: the subtree that is transferred.
        stored: whether what lies below the frozen boundary is computed once and kept,
            so that training sees features in place of images. Off where images are
            to be augmented anew in each step.

    Attributes:
        frozen: names of the frozen parameters.
        apply: what losses and evaluators take, of what `seen` returns.

    Raises:
        ArgumentError: see `transfer.frozen_globs`.
    """

    def __init__(
        self,
        model: Any,
        image_shape: Sequence[int],
        mode: modes.Mode,
        *,
        up_to: str | None = None,
        body: str = "backbone",
        stored: bool = True,
    ) -> None:
        shape = (1, *image_shape)
        globs = modes.frozen_globs(mode, model, shape, up_to=up_to, body=body)
        tree = params.abstract(model, shape)["params"]
        self.mode = mode
        self._model, self._shape = model, tuple(image_shape)
        self.frozen = params.select(tree, globs) if globs else ()
        self.boundary: Boundary | None = None
        if not globs:
            self.apply = model.apply
        elif stored:
            self.boundary = Boundary(model, self.frozen, image_shape)
            self.apply = self.boundary.apply
        else:
            self.apply = freezing.apply_frozen(model, self.frozen)

    def seen(
        self,
        variables: Any,
        split: Split,
        *,
        batch_size: int = 32,
        augment: Augmentation | None = None,
        views: int = 1,
        key: jax.Array | None = None,
        folder: Path | None = None,
    ) -> Split:
        """The split as it is trained on: with features for images where some are kept.

        With stored views of augmented images, each view is an example of its own.

        Args:
            variables: of the whole network.
            split: images and labels.
            batch_size, augment, views, key, folder: see `Boundary.features`; without
                a boundary the images are returned as they are, to be augmented in
                each step.
        """
        if self.boundary is None:
            return split
        features = self.boundary.features(
            variables,
            split.images,
            batch_size=batch_size,
            augment=augment,
            views=views,
            key=key,
            folder=folder,
        )
        return Split(features, np.tile(split.labels, views))

    def flops(self, variables: Any) -> tuple[int, int]:
        """FLOPs of a training step for each picture, by this plan and by fine-tuning.

        Those of convolutions and products, forward and backward. What is stored is
        not counted in either: the plan's is a step on features where some are kept.

        Args:
            variables: of the whole network, or their shapes and types.
        """

        def step(apply: Callable[..., Any], frozen: Sequence[str], seen: Any) -> int:
            collections = [name for name in variables if name != "params"]

            def total(free: Any, fixed: Any, rest: Any, key: Any, pictures: Any) -> Any:
                found, _ = apply(
                    {"params": params.merge(free, fixed), **rest},
                    pictures,
                    train=True,
                    rngs={"dropout": key},
                    mutable=collections,
                )
                return jnp.sum(found[0])

            fixed, free = params.split(variables["params"], frozen)
            rest = {name: variables[name] for name in collections}
            key = jax.random.key(0)
            return params.flops(jax.value_and_grad(total), free, fixed, rest, key, seen)

        image = jax.ShapeDtypeStruct((1, *self._shape), jnp.float32)
        seen = image
        if self.boundary is not None:
            size = self.boundary.size(variables)
            seen = jax.ShapeDtypeStruct((1, size), jnp.float32)
        return step(self.apply, self.frozen, seen), step(self._model.apply, (), image)


def transplanted(
    variables: Mapping[str, Any], body: Mapping[str, Any], name: str = "backbone"
) -> dict[str, Any]:
    """Variables of a network, with those of a trained body in their place.

    Args:
        variables: of the whole network, newly drawn.
        body: variables of the body alone, as `flaxnets.create` or a checkpoint give
            them; what the network has no place for (a head) must be gone.
        name: the subtree that the body becomes.

    Raises:
        ArgumentError: names or shapes differ, with the differences.
    """
    found = {}
    for collection, tree in variables.items():
        if name not in tree:
            found[collection] = tree
            continue
        given = body.get(collection, {})
        if lines := params.differences(tree[name], given):
            raise errors.ArgumentError(
                f"the body does not fit {collection}/{name}: {'; '.join(lines[:5])}"
            )
        # Copies, since training gives its buffers away.
        found[collection] = {**tree, name: jax.tree.map(jax.numpy.copy, given)}
    return found
