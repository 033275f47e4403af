"""Signs that a network hides its gradients, so that attacks fail and it is not robust.

Those of Athalye et al. 2018 (arXiv 1802.00420), section 3.1, and the basic sanity tests
of Carlini et al. 2019 (arXiv 1902.06705). None of them proves robustness.
"""

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, gradient, running, sampling
from flaxnets.attack.evaluation import Evaluated
from flaxnets.train import evaluation, metrics
from flaxnets.train.evaluation import Apply

# What counts as chance: p-values from here on, for one attack that seems better.
_CHANCE = 0.01
# The share of pictures that noise may find beside what gradients find.
_FOUND_BY_NOISE = 0.01
# The relative change of a loss that could be rounding, or steps about a maximum.
_STILL = 1e-3


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A sign that accuracy under attack says little about robustness.

    Attributes:
        name: of the sign; see `masking_alarms`.
        meaning: what it says about the network or the attack.
        figures: what raised it, as JSON.
    """

    name: str
    meaning: str
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The alarm for `json.dumps`."""
        return dataclasses.asdict(self)


class _Probes(NamedTuple):
    """Attacks of which it is known how they compare where gradients lead somewhere."""

    ladder: dict[int, base.Attack]
    unbounded: base.Attack
    noise: base.Attack


def masking_alarms(
    evaluated: Evaluated,
    apply: Apply,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    black_box: Collection[str],
    epsilon: float,
    steps: int = 40,
    samples: int = 100,
    batch_size: int = 500,
) -> list[Alarm]:
    """Looks for hidden gradients in a table, and by attacks made for it.

    In the table, where "clearly" is McNemar's exact test at 1 %:
        black_box_stronger: fewer pictures stand, clearly, under an attack that knows no
            gradients than under all the others together.
        epsilon_without_effect: under an attack that follows gradients no fewer pictures
            stand with the greatest epsilon than with the least (than without attack, if
            there is only one), or clearly more than with the next smaller one.

    By PGD from the pictures themselves, with 1, steps / 4 and all steps:
        loss_does_not_rise: it is clearly smaller after more steps, or no greater than
            without attack for half of the pictures.
        one_step_stronger: clearly fewer pictures stand than with all steps.
        unbounded_attack_fails: pictures stand although any picture is allowed.
        random_noise_succeeds: points of the ball drawn at random are misclassified for
            more than 1 % of the pictures, all of which stand under PGD.
        zero_gradients: pictures whose loss has a gradient of exactly zero.

    Args:
        evaluated: the table of this network.
        apply, variables: the network, see `running.run`; it must be differentiable, if
            only with gradients of zero.
        images: those of the table, or some of them; uint8, or floats in [0, 1],
            [N, H, W, C].
        labels: int[N], the true classes.
        key: of all that is drawn.
        black_box: those of the table's attacks that know no gradients of this network,
            such as Square's, or pictures made on another one.
        epsilon: of the attacks made here, best where the network seems robust.
        steps: of PGD.
        samples: points drawn for each picture.
        batch_size: pictures in a compiled call.

    Returns:
        One alarm for each sign; of those in the table one for each attack concerned.

    Raises:
        DataError: pictures or labels that cannot be used.
        ArgumentError: no picture is classified rightly; names that the table does not
            have, no attack of one of the two kinds; an option out of its range; or what
            `running.run` refuses.
    """
    norm = evaluated.norm
    epsilon = base.checked_epsilon(epsilon, norm)
    if epsilon == 0 or steps < 2:
        raise errors.ArgumentError(
            f"epsilon is {epsilon} and steps is {steps}, but an attack that is to "
            "have an effect needs an epsilon above 0 and at least 2 steps"
        )
    base.check_at_least_one("samples", samples)
    base.check_at_least_one("batch_size", batch_size)
    without, following = _kinds(evaluated, black_box)
    images = running.checked_images(images)
    batch_size = min(batch_size, len(images))
    pixels = math.prod(images.shape[1:])
    probes = _probes(epsilon, norm, steps, samples, pixels)

    def attacked(attack: base.Attack) -> running.Attacked:
        return running.run(
            attack,
            apply,
            variables,
            images,
            labels,
            key=key,
            batch_size=batch_size,
            check_gradients=False,
        )

    ladder = {count: attacked(attack) for count, attack in probes.ladder.items()}
    whole = ladder[steps]
    right = whole.before == whole.labels
    if not right.any():
        raise errors.ArgumentError(
            f"the network classifies none of the {right.size} images rightly, so that "
            "there is nothing to attack; check the labels and its preprocessing"
        )
    odds = {
        count: _odds_against(
            running.predict(apply, variables, points, batch_size)[right],
            whole.labels[right],
        )
        for count, points in (
            (0, images),
            *((count, found.images) for count, found in ladder.items()),
        )
    }
    flat = np.concatenate(
        [
            np.asarray(running.steepness(apply, variables, batch, its)) == 0
            for (_, batch), (_, its) in zip(
                evaluation.batches(images, batch_size),
                evaluation.batches(whole.labels, batch_size),
                strict=True,
            )
        ]
    )[: len(images)]
    found = [
        *(_of_black_box(evaluated, name, following) for name in without),
        *(_of_epsilons(evaluated, name) for name in following),
        _of_losses(epsilon, odds),
        _of_one_step(epsilon, ladder, steps),
        _of_everything(attacked(probes.unbounded), _everything(norm, pixels), steps),
        _of_noise(epsilon, attacked(probes.noise), ladder, samples),
        _of_zeros(flat),
    ]
    return [alarm for alarm in found if alarm is not None]


def robustness_report(evaluated: Evaluated, alarms: Collection[Alarm]) -> str:
    """Plain text: the table, and a warning for each alarm with what raised it."""
    lines = [evaluated.table(), ""]
    for alarm in alarms:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {_shown(value)}"
            for name, value in alarm.figures.items()
        )
        lines.append(f"warning: {alarm.name}: {alarm.meaning} ({figures})")
    if not alarms:
        lines.append("no sign of hidden gradients, which proves no robustness")
    return "\n".join(lines)


def _of_black_box(
    evaluated: Evaluated, name: str, following: Collection[str]
) -> Alarm | None:
    """For the epsilon where it is the most ahead."""
    standing = {(row.attack, row.epsilon): row.standing for row in evaluated.rows}
    ahead = []
    for epsilon in evaluated.epsilons:
        others = np.all([standing[other, epsilon] for other in following], axis=0)
        its = standing[name, epsilon]
        if _clearly_fewer(its, others):
            gap = float(others.mean() - its.mean())
            ahead.append((gap, epsilon, its, others))
    if not ahead:
        return None
    _, epsilon, its, others = max(ahead, key=lambda found: found[0])
    return Alarm(
        "black_box_stronger",
        "an attack that knows no gradients breaks more pictures than those that follow "
        "them: the gradients mislead, and the accuracy under the others is too high",
        {
            "attack": name,
            "epsilon": epsilon,
            "accuracy": float(its.mean()),
            "accuracy_under_others": float(others.mean()),
            "broken_by_it_alone": int(np.sum(others & ~its)),
        },
    )


def _of_epsilons(evaluated: Evaluated, name: str) -> Alarm | None:
    rows = [row for row in evaluated.rows if row.attack == name]
    standing = [evaluated.clean, *(row.standing for row in rows)]
    least, greatest = standing[min(1, len(rows) - 1)], standing[-1]
    rises = any(
        _clearly_fewer(smaller, larger)
        for smaller, larger in zip(standing[:-1], standing[1:], strict=True)
    )
    if not rises and not greatest.sum() >= least.sum() > 0:
        return None
    return Alarm(
        "epsilon_without_effect",
        "an attack with more room does not break more pictures: it does not use the "
        "room, for want of gradients or of steps, or all epsilons are too small",
        {
            "attack": name,
            "epsilons": [0.0, *(row.epsilon for row in rows)],
            "accuracies": [float(its.mean()) for its in standing],
        },
    )


def _of_losses(epsilon: float, odds: dict[int, np.ndarray]) -> Alarm | None:
    counts = list(odds)
    sinks = False
    for fewer, more in zip(counts[:-1], counts[1:], strict=True):
        rising = _rises(odds[fewer], odds[more])
        sinks |= _clearly_fewer(rising, _rises(odds[more], odds[fewer]))
    risen = _rises(odds[0], odds[counts[-1]])
    if not sinks and risen.mean() > 0.5:
        return None
    return Alarm(
        "loss_does_not_rise",
        "more steps along the gradient do not make the loss greater: the gradient "
        "does not lead to where it is, or the steps are too long or too short",
        {
            "epsilon": epsilon,
            "steps": counts,
            # softplus of the odds is the cross-entropy.
            "losses": [float(np.logaddexp(0, its).mean()) for its in odds.values()],
            "share_risen": float(risen.mean()),
        },
    )


def _of_one_step(
    epsilon: float, ladder: dict[int, running.Attacked], steps: int
) -> Alarm | None:
    one, many = (ladder[count].after == ladder[1].labels for count in (1, steps))
    right = ladder[1].before == ladder[1].labels
    if not _clearly_fewer(one & right, many & right):
        return None
    return Alarm(
        "one_step_stronger",
        "one step breaks more pictures than many: the many are caught in bumps of the "
        "loss near the picture, which a long step passes over",
        {
            "epsilon": epsilon,
            "accuracy_after_one_step": float(np.mean(one & right)),
            "steps": steps,
            "accuracy_after_all": float(np.mean(many & right)),
        },
    )


def _of_everything(found: running.Attacked, epsilon: float, steps: int) -> Alarm | None:
    standing = (found.before == found.labels) & ~found.fooled
    if not standing.any():
        return None
    return Alarm(
        "unbounded_attack_fails",
        "an attack that may turn a picture into any other one does not break them all: "
        "it does not find what is certainly there, and what it misses within epsilon "
        "may be there too",
        {
            "epsilon": epsilon,
            "steps": steps,
            "accuracy": float(standing.mean()),
            "standing": int(standing.sum()),
        },
    )


def _of_noise(
    epsilon: float,
    noisy: running.Attacked,
    ladder: dict[int, running.Attacked],
    samples: int,
) -> Alarm | None:
    right = noisy.before == noisy.labels
    by_gradient = np.any([found.fooled for found in ladder.values()], axis=0)
    alone = right & noisy.fooled & ~by_gradient
    if alone.sum() <= _FOUND_BY_NOISE * right.sum():
        return None
    return Alarm(
        "random_noise_succeeds",
        "random noise breaks pictures that withstand the attack along gradients: "
        "adversarial pictures are so common that it had to find one",
        {
            "epsilon": epsilon,
            "samples": samples,
            "accuracy_under_noise": float(np.mean(right & ~noisy.fooled)),
            "accuracy_under_gradients": float(np.mean(right & ~by_gradient)),
            "broken_by_noise_alone": int(alone.sum()),
        },
    )


def _of_zeros(flat: np.ndarray) -> Alarm | None:
    if not flat.any():
        return None
    return Alarm(
        "zero_gradients",
        "the loss has no gradient at all at some pictures, so that attacks that follow "
        "it cannot move them: look for rounding, steps and logits that are so large "
        "that softmax is 0 or 1",
        {"without_gradient": int(flat.sum()), "pictures": flat.size},
    )


@functools.lru_cache(maxsize=8)
def _probes(
    epsilon: float, norm: base.Norm, steps: int, samples: int, pixels: int
) -> _Probes:
    """Kept, so that further networks with the same `apply` compile nothing again."""
    # From the picture itself, where a random start would break some without gradients.
    return _Probes(
        {
            count: gradient.pgd(epsilon, norm, steps=count, random_start=False)
            for count in sorted({1, max(steps // 4, 1), steps})
        },
        gradient.pgd(
            _everything(norm, pixels),
            norm,
            steps=steps,
            random_start=False,
            stop_when_fooled=True,
        ),
        sampling.random_sampling(epsilon, norm, samples=samples),
    )


def _everything(norm: base.Norm, pixels: int) -> float:
    """The epsilon that allows all of [0, 1]."""
    return 1.0 if norm == "linf" else math.sqrt(pixels)


def _kinds(
    evaluated: Evaluated, black_box: Collection[str]
) -> tuple[list[str], list[str]]:
    """The names of attacks that know no gradients, and of those that follow them."""
    names = list(dict.fromkeys(row.attack for row in evaluated.rows))
    unknown = [name for name in black_box if name not in names]
    without = [name for name in names if name in black_box]
    following = [name for name in names if name not in black_box]
    if unknown or not without or not following:
        raise errors.ArgumentError(
            f"black_box is {list(black_box)}, but must name some and not all of the "
            f"attacks that were evaluated ({', '.join(names)}): both kinds are "
            "compared. Evaluate e.g. square, and name it"
        )
    return without, following


def _clearly_fewer(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether fewer of bool[N] are true than of another, and not by chance."""
    p_value = metrics.mcnemar(first, second)
    return bool(first.sum() < second.sum() and p_value < _CHANCE)


def _rises(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return after > before + _STILL * (1 + np.abs(before))


def _odds_against(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log((1 - p) / p) of the labels' probabilities p, f64[N].

    It rises as the cross-entropy does, which is rounded to zero where p is nearly one.
    """
    others = logits.astype(np.float64)
    its = np.take_along_axis(others, labels[:, None], axis=-1)[:, 0]
    np.put_along_axis(others, labels[:, None], -np.inf, axis=-1)
    return np.logaddexp.reduce(others, axis=-1) - its


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
