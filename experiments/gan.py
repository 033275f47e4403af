"""Pictures from random numbers: a generator against a discriminator.

    python -m experiments.gan
    python -m experiments.gan --dataset fashion_mnist --out runs/gan-fashion
    python -m experiments.gan --classifier runs/mnist-001 --normalisation spectral

Both networks learn at once, with opposite objectives (Goodfellow et al. 2014, arXiv
1406.2661; Radford et al. 2016, arXiv 1511.06434). What the generator makes is measured
by what a classifier of the same data sees in it: the Frechet distance from the test
pictures, beside that of real pictures from one another, and the classes that it covers.
"""

import dataclasses
import io
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import tyro

from experiments import commands, gan_report, mnist
from experiments import gan_measures as measures
from flaxnets import attack, console, data, errors, machine, models, params, train
from flaxnets.attack.pair import PairStep
from flaxnets.data import augmentation
from flaxnets.models.dcgan import Normalisation, Upsampling
from flaxnets.train import losses, optimizers, progress

# Lines of pictures between two others, and pictures on one, the ends included.
LINES, ON_A_LINE = 5, 11


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a generator of pictures against a discriminator, and measure its pictures.

    The sides of the pictures must be divisible by 2 for each of --widths, and for each
    of --discriminator-widths.
    """

    dataset: str = "auto"
    """auto, mnist, fashion_mnist, digits, tfds:NAME, an .npz file or an IDX folder."""
    classifier: Path | None = None
    """The folder of a run of experiments.mnist on the same data, whose network judges
    the pictures; without it one is trained first, in the same way."""
    classifier_epochs: int = 3
    """Passes over the training pictures, for a classifier that is trained here."""
    latent: int = 64
    """Random numbers that a picture is made of."""
    widths: tuple[int, ...] = (64, 32)
    """Channels of the generator's maps that are doubled in size, the smallest first."""
    discriminator_widths: tuple[int, ...] = (16, 32)
    """Kernels of the discriminator's convolutions, each of which halves the size."""
    hidden: tuple[int, ...] = (256,)
    """Units of the generator's fully connected layers before its maps; the
    discriminator's after them are the same. Give --hidden alone for none."""
    upsampling: Upsampling = "transposed"
    """How the generator enlarges."""
    normalisation: Normalisation = "batch"
    """The discriminator's."""
    r1: float = 0.0
    """Weight of the penalty on the discriminator's slope at real pictures; not with
    --normalisation batch."""
    shift: int = 0
    """Pixels by which all that the discriminator sees is moved at random, at most, so
    that it does not learn real pictures by heart; for few of them, or many epochs."""
    epochs: int = 6
    """Passes over the training pictures."""
    batch_size: int = 64
    """Real pictures, and made ones, in a step."""
    learning_rate: float = 2e-3
    """The generator's at its highest, of Adam; it falls to zero along a cosine."""
    discriminator_rate: float = 2e-3
    """The discriminator's in its place."""
    momentum: float = 0.5
    """Adam's decay of the mean gradient, of both."""
    average: float = 0.999
    """The decay of the moving average of the generator's parameters, with which
    pictures are made; 0 for the last ones."""
    seed: int = 0
    """Of the parameters, the order, and all random numbers."""
    out: Path = Path("runs/gan")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


class Networks(NamedTuple):
    """The two sides."""

    generator: models.DCGANGenerator
    discriminator: models.DCGANDiscriminator


def run(config: Config) -> int:
    """Trains the classifier and the pair, measures, and reports."""
    _check(config)
    device = machine.select_device(config.device)
    dataset = data.load(config.dataset)
    networks = networks_of(config, dataset)
    state, step, schedule = begun(config, networks, dataset)
    given = None
    if config.classifier is not None:
        given = commands.network_of_run("--classifier", config.classifier, dataset)
    console.say(f"data: {dataset.name}, {dataset.source}; on {device}")
    with train.RunFolder.open(
        config.out,
        described(config, dataset, given),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        began = time.perf_counter()
        variables = classifier(config, dataset, folder) if given is None else given
        judge = measures.Judge(len(dataset.class_names), variables)
        seen = judge.look(dataset.test.images)
        right = seen.probabilities.argmax(axis=1) == dataset.test.labels
        accuracy = float(np.mean(right))
        ruler = measures.Ruler(judge, dataset, config.seed)
        console.say(
            f"classifier: {accuracy:.2%} of the test pictures right; Frechet distance "
            f"of {ruler.all.pictures:,} real pictures {ruler.all.floor:.3f}"
        )
        latents = drawn(config, max(ruler.all.pictures, measures.LOOKED_AT))
        make = measures.Maker(networks.generator, latents)
        examiner = measures.Examiner(
            losses_of(config, networks), make, latents, judge, ruler
        )
        fitted = trained(config, state, step, schedule, dataset, folder, examiner)
        generator = fitted.state.variables["generator"]
        images = make(generator, latents)
        seen = judge.look(images)
        looked_at = seen.probabilities[: measures.LOOKED_AT]
        result = {
            "dataset": dataset.name,
            "parameters": {
                side: params.count(tree) for side, tree in fitted.state.params.items()
            },
            "epochs": len(fitted.records),
            "steps": int(fitted.state.step),
            "batch_size": config.batch_size,
            "latent": config.latent,
            "seed": config.seed,
            "classifier_accuracy": accuracy,
            "frechet": ruler.report(seen.features),
            "classes": measures.coverage(looked_at),
            "train_seconds": fitted.train_seconds,
            "compile_seconds": fitted.compile_seconds,
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        made = gan_report.Made(
            images[: measures.LOOKED_AT],
            looked_at.argmax(axis=1),
            make(generator, between(latents)).reshape(
                LINES, ON_A_LINE, *images.shape[1:]
            ),
        )
        gan_report.write(folder, result, fitted.records, made, dataset.class_names)
        console.say(gan_report.line(result))
        console.say(f"report: {folder.path('report.html')}")
    return 0


def _check(config: Config) -> None:
    names = ("classifier_epochs", "latent", "epochs", "batch_size")
    commands.at_least_one(config, names)
    for option, widths in (
        ("--widths", config.widths),
        ("--discriminator-widths", config.discriminator_widths),
    ):
        if not widths or min(widths) < 1:
            raise errors.ArgumentError(
                f"{option} is {' '.join(map(str, widths)) or 'empty'}, but at least "
                "one is needed, and all must be > 0"
            )
    if min(config.hidden, default=1) < 1:
        raise errors.ArgumentError(
            f"--hidden is {' '.join(map(str, config.hidden))}, but all must be > 0"
        )
    commands.positive(config, ("learning_rate", "discriminator_rate"))
    commands.seeded(config)
    if not 0 <= config.momentum < 1:
        raise errors.ArgumentError(
            f"--momentum is {config.momentum}, but must be at least 0 and below 1"
        )
    if config.r1 and config.normalisation == "batch":
        raise errors.ArgumentError(
            f"--r1 is {config.r1} with --normalisation batch, but the slope at one "
            "picture must not depend on the others; give --normalisation spectral or "
            "none"
        )


def networks_of(config: Config, dataset: data.Dataset) -> Networks:
    """The two networks for pictures of this size."""
    height, width, channels = dataset.train.images.shape[1:]
    return Networks(
        models.DCGANGenerator(
            (height, width),
            channels,
            config.widths,
            config.upsampling,
            config.hidden,
        ),
        models.DCGANDiscriminator(
            config.discriminator_widths, config.normalisation, config.hidden[::-1]
        ),
    )


def begun(
    config: Config, networks: Networks, dataset: data.Dataset
) -> tuple[attack.Pair, PairStep, optax.Schedule]:
    """The pair before its first step, the step, and the generator's learning rates."""
    steps = config.epochs * data.steps_per_epoch(
        len(dataset.train.labels), config.batch_size
    )
    own, others = (
        optimizers.SCHEDULES["cosine"](rate, steps)
        for rate in (config.learning_rate, config.discriminator_rate)
    )
    both: Any = networks.generator.apply, networks.discriminator.apply
    shift = augmentation.shift(config.shift) if config.shift else None
    seen: Any = {"latent": config.latent, "augment": shift}
    sides = (
        attack.Player(
            attack.generating(*both, average=config.average, **seen),
            optax.adam(own, b1=config.momentum),
        ),
        attack.Player(
            attack.discriminating(*both, r1=config.r1, **seen),
            optax.adam(others, b1=config.momentum),
        ),
    )
    keys = keys_of(config)
    pictures = (1, *dataset.train.images.shape[1:])
    pair = attack.create_pair(
        *sides,
        attack.with_average(
            params.initialize(networks.generator, keys[0], (1, config.latent))
        ),
        params.initialize(networks.discriminator, keys[1], pictures),
        key=keys[2],
    )
    return pair, attack.make_pair_step(*sides), own


def keys_of(config: Config) -> jax.Array:
    """key[5]: of both networks, of training, of pictures that are shown, of tests."""
    return jax.random.split(jax.random.key(config.seed), 5)


def described(
    config: Config, dataset: data.Dataset, given: dict[str, Any] | None
) -> dict[str, Any]:
    """The stored config; the classifier itself, not where it lay."""
    fields = dataclasses.asdict(config)
    for name in ("classifier", "out", "resume", "overwrite", "device"):
        del fields[name]
    return {
        "study": "gan",
        **fields,
        "widths": list(config.widths),
        "discriminator_widths": list(config.discriminator_widths),
        "hidden": list(config.hidden),
        "dataset": dataset.name,
        "dataset_sha256": data.fingerprint(dataset),
        "classifier_sha256": None if given is None else params.fingerprint(given),
    }


def classifier(
    config: Config, dataset: data.Dataset, folder: train.RunFolder
) -> dict[str, Any]:
    """The variables of a classifier trained as `experiments.mnist` trains, or kept."""
    with train.Checkpoints(folder.path("checkpoints/classifier")) as checkpoints:
        checkpoints.clean()
        if checkpoints.latest() is None:
            console.say("training the classifier that is to judge the pictures")
            fitted = classifying(config, dataset)
            checkpoints.save(
                int(fitted.state.step),
                {"params": fitted.state.params},
                metric=None,
                metadata={},
            )
        return train.variables_of(checkpoints.leaves())


def classifying(config: Config, dataset: data.Dataset) -> train.Fitted:
    """Trains the lecture's network by the recipe of `experiments.mnist`."""
    recipe = mnist.RECIPES["default"]
    model = mnist.build(len(dataset.class_names), dropout=recipe.dropout)
    epochs = config.classifier_epochs
    steps = data.steps_per_epoch(len(dataset.train.labels), recipe.batch_size)
    optimizer, schedule = optimizers.make(
        recipe.optimizer,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        total_steps=epochs * steps,
        weight_decay=recipe.weight_decay,
    )
    augment = augmentation.compose(*mnist.augmentations(recipe))
    # Keys that the pair has none of.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    shape = (1, *dataset.train.images.shape[1:])
    variables = params.initialize(model, keys[0], shape)
    loss = losses.classification(model.apply, augment=augment)
    fitted = train.fit(
        train.create(variables, optimizer, key=keys[1]),
        train.make_step(loss, optimizer),
        dataset,
        epochs=epochs,
        batch_size=recipe.batch_size,
        seed=config.seed,
        evaluator=train.Evaluator(model.apply),
        learning_rate=schedule,
        progress=progress.Progress(epochs, steps, stream=io.StringIO()),
    )
    commands.whole(fitted)
    return fitted


def drawn(config: Config, count: int) -> np.ndarray:
    """The random numbers f32[count, latent] that pictures are shown of."""
    return np.asarray(jax.random.normal(keys_of(config)[3], (count, config.latent)))


def between(latents: np.ndarray) -> np.ndarray:
    """Numbers from one picture's to another's, f32[LINES * ON_A_LINE, latent].

    Along a quarter of an ellipse: of two independent draws of a normal distribution,
    cos(a) times the one and sin(a) times the other add up to a draw of the same. Half
    way on a straight line are numbers that are hardly ever drawn (White 2016, arXiv
    1609.04468).
    """
    angles = np.linspace(0, np.pi / 2, ON_A_LINE, dtype=np.float32)[None, :, None]
    firsts, lasts = latents[: 2 * LINES].reshape(2, LINES, 1, -1)
    lines = np.cos(angles) * firsts + np.sin(angles) * lasts
    return lines.reshape(LINES * ON_A_LINE, -1)


def losses_of(config: Config, networks: Networks) -> attack.PairEvaluator:
    """Measures both networks on test pictures."""
    both: Any = networks.generator.apply, networks.discriminator.apply
    return attack.PairEvaluator(
        attack.generative_measure(*both, latent=config.latent),
        metric="accuracy",
        key=keys_of(config)[4],
        batch_size=measures.TOGETHER,
    )


def trained(
    config: Config,
    state: attack.Pair,
    step: PairStep,
    schedule: optax.Schedule,
    dataset: data.Dataset,
    folder: train.RunFolder,
    examiner: measures.Examiner,
) -> train.Fitted[attack.Pair]:
    """The pair after all epochs, from wherever the run stands."""

    def record(found: dict[str, Any]) -> None:
        gan_report.keep(folder, found["epoch"], examiner.made)
        folder.log(found)

    with train.Checkpoints(folder.path("checkpoints/pair")) as checkpoints:
        checkpoints.clean()
        last = checkpoints.latest()
        records = folder.truncate_metrics(last or 0) if folder.resumed else []
        resumed = None
        if last is not None:
            console.say(f"resuming at step {last}")
            state = checkpoints.restore(state, last)
            resumed = checkpoints.metadata(last)
        fitted = train.fit(
            state,
            step,
            dataset,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            evaluator=examiner,
            learning_rate=schedule,
            checkpoints=checkpoints,
            records=records,
            resumed=resumed,
            on_record=record,
        )
    commands.whole(fitted)
    return fitted


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.gan"))


if __name__ == "__main__":
    console.run(main)
