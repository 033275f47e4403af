"""What attacks of every kind do to the study's classifiers, and what the noise is."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import adversarial_training as training
from flaxnets import attack, console, data
from flaxnets.report import html
from flaxnets.train import metrics
from flaxnets.train.evaluation import Apply

AttackName = Literal["fgsm", "pgd_40", "deepfool", "apgd_ce", "square"]
ATTACKS: tuple[AttackName, ...] = ("fgsm", "pgd_40", "deepfool", "apgd_ce", "square")
# Those that follow gradients within a bound of their own, by which alarms are raised.
FOLLOWING = ("fgsm", "pgd_40", "apgd_ce")
# Those whose adversarial pictures are tried on the other classifiers.
TRANSFERRED = ("fgsm", "pgd_40")
# Epsilons of the table, as shares of the study's.
SHARES = (0.25, 0.5, 0.75, 1.0)
# A step of the evaluation's PGD: 0.01 where epsilon is 0.3.
PGD_STEPS, PGD_SHARE = 40, 1 / 30
# Frequencies that count as low, in periods a pixel: a period of 8 pixels and more.
LOW = 1 / 8
# A value counts as at its bound from this share of epsilon on.
AT_BOUND = 0.99


class Noise(NamedTuple):
    """What a generator makes of pictures, and what that makes of a classifier.

    Attributes:
        found: the pictures with noise, and their classes.
        mean: f64[H, W], the mean over pictures and channels of the noise as shown.
        spectrum: f64[H, W], the mean power of each frequency, the lowest in the middle.
        confusion: int64[K, K]: row = true class, column = what it is taken for.
        numbers: what is said of it in numbers.
    """

    found: attack.Attacked
    mean: np.ndarray
    spectrum: np.ndarray
    confusion: np.ndarray
    numbers: dict[str, Any]


class Classifier(NamedTuple):
    """A classifier that is measured.

    Attributes:
        variables: its own.
        seconds: of its trainings; None where it was given.
        generators: those that were trained by its gradients.
    """

    variables: Any
    seconds: float | None
    generators: tuple[str, ...]


class Bench:
    """Attacks on classifiers with one `apply`, each compiled once for all of them.

    Args:
        apply: of the classifiers.
        names: attacks to try besides the noise.
        noises: generators' variables, by the names of their trainings.
        generator: `apply` of the generators.
        pictures: that are attacked.
        classes: how many there are.
        epsilon: largest change of a value; the generators' own.
        queries: of Square.
        together: pictures in a compiled call.
        key: of all that is drawn.
    """

    def __init__(
        self,
        apply: Apply,
        names: Sequence[AttackName],
        noises: Mapping[str, Any],
        generator: Apply,
        *,
        pictures: data.Split,
        classes: int,
        epsilon: float,
        queries: int,
        together: int,
        key: jax.Array,
    ) -> None:
        self._apply, self._pictures, self._classes = apply, pictures, classes
        self._epsilon, self._together, self._key = epsilon, together, key
        self._learned = {
            name: attack.learned_noise(generator, variables)
            for name, variables in noises.items()
        }
        factories = _factories(queries)
        self._attacks: dict[str, Callable[[float], attack.Attack]] = {
            name: factories[name] for name in names
        }
        self._attacks |= {
            f"noise_{name}": _smaller(made, epsilon)
            for name, made in self._learned.items()
        }

    def tried(
        self, variables: Any, own: Collection[str], auto_attack: bool
    ) -> dict[str, Any]:
        """A classifier under all attacks with all epsilons, and what looks wrong.

        Args:
            variables: of the classifier.
            own: the generators that were trained by its gradients.
            auto_attack: whether AutoAttack is run too.
        """
        images, labels = self._pictures
        evaluated = attack.evaluate(
            self._attacks,
            self._apply,
            variables,
            images,
            labels,
            key=self._key,
            epsilons=[share * self._epsilon for share in SHARES],
            batch_size=self._together,
            after_each=lambda row: console.say(
                f"  {row.attack} at {row.epsilon:.3g}: {row.accuracy:.2%} stand "
                f"({row.seconds:.0f} s)"
            ),
        )
        # DeepFool has no bound that it could make use of.
        bounded = [row for row in evaluated.rows if row.attack != "deepfool"]
        alarms: list[attack.Alarm] = []
        if evaluated.clean.any():
            alarms = attack.masking_alarms(
                dataclasses.replace(evaluated, rows=tuple(bounded)),
                self._apply,
                variables,
                images,
                labels,
                key=self._key,
                black_box=[
                    name
                    for name in self._attacks
                    if name == "square"
                    or name.startswith("noise_")
                    and name.removeprefix("noise_") not in own
                ],
                epsilon=self._epsilon,
                batch_size=self._together,
            )
        largest = evaluated.epsilons[-1]
        accuracies = {
            row.attack: row.accuracy for row in evaluated.rows if row.epsilon == largest
        }
        standing, stages = evaluated.worst_case(largest), None
        if auto_attack:
            stages, after = self._auto_attacked(variables)
            standing = standing & after
        return {
            "clean_accuracy": float(evaluated.clean.mean()),
            "pgd_40_accuracy": accuracies.get("pgd_40"),
            "worst_case_accuracy": float(standing.mean()),
            "auto_attack": stages,
            # In the order of the attacks: what the last one leaves.
            "auto_attack_accuracy": [*stages.values()][-1] if stages else None,
            "evaluated": evaluated.as_json(),
            "alarms": [alarm.as_json() for alarm in alarms],
            "text": attack.robustness_report(evaluated, alarms),
        }

    def _auto_attacked(self, variables: Any) -> tuple[dict[str, float], np.ndarray]:
        """What AutoAttack's attacks leave, one after the other, and which pictures."""
        found = attack.worst_case(
            _auto_attack(self._epsilon),
            self._apply,
            variables,
            *self._pictures,
            # Its Square is not to search as the table's does.
            key=jax.random.fold_in(self._key, 1),
            batch_size=self._together,
            # The table's attacks have told.
            check_gradients=False,
        )
        stages = ["none", *_auto_attack(self._epsilon)]
        left = {name: found.standing(stage) for stage, name in enumerate(stages)}
        return left, found.broken_by < 0

    def transferred(self, classifiers: Mapping[str, Any]) -> dict[str, Any]:
        """What adversarial pictures made on each classifier do to the others."""
        names = [name for name in TRANSFERRED if name in self._attacks]
        names = names or [name for name in FOLLOWING if name in self._attacks]
        factories = {name: self._attacks[name] for name in names}
        found = attack.transfer(
            factories,
            {name: (self._apply, its) for name, its in classifiers.items()},
            *self._pictures,
            key=self._key,
            epsilon=self._epsilon,
            batch_size=self._together,
            check_gradients=False,
        )
        return {"transfer": found.as_json(), "text": found.table()}

    def noise(self, name: str, variables: Any) -> Noise:
        """What a generator's noise is, and does to a classifier.

        Args:
            name: of the generator.
            variables: of the classifier.
        """
        images, labels = self._pictures
        found = attack.run(
            self._learned[name],
            self._apply,
            variables,
            images,
            labels,
            key=self._key,
            batch_size=self._together,
            check_gradients=False,
        )
        noise = found.images.astype(np.float64) - images.astype(np.float32) / 255
        mean, spectrum = noise.mean(axis=0), _spectrum(noise)
        confusion = metrics.confusion_matrix(found.after, found.labels, self._classes)
        victims = (found.before == found.labels) & found.fooled
        taken_for = np.bincount(found.after[victims], minlength=self._classes)
        low = _frequencies(noise.shape[1:3]) <= LOW
        energy = float(np.square(noise).sum()) / len(noise)
        numbers = {
            "misclassified": 1 - found.accuracy_after,
            "success_rate": found.success_rate,
            "l2_mean": float(found.l2.mean()),
            "linf_max": float(found.linf.max()),
            "at_bound_share": float(np.mean(np.abs(noise) >= AT_BOUND * self._epsilon)),
            # One if all pictures were given the same noise.
            "common_share": _share(float(np.square(mean).sum()), energy),
            "low_frequency_share": _share(
                float(spectrum[low].sum()), float(spectrum.sum())
            ),
            "low_frequency_share_of_white_noise": float(low.mean()),
            "taken_for": taken_for.tolist(),
            "commonest_share": _share(int(taken_for.max()), int(taken_for.sum())),
        }
        return Noise(found, mean.mean(axis=-1), spectrum, confusion, numbers)


def measured(
    bench: Bench,
    classifiers: Mapping[str, Classifier],
    course: training.Course,
    auto_attack: bool,
) -> list[dict[str, Any]]:
    """The rows of all classifiers, and that of the transfer, each made once.

    Args:
        bench: the attacks.
        classifiers: by name.
        course: keeps the rows.
        auto_attack: whether AutoAttack is run too.
    """
    done = {row["defence"] for row in course.rows if "defence" in row}
    for defence, its in classifiers.items():
        if defence not in done:
            console.say(f"attacks: {defence}")
            found = bench.tried(its.variables, its.generators, auto_attack)
            course.log({"defence": defence, "seconds": its.seconds, **found})
        (row,) = (row for row in course.rows if row.get("defence") == defence)
        console.say(row["text"])
        console.say(line(row))
    if not any("transfer" in row for row in course.rows):
        console.say("attacks: of each classifier's pictures on the others")
        named = {name: its.variables for name, its in classifiers.items()}
        course.log(bench.transferred(named))
    rows = [row for row in course.rows if "defence" in row or "transfer" in row]
    console.say(next(row["text"] for row in rows if "transfer" in row))
    return rows


def line(row: Mapping[str, Any]) -> str:
    """What one classifier withstands."""
    return (
        f"{row['defence']}: clean {row['clean_accuracy']:.2%}, PGD-{PGD_STEPS} "
        f"{_percent(row['pgd_40_accuracy'])}, worst of all attacks "
        f"{row['worst_case_accuracy']:.2%}, AutoAttack "
        f"{_percent(row['auto_attack_accuracy'])} "
        f"({_seconds(row['seconds'])} s of training)"
        + "".join(f"; warning: {alarm['name']}" for alarm in row["alarms"])
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The defences side by side, as text."""
    heads = ("defence", "seconds", "clean", f"PGD-{PGD_STEPS}", "worst of all attacks")
    cells = [
        (
            row["defence"],
            _seconds(row["seconds"]),
            f"{row['clean_accuracy']:.2%}",
            _percent(row["pgd_40_accuracy"]),
            f"{row['worst_case_accuracy']:.2%}",
            _percent(row["auto_attack_accuracy"]),
            ", ".join(alarm["name"] for alarm in row["alarms"]) or "-",
        )
        for row in rows
    ]
    return html.table((*heads, "AutoAttack", "alarms"), cells)


def _factories(queries: int) -> dict[AttackName, Callable[[float], attack.Attack]]:
    """How each attack is made, the same one for the same epsilon."""
    # It knows no epsilon: what it does farther away does not count.
    deepfool = attack.deepfool()
    makers: dict[AttackName, Callable[[float], attack.Attack]] = {
        "fgsm": attack.fgsm,
        "pgd_40": lambda epsilon: attack.pgd(
            epsilon, steps=PGD_STEPS, step_size=PGD_SHARE * epsilon
        ),
        "deepfool": lambda epsilon: deepfool,
        "apgd_ce": attack.apgd,
        "square": lambda epsilon: attack.square(epsilon, queries=queries),
    }
    return {name: functools.cache(make) for name, make in makers.items()}


_auto_attack = functools.cache(attack.auto_attack)


def _smaller(learned: attack.Attack, whole: float) -> Callable[[float], attack.Attack]:
    """Learned noise made smaller, since its generator has only one epsilon."""

    @functools.cache
    def make(epsilon: float) -> attack.Attack:
        def made(
            logits: attack.Logits, images: jax.Array, labels: jax.Array, key: jax.Array
        ) -> jax.Array:
            found = learned(logits, images, labels, key)
            nearer = images + (epsilon / whole) * (found - images)
            return attack.within(images, nearer, epsilon, "linf")

        return made

    return make


def _frequencies(shape: Sequence[int]) -> np.ndarray:
    """Of each place of a spectrum, in periods a pixel, f64[H, W]."""
    height, width = (np.fft.fftshift(np.fft.fftfreq(size)) for size in shape)
    return np.hypot(height[:, None], width[None])


def _spectrum(noise: np.ndarray) -> np.ndarray:
    """See `Noise.spectrum`, of f64[N, H, W, C]."""
    power = np.square(np.abs(np.fft.fft2(noise, axes=(1, 2)))).mean(axis=(0, 3))
    return np.fft.fftshift(power)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
