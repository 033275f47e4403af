"""The lecture's first program: a convolutional network that reads digits.

    python -m experiments.mnist
    python -m experiments.mnist --recipe lecture --seed 1
    python -m experiments.mnist predict --run runs/mnist-001 photo.jpg

Trains on MNIST (on scikit-learn's embedded digits where MNIST is neither here nor to
be had), and leaves config, metrics, result, figures, report and checkpoints in a run
folder.
"""

import contextlib
import dataclasses
import itertools
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments import commands, mnist_predict
from flaxnets import (
    console,
    data,
    errors,
    files,
    machine,
    models,
    params,
    train,
)
from flaxnets.data import augmentation
from flaxnets.data.augmentation import Augmentation
from flaxnets.report import figures, html
from flaxnets.train import losses, metrics, optimizers, run, signals, trackers

Initializer = Literal[
    "lecun_normal",
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The numbers that make up a way of training."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float | None
    momentum: float | None
    warmup_steps: int
    shift: int
    rotation: float
    dropout: float
    label_smoothing: float
    initializer: Initializer
    epsilon: float | None


RECIPES = {
    # The lecture's slide: Adam as it comes, nothing else. It comes from Keras, whose
    # kernels are Glorot-uniform and whose Adam has this epsilon.
    "lecture": Recipe(
        epochs=10,
        batch_size=16,
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=None,
        momentum=None,
        warmup_steps=0,
        shift=0,
        rotation=0.0,
        dropout=0.0,
        label_smoothing=0.0,
        initializer="glorot_uniform",
        epsilon=1e-7,
    ),
    "default": Recipe(
        epochs=10,
        batch_size=64,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="onecycle",
        weight_decay=1e-4,
        momentum=None,
        warmup_steps=0,
        shift=2,
        rotation=10.0,
        dropout=0.3,
        label_smoothing=0.0,
        initializer="lecun_normal",
        epsilon=None,
    ),
}
# What these options were before they could be chosen, for runs that go on.
_BEFORE = {"initializer": "lecun_normal", "epsilon": None}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a convolutional network on MNIST, and show what it learned."""

    recipe: Literal["default", "lecture"] = "default"
    """Where the training options below come from when they are not given."""
    dataset: str = "auto"
    """auto, mnist, fashion_mnist, digits, tfds:NAME, an .npz file or an IDX folder."""
    epochs: int | None = None
    """Passes over the training examples."""
    batch_size: int | None = None
    """Examples per step."""
    optimizer: str | None = None
    """An optax optimizer by its name: adam, sgd, nadam, adadelta, adamw, lion, ..."""
    learning_rate: float | None = None
    """The learning rate, or the schedule's peak."""
    schedule: str | None = None
    """constant, cosine, onecycle, linear or exponential."""
    weight_decay: float | None = None
    """Decay of kernels, for optimizers that have it."""
    momentum: float | None = None
    """Momentum, for optimizers that have it."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises from 0 first."""
    shift: int | None = None
    """Random shifts of the training images by up to this many pixels."""
    rotation: float | None = None
    """Random rotations of the training images by up to this many degrees."""
    dropout: float | None = None
    """Share of units dropped before each hidden dense layer."""
    label_smoothing: float | None = None
    """Share of the target that is spread over all classes."""
    initializer: Initializer | None = None
    """How kernels are drawn."""
    epsilon: float | None = None
    """What keeps the optimizer from dividing by zero, where it has that."""
    seed: int = 0
    """Of the initial parameters, the order of examples, and the augmentation."""
    out: Path | None = None
    """The run folder; by default a new one, runs/mnist-001 and so on."""
    resume: bool = False
    """Go on with the run in --out (by default the newest under runs/)."""
    overwrite: bool = False
    """Replace the run in --out."""
    patience: int | None = None
    """Stop after this many epochs without a better test accuracy."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do when the loss is not finite."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train."""
    device_limit_mb: int | None = None
    """Data larger than this is streamed to the device instead of kept there."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run folder."""
    wandb: bool = False
    """Also log to Weights & Biases."""


def resolve(config: Config) -> Recipe:
    """The recipe's numbers, with those that the command line gives in their place.

    Raises:
        ArgumentError: a number, here or elsewhere in the config, cannot be used.
    """
    given = {
        field.name: value
        for field in dataclasses.fields(Recipe)
        if (value := getattr(config, field.name)) is not None
    }
    changes: dict[str, Any] = dict(given)
    recipe = RECIPES[config.recipe]
    if "optimizer" in given:
        # The recipe's own are meant for its own optimizer; another may have none.
        changes = {"weight_decay": None, "epsilon": None, **given}
    recipe = dataclasses.replace(recipe, **changes)
    _check("--epochs", recipe.epochs, low=1)
    _check("--batch-size", recipe.batch_size, low=1)
    _check("--dropout", recipe.dropout, low=0, below=1)
    _check("--label-smoothing", recipe.label_smoothing, low=0, below=1)
    _check("--seed", config.seed, low=0, below=2**32)
    if config.patience is not None:
        _check("--patience", config.patience, low=1)
    if config.device_limit_mb is not None:
        _check("--device-limit-mb", config.device_limit_mb, low=0)
    if config.resume and config.overwrite:
        raise errors.ArgumentError(
            "--resume goes on with a run and --overwrite removes it; give one of them"
        )
    return recipe


def _check(option: str, value: float, *, low: float, below: float = math.inf) -> None:
    if not low <= value < below:
        end = "" if below == math.inf else f" and below {below:,}"
        raise errors.ArgumentError(
            f"{option} is {value}, but must be at least {low}{end}"
        )


def augmentations(recipe: Recipe) -> list[Augmentation]:
    """What the recipe does to training images, in order."""
    found = []
    if recipe.rotation:
        found.append(augmentation.rotation(recipe.rotation))
    if recipe.shift:
        found.append(augmentation.shift(recipe.shift))
    return found


def build(
    class_count: int, *, dropout: float = 0.0, initializer: str = "lecun_normal"
) -> models.CNN:
    """The lecture's network."""
    draw = getattr(jax.nn.initializers, initializer)()
    return models.CNN(num_classes=class_count, dropout=dropout, kernel_init=draw)


def run_training(config: Config) -> int:
    """Trains, evaluates, reports; returns the exit code."""
    recipe = resolve(config)
    for wanted, package in (
        (config.tensorboard, "tensorboardX"),
        (config.wandb, "wandb"),
    ):
        if wanted:
            trackers.require(package)
    device = machine.select_device(config.device)
    dataset = data.load(dataset_name(config))
    console.say(
        f"devices: {', '.join(str(found) for found in jax.devices())}; on {device}"
    )
    console.say(f"data: {dataset.name}, {dataset.source}")

    model = build(
        len(dataset.class_names),
        dropout=recipe.dropout,
        initializer=recipe.initializer,
    )
    example = dataset.train.images[:1]
    keys = jax.random.split(jax.random.key(config.seed))
    variables = params.initialize(model, keys[0], example.shape)
    summary = params.summary(model, example.shape)
    console.say(str(summary))

    steps = data.steps_per_epoch(len(dataset.train.labels), recipe.batch_size)
    optimizer, schedule = optimizers.make(
        recipe.optimizer,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        total_steps=steps * recipe.epochs,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        warmup_steps=recipe.warmup_steps,
        epsilon=recipe.epsilon,
    )
    loss = losses.classification(
        model.apply,
        label_smoothing=recipe.label_smoothing,
        augment=augmentation.compose(*augmentations(recipe)),
    )
    skip = config.on_nan == "skip"
    step = train.make_step(loss, optimizer, skip_nonfinite=skip)
    state = train.create(variables, optimizer, key=keys[1])
    evaluator = train.Evaluator(model.apply)

    described = {
        "study": "mnist",
        "dataset": dataset.name,
        # So that no run goes on with other data of the same name.
        "dataset_sha256": data.fingerprint(dataset),
        "recipe": config.recipe,
        **dataclasses.asdict(recipe),
        "seed": config.seed,
        "classes": list(dataset.class_names),
        "image_shape": list(example.shape[1:]),
    }
    directory = run_directory(config)
    with train.RunFolder.open(
        directory,
        described,
        resume=config.resume,
        overwrite=config.overwrite,
        defaults=_BEFORE,
    ) as folder:
        with (
            train.Checkpoints(folder.path("checkpoints")) as checkpoints,
            recording(config, folder, described) as record,
        ):
            checkpoints.clean()
            resumed, records = None, []
            last = checkpoints.latest()
            if folder.resumed:
                records = folder.truncate_metrics(last or 0)
                console.say(f"resuming at step {last or 0}")
            if last is not None:
                state = checkpoints.restore(state, last)
                resumed = checkpoints.metadata(last)
            fitted = train.fit(
                state,
                step,
                dataset,
                epochs=recipe.epochs,
                batch_size=recipe.batch_size,
                seed=config.seed,
                evaluator=evaluator,
                learning_rate=schedule,
                checkpoints=checkpoints,
                records=records,
                resumed=resumed,
                on_record=record,
                patience=config.patience,
                skip_nonfinite=skip,
                resident_bytes=commands.bytes_of(config.device_limit_mb),
            )
        if fitted.stopped.startswith("SIG"):
            console.say(
                f"stopped by {fitted.stopped} after step {int(fitted.state.step)}; "
                f"saved. Go on with: {resume_command(config, directory)}"
            )
            return {"SIGINT": 130, "SIGTERM": 143}[fitted.stopped]
        # A signal from here on comes too late to save anything by stopping.
        with signals.StopRequests():
            finish(folder, described, dataset, evaluator, fitted, summary)
    return 0


@contextlib.contextmanager
def recording(
    config: Config, folder: train.RunFolder, described: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Sends each record to metrics.jsonl, and wherever else the run asks for."""
    tracks: list[Callable[[Mapping[str, Any]], None]] = []
    with contextlib.ExitStack() as stack:
        if config.tensorboard:
            events = trackers.tensorboard(folder.path("events"))
            tracks.append(stack.enter_context(events))
        if config.wandb:
            remote = trackers.weights_and_biases(folder.path("."), described)
            tracks.append(stack.enter_context(remote))
        # Last, since a full disk would keep a record from the others.
        tracks.append(folder.log)

        def record(values: Mapping[str, Any]) -> None:
            for track in tracks:
                track(values)

        yield record


def finish(
    folder: train.RunFolder,
    described: Mapping[str, Any],
    dataset: data.Dataset,
    evaluator: train.Evaluator,
    fitted: train.Fitted,
    summary: params.Summary,
) -> None:
    """Evaluates the trained network and leaves result, figures and report."""
    variables = fitted.state.variables
    logits = evaluator.predict(variables, dataset.test.images)
    labels = dataset.test.labels
    tested = train.scores(logits, labels)
    measured = metrics.report(logits, labels, len(dataset.class_names))
    result = {
        "dataset": dataset.name,
        "recipe": described["recipe"],
        "parameters": summary.total,
        "epochs": len(fitted.records),
        "steps": int(fitted.state.step),
        "batch_size": described["batch_size"],
        "seed": described["seed"],
        "test_accuracy": tested["accuracy"],
        "test_loss": tested["loss"],
        "stopped": fitted.stopped,
        "skipped_steps": fitted.skipped,
        "train_seconds": fitted.train_seconds,
        "compile_seconds": fitted.compile_seconds,
        "startup_seconds": startup_seconds(fitted),
        "examples_per_second": fitted.examples_per_second,
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "backend": machine.default_device().platform,
        "devices": [str(device) for device in jax.devices()],
        "versions": machine.versions(),
        "metrics": measured,
    }
    folder.write_json("result.json", result)
    write_report(
        folder,
        result,
        dataset,
        evaluator.endpoints(variables, dataset.test.images[:1]),
        np.asarray(variables["params"]["conv1"]["kernel"]),
        logits,
        fitted.records,
        summary,
    )
    low, high = measured["accuracy_interval"]
    console.say(
        f"test accuracy {tested['accuracy']:.2%} (95 % interval {low:.2%} to "
        f"{high:.2%}) on {dataset.name}; report: {folder.path('report.html')}"
    )


def write_report(
    folder: train.RunFolder,
    result: Mapping[str, Any],
    dataset: data.Dataset,
    endpoints: Mapping[str, np.ndarray],
    kernel: np.ndarray,
    logits: np.ndarray,
    records: list[dict[str, Any]],
    summary: params.Summary,
) -> None:
    """Draws the figures, and the page that holds them all."""
    names, test = dataset.class_names, dataset.test
    probabilities = train.probabilities(logits)
    matrix = np.array(result["metrics"]["confusion_matrix"])
    drawn = {
        "samples": (
            "Some of the data",
            "Examples of the training data with their labels.",
            figures.samples(*dataset.train, names),
        ),
        "curves": (
            "Loss and accuracy",
            "Means over each epoch's training batches, and over all test examples "
            "after it.",
            figures.curves(records),
        ),
        "confusion": (
            "What is taken for what",
            "Each row is a true class, each column a prediction, on the test data.",
            figures.confusion(matrix, names),
        ),
        "mistakes": (
            "The worst mistakes",
            "Test examples to which the network gives the least probability of being "
            "what they are.",
            figures.mistakes(test.images, test.labels, probabilities, names),
        ),
        "kernels": (
            "The first layer's kernels",
            "What the first convolution looks for.",
            figures.kernels(kernel),
        ),
        "feature_maps": (
            "One picture, layer by layer",
            "What each layer makes of the first test example.",
            figures.feature_maps(test.images[0], endpoints),
        ),
    }
    folder.path("figures").mkdir(exist_ok=True)
    sections = []
    for name, (title, text, figure) in drawn.items():
        path = folder.path(f"figures/{name}.png")
        figures.save(figure, path)
        sections.append(html.Section(title, text, path))
    sections.append(html.Section("The network", "", str(summary)))
    shown = {
        name: result[name]
        for name in (
            "dataset",
            "recipe",
            "test_accuracy",
            "test_loss",
            "epochs",
            "batch_size",
            "seed",
            "parameters",
            "train_seconds",
            "examples_per_second",
            "backend",
        )
    }
    html.write(
        folder.path("report.html"),
        f"{dataset.name}: {result['test_accuracy']:.2%} of the test examples right",
        summary=shown,
        sections=sections,
    )


def startup_seconds(fitted: train.Fitted) -> float | None:
    """Seconds from the start of the process to the end of the first step.

    None where this process had no step left to do.
    """
    if fitted.first_step_at is None:
        return None
    return machine.process_seconds() - (time.time() - fitted.first_step_at)


def dataset_name(config: Config) -> str:
    """The data set asked for; at a resume, `auto` is what the run began with."""
    if config.dataset == "auto" and config.resume:
        stored = run_directory(config)
        if (stored / run.CONFIG).exists():
            return train.read_config(stored).get("dataset", "auto")
    return config.dataset


def run_directory(config: Config) -> Path:
    """The folder asked for, else the newest (to resume) or a new one."""
    if config.out is not None:
        return config.out
    if config.overwrite:
        raise errors.ArgumentError("--overwrite needs --out: name the run to replace")
    numbers = [
        int(path.name.removeprefix("mnist-"))
        for path in Path("runs").glob("mnist-*")
        if path.name.removeprefix("mnist-").isdecimal()
    ]
    if config.resume:
        if not numbers:
            raise errors.ArgumentError(
                "--resume found no run under runs/; name one with --out"
            )
        return Path(f"runs/mnist-{max(numbers):03d}")
    with files.writing(Path("runs")):
        Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(max(numbers, default=0) + 1):
        directory = Path(f"runs/mnist-{number:03d}")
        # Made at once, so that runs begun together get a folder each.
        with files.writing(directory), contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
    raise AssertionError("counting ended")


def resume_command(config: Config, directory: Path) -> str:
    """The command that goes on with a run."""
    chosen = commands.options(config, without=("out", "resume", "overwrite"))
    return shlex.join(
        ["python", "-m", "experiments.mnist", *chosen, "--out", str(directory)]
        + ["--resume"]
    )


def main() -> int:
    """The command line: trains, or predicts."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["predict"]:
        return mnist_predict.main(arguments[1:])
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.mnist")
    return run_training(config)


if __name__ == "__main__":
    console.run(main)
