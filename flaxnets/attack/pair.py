"""Two networks with opposite objectives, trained simultaneously by one step.

A generator makes what its opponent, a classifier or a discriminator, is to get wrong.
Each has its own loss, optimizer, statistics and randomness; both learn from the same
batch and from each other as they were before the step. The state is one pytree, and
`train.fit`, checkpoints and resuming take it as they take any other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from flaxnets import errors, train
from flaxnets import params as trees
from flaxnets.train.state import Batch, Metrics, State, Tree

PairLoss = Callable[
    [Tree, Tree, Tree, Batch, jax.Array], tuple[jax.Array, tuple[Tree, Metrics]]
]
"""A loss of one side: `(params, statistics, others, batch, key)` to what a loss gives.

`others` are the variables of the other side. The names of the metrics of the two sides
differ, but for `loss`.
"""
Shown = Literal["all", "one"]
"""What an opponent sees of a population: all generators, or one drawn at each step."""


class Pair(NamedTuple):
    """Everything that training changes in both networks; a pytree, donated.

    Attributes:
        step: int32[], steps of the pair; each side's own `step` counts its updates.
        generator: of one network, or of a population, stacked along a new first axis.
        opponent: the classifier or the discriminator.
    """

    step: jax.Array
    generator: State
    opponent: State

    @property
    def params(self) -> dict[str, Tree]:
        """Both sides' parameters, under `generator` and `opponent`."""
        return {
            "generator": self.generator.params,
            "opponent": self.opponent.params,
        }

    @property
    def variables(self) -> dict[str, Tree]:
        """Both sides' variables, under `generator` and `opponent`."""
        return {
            "generator": self.generator.variables,
            "opponent": self.opponent.variables,
        }


PairStep = Callable[[Pair, Batch], tuple[Pair, Metrics]]


def pair_variables_of(leaves: Mapping[str, Any]) -> dict[str, Tree]:
    """The pair's `variables`, from a checkpoint's leaves by name."""
    tree = trees.unflatten(leaves)
    return {
        side: train.variables_of(trees.flatten(tree[side]))
        for side in ("generator", "opponent")
    }


class Player(NamedTuple):
    """How one side of a pair learns.

    Attributes:
        loss: what it makes small.
        optimizer: any optax transformation; with a population, each member has its own.
        frozen: globs of parameter names that are not trained.
        updates: how often it learns, in proportion to the other side: (1, 5) stands for
            a generator that learns in every fifth step, and an opponent that learns in
            each. The side with the larger number learns in each step.
    """

    loss: PairLoss
    optimizer: optax.GradientTransformation
    frozen: str | Sequence[str] = ()
    updates: int = 1


def create_pair(
    generator: Player | None,
    opponent: Player | None,
    generator_variables: Mapping[str, Tree],
    opponent_variables: Mapping[str, Tree],
    *,
    key: jax.Array,
    population: int | None = None,
) -> Pair:
    """A pair at step 0, which takes over the arrays it is given: steps donate them.

    Args:
        generator, opponent: as for `make_pair_step`.
        generator_variables: `{"params": ..., **statistics}`; of a population, what
            `stack` makes of them.
        opponent_variables: the same of the opponent.
        key: typed PRNG key of the run.
        population: as for `make_pair_step`.

    Raises:
        ArgumentError: the generator's variables are not of such a population.
    """
    _check_population(generator_variables, population)
    keys = jax.random.split(key)
    states = []
    for player, variables, own, several in (
        (generator, generator_variables, keys[0], population is not None),
        (opponent, opponent_variables, keys[1], False),
    ):
        frozen = player.frozen if player is not None else ()
        optimizer = _optimizer_of(player, several)
        states.append(train.create(variables, optimizer, key=own, frozen=frozen))
    return Pair(jnp.zeros((), jnp.int32), *states)


def stack(members: Sequence[Tree]) -> Tree:
    """Trees of one structure as one tree, each leaf along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def make_pair_step(
    generator: Player | None,
    opponent: Player | None,
    *,
    population: int | None = None,
    shown: Shown = "all",
    skip_nonfinite: bool = False,
) -> PairStep:
    """Builds `step(pair, batch) -> (pair, metrics)`, a pure function to be jitted.

    Both sides learn at once: neither sees what the other has learned in this step.

    Args:
        generator: None for one that stays as it is, and is not measured.
        opponent: None for one that stays as it is, such as a classifier under attack.
        population: how many generators there are, each of which learns by itself; None
            for one whose variables are not stacked.
        shown: of a population, to the opponent at each step: "all", whose losses and
            statistics are averaged, or "one" at random.
        skip_nonfinite: as for `train.make_step`, each side by itself.

    Returns:
        The step. Its metrics are those of both losses, of a population averaged; the
        generator's `loss` is called `generator_loss`. A side that does not learn in a
        step is measured all the same. `loss` is the opponent's where there is one, and
        NaN where either is not finite.

    Raises:
        ArgumentError: no side learns, or options that cannot be used.
    """
    sides = {"generator": generator, "opponent": opponent}
    players = {name: player for name, player in sides.items() if player is not None}
    if not players:
        raise errors.ArgumentError(
            "generator and opponent are both None, so nothing would be trained"
        )
    for name, player in players.items():
        if player.updates < 1:
            raise errors.ArgumentError(
                f"the {name}'s updates are {player.updates}, but must be at least 1; "
                f"give {name}=None where it is not to learn"
            )
    if shown not in get_args(Shown):
        raise errors.ArgumentError(
            f"shown is {shown!r}, but must be one of {', '.join(get_args(Shown))}"
        )
    most = max(player.updates for player in players.values())
    turns = {}
    for name, player in players.items():
        loss = player.loss
        if population is not None:
            loss = (
                _of_members(loss, population)
                if name == "generator"
                else _against_members(loss, population, shown)
            )
        elif name == "generator":
            loss = _of_one(loss)
        optimizer = _optimizer_of(
            player, population is not None and name == "generator"
        )
        turns[name] = _turn(player, _with_others(loss), optimizer, most, skip_nonfinite)

    def step(pair: Pair, batch: Batch) -> tuple[Pair, Metrics]:
        _check_population(pair.generator.variables, population)
        variables = pair.variables
        others = {"generator": "opponent", "opponent": "generator"}
        after, metrics, losses = {}, {}, {}
        for name, turn in turns.items():
            inputs: Any = {"batch": batch, "others": variables[others[name]]}
            after[name], found = turn(pair.step, getattr(pair, name), inputs)
            losses[name] = found.pop("loss")
            metrics |= found
        if "generator" in losses:
            metrics["generator_loss"] = losses["generator"]
        finite = jnp.stack([jnp.isfinite(value) for value in losses.values()]).all()
        value = losses["opponent" if "opponent" in losses else "generator"]
        metrics["loss"] = jnp.where(finite, value, jnp.nan)
        return pair._replace(step=pair.step + 1, **after), metrics

    return step


def _optimizer_of(player: Player | None, several: bool) -> optax.GradientTransformation:
    """A player's optimizer, of each member by itself where there are several."""
    if player is None:
        return optax.identity()
    optimizer = player.optimizer
    if not several:
        return optimizer
    # A clip by the global norm, for one, must not see the others' gradients.
    return optax.GradientTransformation(
        jax.vmap(optimizer.init), jax.vmap(optimizer.update)
    )


def _turn(
    player: Player,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    most: int,
    skip_nonfinite: bool,
) -> Callable[[jax.Array, State, Batch], tuple[State, Metrics]]:
    """A side's part of a step: it learns if it is its turn, and is measured."""
    learn = train.make_step(
        loss, optimizer, frozen=player.frozen, skip_nonfinite=skip_nonfinite
    )
    if player.updates == most:
        return lambda step, state, inputs: learn(state, inputs)

    def measure(state: State, inputs: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        _, (_, metrics) = loss(state.params, state.statistics, inputs, key)
        return state, metrics

    def turn(step: jax.Array, state: State, inputs: Batch) -> tuple[State, Metrics]:
        # Its turns are spread evenly, and the last one of `most` steps is always one.
        place = step % most
        before, after = (n * player.updates // most for n in (place, place + 1))
        return jax.lax.cond(after > before, learn, measure, state, inputs)

    return turn


def _with_others(loss: PairLoss) -> Callable:
    """A loss as steps take it: the other side's variables come with the batch."""

    def whole(params: Tree, statistics: Tree, inputs: Any, key: jax.Array) -> Any:
        return loss(params, statistics, inputs["others"], inputs["batch"], key)

    return whole


def _of_one(loss: PairLoss) -> PairLoss:
    """The loss with the key that the only member of a population would have."""

    def whole(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> Any:
        return loss(params, statistics, others, batch, jax.random.split(key, 1)[0])

    return whole


def _of_members(loss: PairLoss, population: int) -> PairLoss:
    """The sum of the members' losses, so that each has the gradient of its own."""

    def whole(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> Any:
        keys = jax.random.split(key, population)
        each = jax.vmap(loss, in_axes=(0, 0, None, None, 0))
        values, (statistics, metrics) = each(params, statistics, others, batch, keys)
        return values.sum(), (statistics, _means(metrics))

    return whole


def _against_members(loss: PairLoss, population: int, shown: Shown) -> PairLoss:
    """The opponent's loss against one member, or its mean over all of them."""

    def one(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> Any:
        drawn, key = jax.random.split(key)
        index = jax.random.randint(drawn, (), 0, population)
        member = jax.tree.map(lambda leaf: leaf[index], others)
        return loss(params, statistics, member, batch, key)

    def every(
        params: Tree, statistics: Tree, others: Tree, batch: Batch, key: jax.Array
    ) -> Any:
        # With one key, so that what does not depend on the member is computed once.
        each = jax.vmap(loss, in_axes=(None, None, 0, None, None))
        values, (statistics, metrics) = each(params, statistics, others, batch, key)
        return values.mean(), (_means(statistics), _means(metrics))

    return every if shown == "all" else one


def _means(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), tree)


def _check_population(variables: Mapping[str, Tree], population: int | None) -> None:
    if population is None:
        return
    if population < 1:
        raise errors.ArgumentError(
            f"population is {population}, but must be at least 1, or None"
        )
    for name, leaf in trees.flatten(variables).items():
        if leaf.shape[:1] != (population,):
            raise errors.ArgumentError(
                f"population is {population}, but the generator's {name} has shape "
                f"{leaf.shape}; stack the variables of {population} generators along "
                "a first axis with flaxnets.attack.stack"
            )
