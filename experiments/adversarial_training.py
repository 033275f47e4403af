"""The study's trainings: a classifier, generators of noise, and both at once."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import commands
from flaxnets import attack, console, data, models, params, train
from flaxnets.attack.pair import PairLoss
from flaxnets.train import losses, optimizers
from flaxnets.train.evaluation import Apply
from flaxnets.train.state import Batch, Metrics

Robust = Literal["pgd", "trades", "fgsm"]
# By how many logits a generator wants another class to be ahead.
CONFIDENCE = 2.0
# Of the attack that watches classifiers while they learn.
WATCHING_STEPS = 20


class Players(NamedTuple):
    """Both sides, and what all their trainings share.

    Attributes:
        apply: of the classifier.
        perturber: the generator.
        shape: of the pictures, [H, W, C].
        epsilon: the largest change of a value.
        tuned: whether the classifier sets out from trained parameters.
        together: pictures at a time in evaluations.
        seed: of everything random.
    """

    apply: Apply
    perturber: models.Perturber
    shape: tuple[int, ...]
    epsilon: float
    tuned: bool
    together: int
    seed: int

    def key(self, number: int) -> jax.Array:
        """A key of one purpose."""
        return jax.random.fold_in(jax.random.key(self.seed), number)


class Training(NamedTuple):
    """A training as `train.fit` takes it.

    Attributes:
        state: at step 0.
        step: of it.
        evaluator: asked after each epoch.
        schedule: of the learning rate.
    """

    state: Any
    step: Callable[[Any, Batch], tuple[Any, Metrics]]
    evaluator: train.Evaluation
    schedule: optax.Schedule


class Trained(NamedTuple):
    """What a training gave.

    Attributes:
        variables: of the last step, on the host; a pair's are both sides'.
        seconds: in steps, without compilation and evaluation.
    """

    variables: Any
    seconds: float


class Course:
    """Trainings one after the other in a run folder, and the rows that they log.

    A training that was stopped goes on from its last checkpoint. A row's `step` counts
    the steps of all trainings before it too, so that rows are in the order of steps.

    Args:
        folder: of the run.
        dataset: what all train on.
        epochs: of each training by its name, in their order.
        batch_size: pictures per step.
        seed: of the order of pictures.

    Attributes:
        rows: of metrics.jsonl, those of an earlier process included.
    """

    def __init__(
        self,
        folder: train.RunFolder,
        dataset: data.Dataset,
        epochs: Mapping[str, int],
        batch_size: int,
        seed: int,
    ) -> None:
        self._folder, self._dataset = folder, dataset
        self._epochs, self._batch_size, self._seed = epochs, batch_size, seed
        self._per_epoch = data.steps_per_epoch(len(dataset.train.labels), batch_size)
        reached = self._reached()
        self.rows = folder.truncate_metrics(reached) if folder.resumed else []

    def steps(self, name: str) -> int:
        """Of a whole training."""
        return self._epochs[name] * self._per_epoch

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends a row that is not a training's."""
        places = [own["step"] for own in self.rows]
        whole = {"step": max([sum(map(self.steps, self._epochs)), *places]) + 1, **row}
        self._folder.log(whole)
        self.rows.append(whole)

    def history(self, name: str) -> list[dict[str, Any]]:
        """The rows of a training, one an epoch."""
        return [row for row in self.rows if row.get("training") == name]

    def trained(
        self,
        name: str,
        make: Callable[[int], Training],
        test: data.Split,
        read: Callable[[Mapping[str, Any]], Any] = train.variables_of,
    ) -> Trained:
        """Does a training, or what is left of it.

        Args:
            name: of the training.
            make: it, given its steps.
            test: pictures of the evaluations.
            read: variables from a checkpoint's leaves.
        """
        directory = self._folder.path("checkpoints") / name
        with train.Checkpoints(directory) as checkpoints:
            checkpoints.clean()
            last = checkpoints.latest()
            if last is not None and last >= self.steps(name):
                seconds = checkpoints.metadata(last)["seconds"]
                return Trained(read(checkpoints.leaves(last)), seconds)
            console.say(f"training: {name}, {self._epochs[name]} epochs")
            training = make(self.steps(name))
            state, resumed = training.state, None
            if last is not None:
                state = checkpoints.restore(state, last)
                resumed = checkpoints.metadata(last)
            before = self._before(name)

            def record(values: Mapping[str, Any]) -> None:
                row = {"training": name, **values, "step": before + values["step"]}
                self._folder.log(row)
                self.rows.append(row)

            fitted = train.fit(
                state,
                training.step,
                self._dataset._replace(test=test),
                epochs=self._epochs[name],
                batch_size=self._batch_size,
                seed=self._seed,
                evaluator=training.evaluator,
                learning_rate=training.schedule,
                checkpoints=checkpoints,
                records=self.history(name),
                resumed=resumed,
                on_record=record,
            )
        commands.whole(fitted)
        variables = jax.device_get(fitted.state.variables)
        return Trained(variables, fitted.train_seconds)

    def _before(self, name: str) -> int:
        """Steps of the trainings before one."""
        names = list(self._epochs)
        return sum(map(self.steps, names[: names.index(name)]))

    def _reached(self) -> int | None:
        """The step of the last checkpoint, counted as the rows' steps are.

        None if all trainings are whole.
        """
        for name in self._epochs:
            directory = self._folder.path("checkpoints") / name
            with train.Checkpoints(directory) as checkpoints:
                last = checkpoints.latest() or 0
            if last < self.steps(name):
                return self._before(name) + last
        return None


def plain(players: Players, variables: Any, rate: float, steps: int) -> Training:
    """A classifier that learns clean pictures.

    Fine-tuned as in the cats-and-dogs study, or from new parameters with AdamW.

    Args:
        players: see there.
        variables: to begin with.
        rate: the highest learning rate.
        steps: of the training.
    """
    name, schedule, momentum = "adamw", "onecycle", None
    if players.tuned:
        name, schedule, momentum = "sgd", "cosine", 0.9
    optimizer, rates = optimizers.make(
        name,
        learning_rate=rate,
        schedule=schedule,
        total_steps=steps,
        momentum=momentum,
    )
    return Training(
        train.create(_copied(variables), optimizer, key=players.key(0)),
        train.make_step(losses.classification(players.apply), optimizer),
        train.Evaluator(players.apply, batch_size=players.together),
        rates,
    )


def robust(
    players: Players,
    variables: Any,
    kind: Robust,
    rate: float,
    attack_steps: int,
    step_share: float,
    warmup: float,
    beta: float,
    steps: int,
) -> Training:
    """A classifier that learns adversarial pictures, whose epsilon grows at first.

    With all of it from the start, training at 0.3 may never leave the loss of guessing.

    Args:
        players, variables, rate, steps: see `plain`.
        kind: the way.
        attack_steps: of the attack's gradient steps, but for "fgsm".
        step_share: the length of each, as a share of epsilon.
        warmup: the share of the steps in which epsilon grows.
        beta: see `attack.trades`.
    """
    epsilon = players.epsilon
    size = step_share * epsilon
    attacks = {
        "pgd": lambda: attack.pgd(epsilon, steps=attack_steps, step_size=size),
        "trades": lambda: attack.kl_pgd(epsilon, steps=attack_steps, step_size=size),
        "fgsm": lambda: attack.fgsm(epsilon, random_start=True),
    }
    strongest = attacks[kind]()
    growing = max(round(warmup * steps), 1)
    optimizer, rates = optimizers.make(
        "adamw", learning_rate=rate, schedule="onecycle", total_steps=steps
    )

    def step(state: train.State, batch: Batch) -> tuple[train.State, Metrics]:
        scale = jnp.minimum((state.step + 1) / growing, 1.0)
        now = attack.scaled(strongest, scale)
        if kind == "trades":
            loss = attack.trades(players.apply, now, beta=beta)
        else:
            loss = attack.adversarial(players.apply, now)
        return train.make_step(loss, optimizer)(state, batch)

    return Training(
        train.create(_copied(variables), optimizer, key=players.key(1)),
        step,
        _evaluator(players, watching(players.apply, epsilon), "pgd_accuracy"),
        rates,
    )


def generator(
    players: Players, classifier: Any, rate: float, number: int, steps: int
) -> Training:
    """A new generator against a classifier that stays as it is.

    Args:
        players, rate, steps: see `plain`.
        classifier: its variables.
        number: of the generator; none begins as another does.
    """
    optimizer, rates = optimizers.make(
        "adam", learning_rate=rate, schedule="onecycle", total_steps=steps
    )
    networks = players.perturber.apply, players.apply
    side = attack.Player(_misleading(players), optimizer)
    keys = jax.random.split(jax.random.fold_in(players.key(3), number))
    fresh = params.initialize(players.perturber, keys[0], (1, *players.shape))
    return Training(
        attack.create_pair(side, None, fresh, _copied(classifier), key=keys[1]),
        attack.make_pair_step(side, None),
        _evaluator(players, attack.noise_measure(*networks), "success_rate"),
        rates,
    )


def game(
    players: Players,
    generator: Any,
    classifier: Any,
    rate: float,
    share: float,
    updates: tuple[int, int],
    steps: int,
) -> Training:
    """A trained generator and a trained classifier, which go on learning at once.

    Args:
        players: see there.
        generator, classifier: variables to begin with.
        rate: Adam's, of both sides.
        share: what pictures with noise count for the classifier.
        updates: of the generator and of the classifier, in proportion.
        steps: of the training.
    """
    networks = players.perturber.apply, players.apply
    optimizer, rates = optimizers.make("adam", learning_rate=rate, total_steps=steps)
    misleads = _misleading(players)
    withstands = attack.withstanding(*networks, share=share)
    sides = (
        attack.Player(misleads, optimizer, updates=updates[0]),
        attack.Player(withstands, optimizer, updates=updates[1]),
    )
    noise = attack.noise_measure(*networks)
    watch = watching(players.apply, players.epsilon)

    def measure(
        variables: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        return {
            **noise(variables, images, labels, key),
            **watch(variables["opponent"], images, labels, key),
        }

    return Training(
        attack.create_pair(
            *sides, _copied(generator), _copied(classifier), key=players.key(4)
        ),
        attack.make_pair_step(*sides),
        _evaluator(players, measure, "robust_accuracy"),
        rates,
    )


def watching(
    apply: Apply, epsilon: float
) -> Callable[[Any, jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]:
    """What is measured of a classifier that learns: clean, and under a short PGD.

    Args:
        apply: of the classifier.
        epsilon: the attack's.

    Returns:
        `(variables, images, labels, key) -> {name: f32[B]}`, with the `loss` and the
        `accuracy` of clean pictures and `pgd_accuracy`.
    """
    climbing = attack.pgd(epsilon, steps=WATCHING_STEPS)

    def measure(
        variables: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        def logits(points: jax.Array) -> jax.Array:
            return apply(variables, points)[0].astype(jnp.float32)

        clean = logits(images)
        found = logits(climbing(logits, images, labels, key))
        return {
            "loss": losses.cross_entropy(clean, labels),
            "accuracy": (clean.argmax(axis=-1) == labels).astype(jnp.float32),
            "pgd_accuracy": (found.argmax(axis=-1) == labels).astype(jnp.float32),
        }

    return measure


def _evaluator(players: Players, measure: Any, metric: str) -> attack.PairEvaluator:
    return attack.PairEvaluator(
        measure, metric=metric, key=players.key(2), batch_size=players.together
    )


def _misleading(players: Players) -> PairLoss:
    """A generator's loss, in the game too.

    It ends where a picture is misread, so that the generator turns to those that still
    resist: cross-entropy, which has no end, turned all pictures into one class, and
    left those of that class. And it does not fade where the classifier is ahead, as the
    gradient of cross-entropy does there.
    """
    networks = players.perturber.apply, players.apply
    return attack.misleading(*networks, objective="hinge", confidence=CONFIDENCE)


def _copied(variables: Any) -> Any:
    """Arrays of its own, since a training gives away what it is begun with."""
    return jax.tree.map(np.array, variables)
