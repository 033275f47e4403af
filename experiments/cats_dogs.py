"""The lecture's second program: cats told from dogs by a pretrained network.

    python -m experiments.cats_dogs --backbone vgg16
    python -m experiments.cats_dogs --backbone squeezenet_caffe \
        --weights squeezenet_v1_caffe.npz --mode all
    python -m experiments.cats_dogs predict --run runs/cats-dogs photo.jpg
    python -m experiments.cats_dogs table --weights squeezenet_v1_caffe.npz

Any folder, or zip, with a folder of pictures a class does, with any number of classes.
"""

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from experiments import (
    cats_dogs_modes,
    cats_dogs_predict,
    cats_dogs_report,
    cats_dogs_table,
    commands,
)
from experiments import cats_dogs_setup as setup
from flaxnets import console, data, errors, machine, params, train, transfer
from flaxnets.data import preprocessing
from flaxnets.train import losses, optimizers, signals
from flaxnets.transfer import modes


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a network on photographs, most of it already trained on others."""

    data: Path | None = None
    """A folder or zip with a folder of pictures a class; by default the lecture's cats
    and dogs, downloaded once."""
    backbone: str = "vgg16"
    """The network whose body is used, as flaxnets.list_models() names it."""
    weights: str = "imagenet"
    """Its weights: a tag of python -m flaxnets.weights, a file, or none."""
    mode: Literal[modes.Mode, "all"] = "feature_extraction"
    """What is trained: only the head, the last layers too, everything, or everything
    from scratch; or all four, one after the other."""
    up_to: str | None = None
    """The last layer that partial_fine_tuning freezes; by default four fifths of
    them are frozen."""
    thaw: tuple[str, ...] = ()
    """Gradual unfreezing, as LAYER:EPOCHS ...: after so many epochs LAYER is the last
    layer that is still frozen; nothing:EPOCHS for none."""
    head: setup.HeadName = "linear"
    """linear: averages over the picture, then one layer. lecture: no averages, 50
    hidden units."""
    size: int | None = None
    """Pixels of a side of the pictures; by default what the weights were made with."""
    pretrain: Literal["none", "rotation"] = "none"
    """With --weights none: let the body first learn how the pictures were turned."""
    pretrain_epochs: int | None = None
    """Passes over the pictures for that (10)."""
    per_class: int | None = None
    """How many training pictures of each class to use; all by default."""
    epochs: int | None = None
    """Passes over the training pictures; by default what suits the mode."""
    seconds: float | None = None
    """End after so many seconds of training and evaluation, at a constant learning
    rate; reading the pictures, or computing features of them, counts. With --mode all,
    those of each mode (120)."""
    batch_size: int = 32
    """Pictures per step."""
    optimizer: str | None = None
    """An optax optimizer by its name; by default what suits the mode."""
    learning_rate: float | None = None
    """The learning rate, or the schedule's peak."""
    schedule: str | None = None
    """constant, cosine, onecycle, linear or exponential."""
    augment: setup.AugmentName = "none"
    """Random changes of the training pictures: flip, or crop (and flip)."""
    views: int | None = None
    """With an augmentation and stored features, how many versions of each picture
    (4)."""
    stored: bool = True
    """Whether what lies below the frozen layers is computed once and kept."""
    features: Path = dataclasses.field(default_factory=setup.default_features)
    """The folder in which it is kept."""
    on_bad_image: Literal["raise", "skip"] = "raise"
    """What to do about a picture that cannot be read."""
    device_limit_mb: int | None = None
    """Stream pictures or features from the host that need more than this."""
    seed: int = 0
    """Of the head, the order of pictures, and the choice with --per-class."""
    out: Path = Path("runs/cats-dogs")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Trains in one mode, or in all, and reports; returns the exit code."""
    mode = config.mode
    if mode == "all":
        return compare(config)
    recipe = resolve(config, mode)
    if config.pretrain != "none" and (
        config.weights != "none" or config.mode == "scratch"
    ):
        raise errors.ArgumentError(
            f"--pretrain {config.pretrain} makes weights of its own, for --weights "
            f"none and a --mode other than scratch; they are {config.weights} and "
            f"{config.mode}"
        )
    device = machine.select_device(config.device)
    path = setup.located(config.data)
    folder = data.image_folder(path, seed=config.seed)
    listing = folder.train
    if config.per_class is not None:
        chosen = setup.few(listing.labels, config.per_class, config.seed)
        listing = data.Listing(listing[place] for place in chosen.tolist())
    steps = data.steps_per_epoch(len(listing), config.batch_size)
    prepare = setup.preparation(config.backbone, config.weights, config.size)
    shape = setup.image_shape(prepare)
    classes = folder.class_names
    model = setup.network(config.backbone, config.head, prepare, len(classes))
    up_to = config.up_to
    if config.mode == "partial_fine_tuning" and up_to is None:
        up_to = setup.last_frozen(model, shape)
    plan = transfer.Plan(model, shape, mode, up_to=up_to, stored=config.stored)
    plans = {0: plan, **thawing(config, recipe, model, shape)}
    console.say(
        f"data: {path}, {len(listing):,} pictures to train on and "
        f"{len(folder.validation):,} to test with, of {', '.join(classes)}; on {device}"
    )
    summary = params.summary(model, (1, *shape), frozen=plan.frozen)
    console.say(str(summary))
    pictures = {
        name: data.Pictures(folder, part, prepare.cropped, on_bad=config.on_bad_image)
        for name, part in (("train", listing), ("test", folder.validation))
    }
    described = {
        "study": "cats_dogs",
        **{
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name not in _NOT_STORED
        },
        **dataclasses.asdict(recipe),
        "up_to": up_to,
        "pictures_sha256": [part.fingerprint() for part in pictures.values()],
        "classes": list(classes),
        "preprocessing": dataclasses.asdict(prepare),
    }
    with train.RunFolder.open(
        config.out, described, resume=config.resume, overwrite=config.overwrite
    ) as run_folder:
        keys = jax.random.split(jax.random.key(config.seed), 3)
        pretrained, pretraining = None, None
        if config.pretrain == "rotation":
            pretrained, pretraining = turned(config, prepare, pictures)
        elif config.mode != "scratch":
            pretrained = setup.body(config.backbone, config.weights)
        variables = setup.drawn(model, shape, keys[0], pretrained)
        augment = setup.augmenting(config.augment, shape[0])
        if plan.boundary and augment is not None:
            steps = data.steps_per_epoch(
                len(listing) * views(config), config.batch_size
            )
        optimizer, schedule = optimizers.make(
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            schedule=recipe.schedule,
            total_steps=recipe.epochs * steps,
            momentum=recipe.momentum,
        )
        made: dict[int, data.Dataset] = {}

        def phase(epoch: int, plan: transfer.Plan) -> transfer.Phase:
            def seen_from(variables: Any) -> data.Dataset:
                # The one before is not needed any more.
                made.clear()
                made[epoch] = seen(
                    config, plan, variables, pictures, folder, augment, keys[2]
                )
                return made[epoch]

            return transfer.Phase(
                epoch,
                plan.frozen,
                losses.classification(
                    plan.apply, augment=None if plan.boundary else augment
                ),
                train.Evaluator(plan.apply, batch_size=100),
                seen_from,
            )

        phases = [phase(epoch, plan) for epoch, plan in plans.items()]
        with train.Checkpoints(run_folder.path("checkpoints")) as checkpoints:
            checkpoints.clean()
            resumed, records = None, []
            last = checkpoints.latest()
            if run_folder.resumed:
                records = run_folder.truncate_metrics(last or 0)
                console.say(f"resuming at step {last or 0}")
            begun = transfer.phase_at(phases, last or 0, steps)
            state = train.create(variables, optimizer, key=keys[1], frozen=begun.frozen)
            if last is not None:
                state = checkpoints.restore(state, last)
                resumed = checkpoints.metadata(last)
            # Of the body that is trained on, which a checkpoint may have brought.
            before = {
                epoch: transfer.fingerprint(state, plan.frozen)
                for epoch, plan in plans.items()
            }
            fitted = transfer.fit_phases(
                state,
                optimizer,
                phases,
                epochs=recipe.epochs,
                batch_size=config.batch_size,
                steps_per_epoch=steps,
                seed=config.seed,
                learning_rate=schedule,
                checkpoints=checkpoints,
                records=records,
                resumed=resumed,
                on_phase=lambda phase: announce(phase, plans),
                on_record=run_folder.log,
                resident_bytes=commands.bytes_of(config.device_limit_mb),
                seconds=config.seconds,
            )
        if fitted.stopped.startswith("SIG"):
            console.say(
                f"stopped by {fitted.stopped} after step {int(fitted.state.step)}; "
                f"saved. Go on with: {resume_command(config)}"
            )
            return {"SIGINT": 130, "SIGTERM": 143}[fitted.stopped]
        with signals.StopRequests():
            # Of the phase in which the training ended.
            ((epoch, dataset),) = made.items()
            plan, evaluator = plans[epoch], phases[list(plans).index(epoch)].evaluator
            result = {
                "mode": config.mode,
                "backbone": config.backbone,
                "weights": config.weights,
                "head": config.head,
                "parameters": summary.total,
                "trainable_parameters": params.summary(
                    model, (1, *shape), frozen=plan.frozen
                ).trainable,
                "training_pictures": len(listing),
                "epochs": len(fitted.records),
                "stopped": fitted.stopped,
                "seed": config.seed,
                "features_seconds": fitted.metadata["spent"],
                "train_seconds": fitted.train_seconds,
                "evaluation_seconds": fitted.metadata["beside"],
                "compile_seconds": fitted.compile_seconds,
                "waiting_share": fitted.waiting_share,
                "peak_memory_bytes": machine.peak_memory_bytes(),
                "backend": device.platform,
                "versions": machine.versions(),
            }
            if pretraining:
                result["pretraining"] = pretraining
            if plan.frozen:
                certificate = transfer.certificate(
                    before[epoch], fitted.state, plan, optimizer
                )
                result["freeze_certificate"] = certificate
                if not certificate["unchanged"]:
                    raise AssertionError(f"{mode} changed a frozen parameter")
            result["skipped_pictures"] = {
                name: sorted(part.skipped.values()) for name, part in pictures.items()
            }
            logits = evaluator.predict(fitted.state.variables, dataset.test.images)
            cats_dogs_report.finish(
                run_folder, result, pictures["test"], logits, classes, fitted
            )
    return 0


def compare(config: Config) -> int:
    """Trains in all four modes, each in a process of its own."""
    config = dataclasses.replace(config, seconds=config.seconds or 120.0)
    if config.thaw:
        raise errors.ArgumentError("--thaw needs one --mode, and one that freezes")
    words = {}
    for mode in transfer.MODES:
        own = dataclasses.replace(
            config,
            mode=mode,
            out=config.out / mode,
            # What is for one of the modes only.
            up_to=config.up_to if mode == "partial_fine_tuning" else None,
            pretrain="none" if mode == "scratch" else config.pretrain,
            pretrain_epochs=None if mode == "scratch" else config.pretrain_epochs,
            views=config.views if mode in _FREEZING and config.stored else None,
        )
        resolve(own, mode)
        words[mode] = [
            "-m",
            "experiments.cats_dogs",
            *commands.options(own, without=("resume", "overwrite")),
        ]
    folder = data.image_folder(setup.located(config.data), seed=config.seed)
    prepare = setup.preparation(config.backbone, config.weights, config.size)
    described = {
        **{
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name not in _NOT_STORED
        },
        "pictures_sha256": [
            data.Pictures(
                folder, listing, prepare.cropped, on_bad=config.on_bad_image
            ).fingerprint()
            for listing in (folder.train, folder.validation)
        ],
    }
    return cats_dogs_modes.compare(
        config.out,
        words,
        {"study": "cats_dogs_modes", **described},
        resume=config.resume,
        overwrite=config.overwrite,
    )


_FREEZING = ("feature_extraction", "partial_fine_tuning")
# What does not change the result, or is stored under another name.
_NOT_STORED = {
    "data",
    "features",
    "device_limit_mb",
    "out",
    "resume",
    "overwrite",
    "device",
}


_NEEDS = {
    "views": "it counts stored versions of augmented pictures, so it needs --augment, "
    "a mode that freezes something, and no --no-stored",
    "pretrain_epochs": "it needs --pretrain rotation",
    "schedule": "with --seconds nobody knows how many steps there will be, so it needs "
    "--epochs too",
}


def views(config: Config) -> int:
    """Stored versions of each augmented picture."""
    return config.views or 4


def resolve(config: Config, mode: modes.Mode) -> setup.Recipe:
    """The mode's recipe, with the options that were given in its place."""
    recipe = setup.RECIPES[mode]
    if config.seconds is not None:
        # How many steps there will be, nobody knows yet.
        recipe = dataclasses.replace(recipe, epochs=10_000, schedule="constant")
    given = {
        name: getattr(config, name)
        for name in ("epochs", "optimizer", "learning_rate", "schedule")
        if getattr(config, name) is not None
    }
    if "optimizer" in given:
        recipe = dataclasses.replace(recipe, momentum=None)
    whole = mode in ("fine_tuning", "scratch") or not config.stored
    for name, useless in (
        ("views", config.augment == "none" or whole),
        ("pretrain_epochs", config.pretrain == "none"),
        ("schedule", config.seconds is not None and config.epochs is None),
    ):
        if useless and getattr(config, name) is not None and config.mode != "all":
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} has no effect here: {_NEEDS[name]}"
            )
    for name in ("epochs", "batch_size", "views", "pretrain_epochs"):
        value = given.get(name, getattr(config, name))
        if value is not None and value < 1:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {value}, but must be at least 1"
            )
    if config.seconds is not None and not config.seconds > 0:
        raise errors.ArgumentError(
            f"--seconds is {config.seconds}, but must be a positive number"
        )
    return dataclasses.replace(recipe, **given)


def thawing(
    config: Config, recipe: setup.Recipe, model: Any, shape: tuple[int, int, int]
) -> dict[int, transfer.Plan]:
    """The plans of the phases that follow the first, by the epoch they begin at."""
    plans = {}
    if config.thaw and config.mode in ("fine_tuning", "scratch"):
        raise errors.ArgumentError(
            f"--thaw has no effect with --mode {config.mode}, which freezes nothing"
        )
    if config.thaw and config.augment != "none" and config.stored:
        raise errors.ArgumentError(
            "--thaw with --augment needs --no-stored: with stored views, epochs of the "
            "phases would have other numbers of pictures"
        )
    for words in config.thaw:
        layer, _, epochs = words.rpartition(":")
        if not (layer and epochs.isdecimal() and 0 < int(epochs) < recipe.epochs):
            raise errors.ArgumentError(
                f"--thaw {words} is not LAYER:EPOCHS, with a number of epochs from 1 "
                f"to {recipe.epochs - 1}"
            )
        if layer == "nothing":
            plan = transfer.Plan(model, shape, "fine_tuning")
        else:
            plan = transfer.Plan(
                model,
                shape,
                "partial_fine_tuning",
                up_to=layer,
                stored=config.stored,
            )
        if int(epochs) in plans:
            raise errors.ArgumentError(f"--thaw names epoch {epochs} twice")
        plans[int(epochs)] = plan
    return dict(sorted(plans.items()))


def announce(phase: transfer.Phase, plans: dict[int, transfer.Plan]) -> None:
    """Says what a phase trains, where there are several."""
    if len(plans) > 1:
        frozen = len(phase.frozen)
        console.say(
            f"from epoch {phase.epoch + 1} on {frozen} parameter arrays are frozen"
        )


def turned(
    config: Config,
    prepare: preprocessing.Preprocessing,
    pictures: dict[str, data.Pictures],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body that learned from turned pictures; a resume does it again, the same."""
    console.say("the body learns how pictures were turned")
    learned, tested = (
        setup.in_memory(
            pictures[name].split(), commands.bytes_of(config.device_limit_mb) or 2 << 30
        )
        for name in ("train", "test")
    )
    return setup.rotation_pretrained(
        config.backbone,
        prepare,
        data.Dataset("pictures", learned, tested, (), ""),
        epochs=config.pretrain_epochs or 10,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def seen(
    config: Config,
    plan: transfer.Plan,
    variables: Any,
    pictures: dict[str, data.Pictures],
    folder: data.ImageFolder,
    augment: Any,
    key: jax.Array,
) -> data.Dataset:
    """What the network is trained on and tested with: features, or pictures."""
    parts = {}
    began = time.perf_counter()
    for name, part in pictures.items():
        split = part.split()
        changed = augment if name == "train" and plan.boundary else None
        if plan.boundary is None:
            parts[name] = setup.in_memory(
                split, commands.bytes_of(config.device_limit_mb) or 2 << 30
            )
            continue
        parts[name] = plan.seen(
            variables,
            split,
            augment=changed,
            views=1 if changed is None else views(config),
            key=key,
            folder=config.features,
        )
    if plan.boundary is not None:
        console.say(
            f"features: {parts['train'].images.shape[1]:,} numbers a picture in "
            f"{time.perf_counter() - began:.1f} s, kept in {config.features}"
        )
    return data.Dataset(
        folder.path.stem,
        parts["train"],
        parts["test"],
        folder.class_names,
        f"{folder.path}",
    )


def resume_command(config: Config) -> str:
    """The command that goes on with a run."""
    chosen = commands.options(config, without=("resume", "overwrite"))
    return shlex.join(["python", "-m", "experiments.cats_dogs", *chosen, "--resume"])


def main() -> int:
    """The command line: trains, predicts, or makes the table."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["predict"]:
        return cats_dogs_predict.main(arguments[1:])
    if arguments[:1] == ["table"]:
        return cats_dogs_table.main(arguments[1:])
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.cats_dogs")
    return run(config)


if __name__ == "__main__":
    console.run(main)
