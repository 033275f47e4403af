"""The lecture's last idea: a network makes the noise that misleads a classifier.

    python -m experiments.adversarial
    python -m experiments.adversarial --weights runs/mnist-001
    python -m experiments.adversarial --weights lenet_mnist_legacy.pth
    python -m experiments.adversarial --defence none pgd trades fgsm game --auto-attack
    python -m experiments.adversarial --dataset cats_dogs pictures.zip \
        --backbone squeezenet_caffe --weights squeezenet_v1_caffe.npz --game-rate 1e-4

First a classifier is trained or taken, then a generator of noise against it as it is,
then both at once, with opposite objectives (Wang and Yu 2019, arXiv 1905.09591). What
the classifiers then withstand is measured with attacks that they were not trained with,
among them a new generator for each of them, and beside other ways of training.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import adversarial_report as report
from experiments import adversarial_scores as scores
from experiments import adversarial_setup as setup
from experiments import adversarial_training as training
from experiments import commands
from flaxnets import attack, console, data, errors, machine, models, params, train

Defence = Literal["none", "pgd", "trades", "fgsm", "game"]
ROBUST: tuple[training.Robust, ...] = ("pgd", "trades", "fgsm")
# Largest change of a value that is usual for digits, and for photographs.
DIGITS, PHOTOGRAPHS = 0.3, 8 / 255
# Held-out pictures on which slow measures are taken while networks learn.
WATCHED = 500
# The most that options may be which are not below 0.
LIMITS = {
    "warmup": 1,
    "game_share": 1,
    "attack_step": 2,
    "beta": 1000,
}
# AutoAttack aims at the nine likeliest other classes, and at three at least.
LEAST_CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Train noise against a classifier, then both at once, and measure honestly."""

    dataset: tuple[str, ...] = ("auto",)
    """auto, mnist, fashion_mnist, digits, tfds:NAME, an .npz file or an IDX folder; or
    cats_dogs, with a folder or zip of photographs with a folder a class."""
    backbone: str = "cnn"
    """The classifier: cnn, the lecture's network, or for photographs one that
    flaxnets.list_models() names."""
    weights: str = "none"
    """Its weights: none to train new ones; of a cnn, the folder of a run of
    experiments.mnist, or a LeNet's state dict as PyTorch saves it; for photographs a
    tag of python -m flaxnets.weights, or a file, to be fine-tuned."""
    size: int = 96
    """Pixels of a side of photographs."""
    test_pictures: int = 1000
    """Held-out pictures that are attacked, at most."""
    defence: tuple[Defence, ...] = ("none", "game")
    """The classifiers that are measured: without a defence, trained on PGD's pictures,
    by TRADES, on FGSM's pictures from a random start, and that of the game."""
    epsilon: float | None = None
    """The largest change of a value in [0, 1]; by default 0.3, and 8 / 255 for
    photographs."""
    batch_size: int = 128
    """Pictures per step of all trainings."""
    classifier_epochs: int = 5
    """Passes over the pictures, for the plain classifier."""
    classifier_rate: float = 3e-3
    """The highest learning rate of the plain classifier."""
    generator_widths: tuple[int, ...] = (32, 64, 64)
    """Kernels of the generators' levels, each of which halves the picture."""
    generator_epochs: int = 4
    """Passes, for a generator against a classifier that stays as it is."""
    generator_rate: float = 3e-3
    """The highest learning rate of such a generator."""
    game_epochs: int = 6
    """Passes in which both learn."""
    game_rate: float = 1e-3
    """The learning rate of both; for a fine-tuned network give a smaller one."""
    game_share: float = 0.5
    """What pictures with noise count for the classifier; clean ones count the rest."""
    updates: tuple[int, int] = (1, 1)
    """How often the generator and the classifier learn, in proportion."""
    robust_epochs: int = 16
    """Passes of the trainings on PGD's and FGSM's pictures, and of TRADES."""
    robust_rate: float = 2e-3
    """Their highest learning rate; for a pretrained network give a smaller one."""
    attack_steps: int = 5
    """Gradient steps of the attack in training, but for FGSM."""
    attack_step: float = 0.4
    """The length of each, as a share of epsilon."""
    warmup: float = 0.3
    """The share of such a training in which epsilon grows from 0."""
    beta: float = 1.0
    """What the divergence counts in TRADES; its authors have 1 for MNIST."""
    attacks: tuple[scores.AttackName, ...] = scores.ATTACKS
    """What is tried on each classifier, besides the noise of all generators."""
    queries: int = 1000
    """Of Square in that table; AutoAttack's has 5000."""
    auto_attack: bool = False
    """Also AutoAttack's four, on each classifier."""
    seed: int = 0
    """Of the parameters, the order of pictures, and all that is drawn."""
    out: Path = Path("runs/adversarial")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Trains both sides, one after the other and at once, attacks, and reports."""
    _check(config)
    device = machine.select_device(config.device)
    dataset, prepare = setup.pictures_of(
        config.dataset, config.backbone, config.weights, config.size, config.seed
    )
    classes = len(dataset.class_names)
    if config.auto_attack and classes < LEAST_CLASSES:
        raise errors.ArgumentError(
            f"--auto-attack needs at least {LEAST_CLASSES} classes, but {dataset.name} "
            f"has {classes}; leave it out"
        )
    data.steps_per_epoch(len(dataset.train.labels), config.batch_size)
    network = setup.network_of(
        config.backbone, config.weights, dataset, prepare, config.seed
    )
    pictures = setup.some(dataset.test, config.test_pictures, config.seed)
    shape = dataset.train.images.shape[1:]
    players = training.Players(
        apply=network.apply,
        perturber=models.Perturber(
            config.generator_widths, shape[-1], epsilon_of(config)
        ),
        shape=shape,
        epsilon=epsilon_of(config),
        tuned=network.tuned,
        together=setup.together(shape, len(pictures.labels)),
        seed=config.seed,
    )
    # Levels that pictures are too small for are noticed before anything is trained.
    params.abstract(players.perturber, (1, *shape))
    console.say(
        f"data: {dataset.name}, {dataset.source}; classifier: {network.words}; "
        f"on {device}"
    )
    with train.RunFolder.open(
        config.out,
        described(config, dataset, network),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        began = time.perf_counter()
        course = training.Course(
            folder, dataset, epochs_of(config, network), config.batch_size, config.seed
        )
        trained = all_trained(config, network, players, course, dataset.test, pictures)
        bench = scores.Bench(
            network.apply,
            config.attacks,
            {
                name: its.variables["generator"]
                for name, its in trained.items()
                if name in report.GENERATORS
            },
            players.perturber.apply,
            pictures=pictures,
            classes=classes,
            epsilon=players.epsilon,
            queries=config.queries,
            together=players.together,
            key=players.key(5),
        )
        rows = scores.measured(
            bench, classifiers_of(config, trained), course, config.auto_attack
        )
        noises = {
            name: bench.noise(name, its.variables["opponent"])
            for name, its in trained.items()
            if name in report.GENERATORS
        }
        result = {
            "dataset": dataset.name,
            "classifier": network.words,
            "classifier_parameters": params.count(network.begun["params"]),
            "generator_parameters": params.count(
                trained["generator"].variables["generator"]["params"]
            ),
            "epsilon": players.epsilon,
            "test_pictures": len(pictures.labels),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "table": [
                {name: value for name, value in row.items() if name != "text"}
                for row in rows
                if "defence" in row
            ],
            "transfer": next(row["transfer"] for row in rows if "transfer" in row),
            "noise": {name: noise.numbers for name, noise in noises.items()},
            "train_seconds": {name: its.seconds for name, its in trained.items()},
            "history": {name: course.history(name) for name in trained},
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        report.write(folder, result, rows, noises, pictures, dataset.class_names)
        console.say(scores.table(result["table"]))
        console.say(f"report: {folder.path('report.html')}")
    return 0


def _check(config: Config) -> None:
    commands.positive(
        config, ("classifier_rate", "generator_rate", "game_rate", "robust_rate")
    )
    commands.seeded(config)
    commands.at_least_one(
        config,
        (
            "test_pictures",
            "batch_size",
            "classifier_epochs",
            "generator_epochs",
            "game_epochs",
            "robust_epochs",
            "attack_steps",
            "queries",
        ),
    )
    for option in ("defence", "attacks"):
        values = getattr(config, option)
        if not values or len(set(values)) < len(values):
            raise errors.ArgumentError(
                f"--{option} is {' '.join(values) or 'empty'}, but at least one is "
                "needed, and each once"
            )
    if not set(config.attacks) & set(scores.FOLLOWING):
        raise errors.ArgumentError(
            f"--attacks is {' '.join(config.attacks)}, but must have one of "
            f"{', '.join(scores.FOLLOWING)}, with which the others are compared"
        )
    for option in ("generator_widths", "updates"):
        values = getattr(config, option)
        if not values or min(values) < 1:
            raise errors.ArgumentError(
                f"--{option.replace('_', '-')} is {' '.join(map(str, values))}, but "
                "must be numbers from 1 on"
            )
    for option, most in LIMITS.items():
        value = getattr(config, option)
        if not (0 <= value <= most and math.isfinite(value)):
            raise errors.ArgumentError(
                f"--{option.replace('_', '-')} is {value}, but must be finite, and "
                f"from 0 to {most}"
            )
    if attack.checked_epsilon(epsilon_of(config), "linf") == 0:
        raise errors.ArgumentError("--epsilon is 0, which allows no noise at all")


def epsilon_of(config: Config) -> float:
    """The largest change of a value."""
    if config.epsilon is not None:
        return config.epsilon
    return PHOTOGRAPHS if config.dataset[:1] == (setup.PHOTOGRAPHS,) else DIGITS


def described(
    config: Config, dataset: data.Dataset, network: setup.Network
) -> dict[str, Any]:
    """The stored config: pictures and weights themselves, not where they lay."""
    fields = dataclasses.asdict(config)
    for name in ("weights", "out", "resume", "overwrite", "device"):
        del fields[name]
    return {
        "study": "adversarial",
        **fields,
        "dataset": dataset.name,
        "epsilon": epsilon_of(config),
        "dataset_sha256": data.fingerprint(dataset),
        "given": network.given is not None,
        "network_sha256": network.fingerprint(),
    }


def epochs_of(config: Config, network: setup.Network) -> dict[str, int]:
    """The epochs of each training, in their order."""
    found = {"classifier": config.classifier_epochs} if network.given is None else {}
    found |= {
        "generator": config.generator_epochs,
        "game": config.game_epochs,
        "fresh_game": config.generator_epochs,
    }
    for kind in ROBUST:
        if kind in config.defence:
            found[kind] = config.robust_epochs
            found[f"fresh_{kind}"] = config.generator_epochs
    return found


def all_trained(
    config: Config,
    network: setup.Network,
    players: training.Players,
    course: training.Course,
    test: data.Split,
    pictures: data.Split,
) -> dict[str, training.Trained]:
    """Does all trainings, or what is left of them, by their names.

    Args:
        config, network, players, course: of the study.
        test: all held-out pictures, on which quick measures are taken.
        pictures: some of them.
    """

    def attacked(name: str, variables: Any) -> None:
        """Trains a generator against a classifier that stays as it is."""
        number = list(epochs_of(config, network)).index(name)
        make = functools.partial(
            training.generator, players, variables, config.generator_rate, number
        )
        found[name] = course.trained(name, make, test, attack.pair_variables_of)

    few = data.Split(*(part[:WATCHED] for part in pictures))
    found: dict[str, training.Trained] = {}
    classifier = network.given
    if classifier is None:
        plain = functools.partial(
            training.plain, players, network.begun, config.classifier_rate
        )
        found["classifier"] = course.trained("classifier", plain, test)
        classifier = found["classifier"].variables
    attacked("generator", classifier)
    game = functools.partial(
        training.game,
        players,
        found["generator"].variables["generator"],
        classifier,
        config.game_rate,
        config.game_share,
        config.updates,
    )
    found["game"] = course.trained("game", game, few, attack.pair_variables_of)
    attacked("fresh_game", found["game"].variables["opponent"])
    for kind in ROBUST:
        if kind not in config.defence:
            continue
        make = functools.partial(
            training.robust,
            players,
            network.begun,
            kind,
            config.robust_rate,
            config.attack_steps,
            config.attack_step,
            config.warmup,
            config.beta,
        )
        found[kind] = course.trained(kind, make, few)
        attacked(f"fresh_{kind}", found[kind].variables)
    return found


def classifiers_of(
    config: Config, trained: Mapping[str, training.Trained]
) -> dict[str, scores.Classifier]:
    """The classifiers that are measured."""
    # The generator was trained against the plain one, which stayed as it was.
    plain = trained["generator"].variables["opponent"]
    before = trained["classifier"].seconds if "classifier" in trained else None
    found: dict[str, scores.Classifier] = {}
    for defence in config.defence:
        if defence == "none":
            found[defence] = scores.Classifier(plain, before, ("generator",))
        elif defence == "game":
            game = trained["game"]
            # It sets out from the plain classifier and the generator against it.
            found[defence] = scores.Classifier(
                game.variables["opponent"],
                (before or 0) + trained["generator"].seconds + game.seconds,
                ("game", "fresh_game"),
            )
        else:
            its = trained[defence]
            found[defence] = scores.Classifier(
                its.variables, its.seconds, (f"fresh_{defence}",)
            )
    return found


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.adversarial"))


if __name__ == "__main__":
    console.run(main)
