"""A way of transferring, applied to a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from flaxnets import errors, params
from flaxnets.data import Split
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
            augmented.

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
        self.frozen = params.select(tree, globs) if globs else ()
        self.boundary: Boundary | None = None
        if not globs:
            self.apply = model.apply
        elif stored:
            self.boundary = Boundary(model, self.frozen, image_shape)
            self.apply = self.boundary.apply
        else:
            self.apply = freezing.apply_frozen(model, self.frozen)

    def seen(self, variables: Any, split: Split, *, batch_size: int = 32) -> Split:
        """The split as it is trained on: with features for images where some are kept.

        Args:
            variables: of the whole network.
            split: images and labels.
            batch_size: images at a time.
        """
        if self.boundary is None:
            return split
        features = self.boundary.features(
            variables, split.images, batch_size=batch_size
        )
        return split._replace(images=features)


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
