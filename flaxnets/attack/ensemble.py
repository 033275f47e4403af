"""Several attacks, each on the pictures that the ones before it have left standing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, running
from flaxnets.attack.apgd import apgd
from flaxnets.attack.fab import fab
from flaxnets.attack.square import square
from flaxnets.train import evaluation

Version = Literal["standard", "gradient"]


def auto_attack(
    epsilon: float, norm: base.Norm = "linf", version: Version = "standard"
) -> dict[str, base.Attack]:
    """The attacks of AutoAttack by name, in order, for `worst_case`.

    Croce and Hein 2020 (arXiv 2003.01690), section 5, the four of their standard
    version: APGD on the cross-entropy, APGD on the targeted difference of logits ratio
    and targeted FAB, both for the 9 likeliest other classes, and Square with 5,000
    queries; one run of each, of 100 steps where there are steps. It takes at least 4
    classes.

    Args:
        epsilon: bound of the perturbation, see `checked_epsilon`.
        norm: "linf" or "l2".
        version: "standard", or "gradient" for the two APGD alone, which see nothing
            where the network hides its gradients.

    Raises:
        ArgumentError: an unknown version, or epsilon out of its range.
    """
    if version not in get_args(Version):
        raise errors.ArgumentError(
            f"version is {version!r}, but must be one of {', '.join(get_args(Version))}"
        )
    attacks = {
        "apgd_ce": apgd(epsilon, norm, loss="ce"),
        "apgd_dlr_targeted": apgd(epsilon, norm, loss="dlr", targets=9),
    }
    if version == "standard":
        attacks["fab_targeted"] = fab(epsilon, norm)
        attacks["square"] = square(epsilon, norm)
    return attacks


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """What several attacks have done so far; numpy arrays, to be saved as they are.

    Attributes:
        images: f32[N, H, W, C], adversarial where broken, else as they were given.
        broken_by: int32[N], which of the attacks broke each picture: 1 for the first;
            0 where it was misclassified as it is, and -1 where it stands.
        tried: int32[N], how many stages each has gone through, of which the prediction
            of the picture as it is was the first.
    """

    images: np.ndarray
    broken_by: np.ndarray
    tried: np.ndarray

    def standing(self, stage: int) -> float:
        """The share that stands after a stage; 0 is the accuracy without attack."""
        return float(np.mean((self.broken_by < 0) | (self.broken_by > stage)))


def worst_case(
    attacks: Mapping[str, base.Attack],
    apply: evaluation.Apply,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 500,
    check_gradients: bool = True,
    progress: WorstCase | None = None,
    after_batch: Callable[[WorstCase], None] | None = None,
) -> WorstCase:
    """Attacks pictures until one attack breaks them or all have failed.

    An attack gets full batches of the pictures that still stand, and its claim is
    checked by a call of the network apart from its own. Each picture has a key of its
    own for each attack, made of `key`, the attack's number and the picture's place: a
    run that goes on from saved progress ends as if it had not been interrupted.

    Args:
        attacks: by name, in order; each takes a key for each picture, as the library's
            do, and was made untargeted. What they return counts at any distance: one
            without an epsilon, such as `deepfool`, breaks nearly everything.
        apply, variables: the network, see `run`.
        images: uint8, or floats in [0, 1], [N, H, W, C].
        labels: int[N], the true classes.
        key: of all that is drawn.
        batch_size: pictures in a compiled call. The last call of an attack is padded
            to a power of two.
        check_gradients: as in `run`; not where it goes on from progress.
        progress: of an earlier call with the same other arguments, to go on from.
        after_batch: is called with the progress after each batch, to save it. The next
            batch changes its arrays.

    Raises:
        DataError: pictures or labels that cannot be used.
        ArgumentError: a network that does not return logits, progress of other
            pictures, or an attack that left [0, 1].

    Warns:
        GradientWarning: see `check_gradients`.
    """
    base.check_at_least_one("batch_size", batch_size)
    images = running.checked_images(images)
    labels = running.checked_labels(
        labels, len(images), running.count_classes(apply, variables, images)
    )
    if check_gradients and progress is None:
        running.warn_of_no_gradients(
            apply, variables, images[:batch_size], labels[:batch_size]
        )
    found = _begun(images) if progress is None else _copied(progress, images)
    stages = [None, *attacks.values()]
    for number, attack in enumerate(stages):
        its_key = jax.random.fold_in(key, number)
        while True:
            waiting = (found.broken_by < 0) & (found.tried == number)
            places = np.flatnonzero(waiting)[:batch_size]
            if places.size == 0:
                break
            padded = np.resize(places, _padded(len(places), batch_size))
            batch = images[padded]
            if attack is not None:
                batch = running.attacked(
                    attack, apply, variables, batch, labels[padded], its_key, padded
                )
                running.check_found(np.asarray(batch)[: len(places)])
            logits = np.asarray(running.logits(apply, variables, batch))
            if attack is None:
                running.check_logits(logits)
            count = len(places)
            broken = logits[:count].argmax(axis=-1) != labels[places]
            found.images[places[broken]] = np.asarray(batch)[:count][broken]
            found.broken_by[places[broken]] = number
            found.tried[places] = number + 1
            if after_batch is not None:
                after_batch(found)
    return found


def _padded(count: int, batch_size: int) -> int:
    """The next power of two, up to a whole batch: few shapes are compiled."""
    return min(1 << (count - 1).bit_length(), batch_size)


def _begun(images: np.ndarray) -> WorstCase:
    return WorstCase(
        images.copy(),
        np.full(len(images), -1, np.int32),
        np.zeros(len(images), np.int32),
    )


def _copied(progress: WorstCase, images: np.ndarray) -> WorstCase:
    """Progress whose arrays may be changed, once it is known to be of these images."""
    standing = progress.broken_by < 0
    if progress.images.shape != images.shape or not np.array_equal(
        progress.images[standing], images[standing]
    ):
        raise errors.ArgumentError(
            f"progress is of pictures {list(progress.images.shape)} that are not the "
            f"images {list(images.shape)} given; give the images it began with, or "
            "leave progress out to begin anew"
        )
    return WorstCase(
        *(
            np.array(getattr(progress, field.name))
            for field in dataclasses.fields(progress)
        )
    )
