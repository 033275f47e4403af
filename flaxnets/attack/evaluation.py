"""Accuracy under attacks, the worst case over them, and what they do to others."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from flaxnets import errors
from flaxnets.attack import base, running
from flaxnets.report import html
from flaxnets.train import metrics
from flaxnets.train.evaluation import Apply

Factory = Callable[[float], base.Attack]
"""`epsilon -> attack`, such as `lambda epsilon: attack.pgd(epsilon, steps=100)`.

One that gives the same attack for the same epsilon (`functools.cache`) lets further
calls with the same `apply` use what is compiled already.
"""


@dataclasses.dataclass(frozen=True)
class Tried:
    """What one attack did with one epsilon.

    Attributes:
        attack: its name.
        epsilon: the bound of its perturbations.
        standing: bool[N], which pictures are classified rightly as they are and were
            not broken within epsilon.
        beyond: how many of those were broken farther away.
        linf: f64[F], the largest difference of a value, of the pictures that fell.
        l2: f64[F], the root of their sum of squared differences.
        seconds: that the attack and the predictions took, with compilation; next to
            none where it was run for another epsilon already.
    """

    attack: str
    epsilon: float
    standing: np.ndarray
    beyond: int
    linf: np.ndarray
    l2: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> float:
        """The share of pictures that stand."""
        return float(self.standing.mean())

    def as_json(self) -> dict[str, Any]:
        """The row for `json.dumps`; sizes are None where no picture fell."""
        sizes = {
            f"{name}_{kind}": float(reduce(values)) if values.size else None
            for name, values in (("linf", self.linf), ("l2", self.l2))
            for kind, reduce in (("mean", np.mean), ("max", np.max))
        }
        return {
            "attack": self.attack,
            "epsilon": self.epsilon,
            **_measured(self.standing),
            "beyond": self.beyond,
            **sizes,
            "seconds": self.seconds,
        }


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A classifier under several attacks, each with several epsilons.

    Attributes:
        norm: by which perturbations are bounded.
        clean: bool[N], which pictures are classified rightly as they are.
        rows: of each attack with each epsilon; the attacks in their order, each with
            the least epsilon first.
    """

    norm: base.Norm
    clean: np.ndarray
    rows: tuple[Tried, ...]

    @property
    def epsilons(self) -> list[float]:
        """From the least to the greatest."""
        return sorted({row.epsilon for row in self.rows})

    def worst_case(self, epsilon: float) -> np.ndarray:
        """Which pictures stand whatever was tried, bool[N].

        A picture falls if any attack broke it within epsilon. An attack with a smaller
        epsilon counts, since what it found is in the larger ball too. The mean is an
        upper bound of the accuracy under the best possible attack.
        """
        standing = [row.standing for row in self.rows if row.epsilon <= epsilon]
        return np.all([self.clean, *standing], axis=0)

    def as_json(self) -> dict[str, Any]:
        """All numbers of the table for `json.dumps`."""
        return {
            "norm": self.norm,
            "pictures": len(self.clean),
            "clean": _measured(self.clean),
            "attacks": [row.as_json() for row in self.rows],
            "worst_case": [
                {"epsilon": epsilon, **_measured(self.worst_case(epsilon))}
                for epsilon in self.epsilons
            ],
        }

    def table(self) -> str:
        """Plain text: the attacks and their worst case, by epsilon."""
        sizes = ("linf_mean", "linf_max", "l2_mean", "l2_max")
        heads = ("epsilon", "attack", "accuracy", "95 % interval")
        heads += tuple(size.replace("_", " ") for size in sizes) + ("beyond", "s")
        unmeasured = ["-"] * 6
        cells = [["0", "none", *_shown(self.clean), *unmeasured]]
        for epsilon in self.epsilons:
            named = f"{epsilon:.4g}"
            for row in self.rows:
                if row.epsilon != epsilon:
                    continue
                found = row.as_json()
                cells.append(
                    [
                        named,
                        row.attack,
                        *_shown(row.standing),
                        *(
                            "-" if found[size] is None else f"{found[size]:.4f}"
                            for size in sizes
                        ),
                        str(row.beyond),
                        f"{row.seconds:.1f}",
                    ]
                )
            worst = _shown(self.worst_case(epsilon))
            cells.append([named, "worst case", *worst, *unmeasured])
        return (
            f"{len(self.clean):,} pictures, {self.norm} norm, sizes of the pictures "
            f"that fell\n{html.table(heads, cells)}"
        )


@dataclasses.dataclass(frozen=True)
class Transferred:
    """What adversarial pictures made on one model do to the others.

    Attributes:
        epsilon, norm: the bound of the perturbations.
        attacks: A names.
        models: M names.
        clean: bool[M, N], which pictures each model classifies rightly as they are.
        standing: bool[A, M, M, N], which ones, made by this attack on the first model,
            stand with the second; see `Tried`.
    """

    epsilon: float
    norm: base.Norm
    attacks: tuple[str, ...]
    models: tuple[str, ...]
    clean: np.ndarray
    standing: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """Accuracies for `json.dumps`: `["attacks"][attack][made on][tried on]`."""

        def by_model(standing: np.ndarray) -> dict[str, Any]:
            return {
                model: _measured(its)
                for model, its in zip(self.models, standing, strict=True)
            }

        return {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "pictures": self.clean.shape[1],
            "clean": by_model(self.clean),
            "attacks": {
                attack: dict(zip(self.models, map(by_model, made), strict=True))
                for attack, made in zip(self.attacks, self.standing, strict=True)
            },
        }

    def table(self) -> str:
        """Plain text: a row for each attack and source, a column for each target."""

        def row(standing: np.ndarray) -> list[str]:
            return ["{} ({})".format(*_shown(its)) for its in standing]

        cells = [["none", "-", *row(self.clean)]]
        for attack, made in zip(self.attacks, self.standing, strict=True):
            for source, standing in zip(self.models, made, strict=True):
                cells.append([attack, source, *row(standing)])
        return (
            f"accuracy (95 % interval) of {self.clean.shape[1]:,} pictures, "
            f"{self.norm} norm at most {self.epsilon:.4g}\n"
            f"{html.table(('attack', 'made on', *self.models), cells)}"
        )


def evaluate(
    attacks: Mapping[str, Factory],
    apply: Apply,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    epsilons: Iterable[float],
    norm: base.Norm = "linf",
    batch_size: int = 500,
    check_gradients: bool = True,
    after_each: Callable[[Tried], None] | None = None,
) -> Evaluated:
    """Tries every attack with every epsilon on all pictures.

    What is believed is what is measured: a picture falls where another call of the
    network misclassifies it and its perturbation, in float64, is no larger than
    epsilon. An attack without a bound of its own (DeepFool, Carlini and Wagner's) is
    thus judged by the same rule, and `Tried.beyond` tells what was not counted. Which
    pictures stand is kept, so that attacks are never averaged; see
    `Evaluated.worst_case`.

    Args:
        attacks: by name, how each is made for an epsilon; untargeted, for this norm.
            One that has no epsilon is run once if it is the same object for all.
        apply, variables, images, labels: see `running.run`.
        key: of all that is drawn. Each attack draws its own, the same for all epsilons.
        epsilons: bounds of the perturbations, see `checked_epsilon`.
        norm: "linf" or "l2".
        batch_size: pictures in a compiled call. Each attack is compiled once for each
            epsilon.
        check_gradients: see `running.run`; done once.
        after_each: is called with each row as it is made, to tell what is under way.

    Raises:
        DataError: pictures or labels that cannot be used.
        ArgumentError: no attacks or no epsilons, epsilons out of their range, or what
            `running.run` refuses.

    Warns:
        GradientWarning: see `check_gradients`.
    """
    _check_some("attacks", attacks)
    bounds = sorted({base.checked_epsilon(epsilon, norm) for epsilon in epsilons})
    _check_some("epsilons", bounds)
    # All are made before any is run, so that wrong options are found at once.
    made = [
        (number, name, epsilon, factory(epsilon))
        for number, (name, factory) in enumerate(attacks.items())
        for epsilon in bounds
    ]
    rows = []
    clean = np.zeros(0, bool)

    # Of what has no epsilon, the next rows ask for the same again.
    @functools.lru_cache(maxsize=1)
    def attacked(number: int, attack: base.Attack) -> running.Attacked:
        return running.run(
            attack,
            apply,
            variables,
            images,
            labels,
            key=jax.random.fold_in(key, number),
            batch_size=batch_size,
            check_gradients=check_gradients and not rows,
        )

    for number, name, epsilon, attack in made:
        began = time.perf_counter()
        found = attacked(number, attack)
        seconds = time.perf_counter() - began
        clean = found.before == found.labels
        broken, inside = clean & found.fooled, _inside(found, epsilon, norm)
        fell = broken & inside
        rows.append(
            Tried(
                attack=name,
                epsilon=epsilon,
                standing=clean & ~fell,
                beyond=int(np.sum(broken & ~inside)),
                linf=found.linf[fell],
                l2=found.l2[fell],
                seconds=seconds,
            )
        )
        if after_each is not None:
            after_each(rows[-1])
    return Evaluated(norm, clean, tuple(rows))


def transfer(
    attacks: Mapping[str, Factory],
    models: Mapping[str, tuple[Apply, Any]],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    epsilon: float,
    norm: base.Norm = "linf",
    batch_size: int = 500,
    check_gradients: bool = True,
) -> Transferred:
    """Makes adversarial pictures on each model, and tries them on every model.

    The diagonal is what `evaluate` finds of the same attacks with the same key.

    Args:
        attacks: as for `evaluate`.
        models: by name, `apply` and its variables; all of the same classes, and of
            pictures of this size.
        images, labels, key, norm, batch_size: as for `evaluate`.
        epsilon: bound of the perturbations, see `checked_epsilon`.
        check_gradients: see `running.run`; done once for each model.

    Raises:
        DataError, ArgumentError: as for `evaluate`, or no models.

    Warns:
        GradientWarning: see `check_gradients`.
    """
    _check_some("attacks", attacks)
    _check_some("models", models)
    epsilon = base.checked_epsilon(epsilon, norm)
    made = [factory(epsilon) for factory in attacks.values()]
    clean, standing = [], []
    for number, attack in enumerate(made):
        found = [
            running.run(
                attack,
                apply,
                variables,
                images,
                labels,
                key=jax.random.fold_in(key, number),
                batch_size=batch_size,
                check_gradients=check_gradients and number == 0,
            )
            for apply, variables in models.values()
        ]
        clean = [its.before == its.labels for its in found]
        rows = []
        for source, its in enumerate(found):
            inside = _inside(its, epsilon, norm)
            row = []
            for target, (apply, variables) in enumerate(models.values()):
                after = its.after
                if target != source:
                    logits = running.predict(apply, variables, its.images, batch_size)
                    after = logits.argmax(axis=-1)
                row.append(clean[target] & ((after == its.labels) | ~inside))
            rows.append(row)
        standing.append(rows)
    return Transferred(
        epsilon=epsilon,
        norm=norm,
        attacks=tuple(attacks),
        models=tuple(models),
        clean=np.array(clean),
        standing=np.array(standing),
    )


def _inside(found: running.Attacked, epsilon: float, norm: base.Norm) -> np.ndarray:
    return (found.linf if norm == "linf" else found.l2) <= epsilon


def _measured(standing: np.ndarray) -> dict[str, Any]:
    right, count = int(standing.sum()), len(standing)
    return {
        "accuracy": right / count,
        "accuracy_interval": list(metrics.accuracy_interval(right, count)),
    }


def _shown(standing: np.ndarray) -> tuple[str, str]:
    low, high = metrics.accuracy_interval(int(standing.sum()), len(standing))
    return f"{standing.mean():.2%}", f"{low:.2%} to {high:.2%}"


def _check_some(name: str, given: Any) -> None:
    if not given:
        raise errors.ArgumentError(f"{name} is empty, but must hold at least one")
