"""Both sides of a pair, against loops written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import attack, errors
from tests.attack import players

RATES = {"generator": 0.2, "opponent": 0.05}


def mean_cross_entropy(logits, labels):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 3), 1))


def moved(kernel, images):
    noise = 0.3 * jnp.tanh(images.reshape(len(images), -1) @ kernel)
    return images + noise.reshape(images.shape)


def shown(kernel, images):
    return jnp.clip(moved(kernel, images), 0, 1)


@jax.jit
def generator_loss(kernel, opponent, batch):
    """Written without the library's losses."""
    pictures = shown(kernel, batch["image"]).reshape(len(batch["image"]), -1)
    return -mean_cross_entropy(pictures @ opponent, batch["label"])


def generator_gradient(kernel, opponent, batch):
    """As if nothing were cut, but where a step would lead farther out of [0, 1]."""
    values, pull = jax.vjp(lambda kernel: moved(kernel, batch["image"]), kernel)

    def loss(pictures):
        logits = pictures.reshape(len(pictures), -1) @ opponent
        return -mean_cross_entropy(logits, batch["label"])

    slopes = jax.grad(loss)(jnp.clip(values, 0, 1))
    stepped = jnp.clip(jnp.clip(values, 0, 1) - 1e-3 * jnp.sign(slopes), 0, 1)
    inward = (stepped != jnp.clip(values, 0, 1)) | ((values >= 0) & (values <= 1))
    return pull(jnp.where(inward, slopes, 0))[0]


@jax.jit
def opponent_loss(opponent, kernel, batch):
    pictures = batch["image"].reshape(len(batch["image"]), -1)
    clean = mean_cross_entropy(pictures @ opponent, batch["label"])
    return 0.75 * clean - 0.25 * generator_loss(kernel, opponent, batch)


def sides(*, optimizers=None, updates=(1, 1), **options):
    optimizers = optimizers or (
        optax.adam(RATES["generator"]),
        optax.sgd(RATES["opponent"], momentum=0.9),
    )
    networks = players.generator, players.classifier
    made = (
        attack.misleading(*networks, **options),
        attack.withstanding(*networks, share=0.25),
    )
    return tuple(
        attack.Player(loss, optimizer, updates=number)
        for loss, optimizer, number in zip(made, optimizers, updates, strict=True)
    )


def begun(generator, opponent, variables=None, **options):
    return attack.create_pair(
        generator,
        opponent,
        players.generator_variables(0) if variables is None else variables,
        players.classifier_variables(1),
        key=jax.random.key(2),
        **options,
    )


def kernels(pair):
    return pair.generator.params["kernel"], pair.opponent.params["kernel"]


def test_equals_a_loop_with_two_optimizers_step_for_step() -> None:
    generator, opponent = sides()
    pair = begun(generator, opponent)
    step = players.quick(attack.make_pair_step(generator, opponent))

    made, tested = kernels(pair)
    optimizers = generator.optimizer, opponent.optimizer
    moments = tuple(
        optimizer.init(kernel)
        for optimizer, kernel in zip(optimizers, (made, tested), strict=True)
    )

    @players.quick
    def by_hand(made, tested, moments, batch):
        gradients = (
            generator_gradient(made, tested, batch),
            jax.grad(opponent_loss)(tested, made, batch),
        )
        found = [
            optimizer.update(*arguments)
            for optimizer, *arguments in zip(
                optimizers, gradients, moments, (made, tested), strict=True
            )
        ]
        (one, first), (other, second) = found
        return made + one, tested + other, (first, second)

    for number in range(5):
        batch = players.batch(number)
        values = generator_loss(made, tested, batch), opponent_loss(tested, made, batch)
        made, tested, moments = by_hand(made, tested, moments, batch)
        pair, metrics = step(pair, batch)
        # Sums in another order: a few roundings of float32 in each step.
        for found, expected in zip(kernels(pair), (made, tested), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        found = metrics["generator_loss"], metrics["loss"]
        np.testing.assert_allclose(found, values, rtol=1e-4)
    assert [int(x.step) for x in (pair, pair.generator, pair.opponent)] == [5, 5, 5]
    # Twice in each step: clean, and with noise; the generator's loss stores nothing.
    assert int(pair.opponent.statistics["calls"]["number"]) == 10


def test_each_side_alone_moves_only_itself_and_against_the_other() -> None:
    rates = tuple(optax.sgd(rate) for rate in (1e-2, 1e-2))
    generator, opponent = sides(optimizers=rates)
    batch = players.batch(0)
    for players_, still, rises in (
        ((generator, None), 1, True),
        ((None, opponent), 0, False),
    ):
        pair = begun(*players_)
        after, metrics = players.quick(attack.make_pair_step(*players_))(pair, batch)
        before = kernels(pair)
        np.testing.assert_array_equal(kernels(after)[still], before[still])
        assert not np.array_equal(kernels(after)[1 - still], before[1 - still])
        errors_ = [-generator_loss(*kernels(state), batch) for state in (pair, after)]
        assert (errors_[1] > errors_[0]) == rises
        assert ("generator_loss" in metrics, "accuracy" in metrics) == (
            (True, False) if rises else (False, True)
        )
        assert (int(after.step), int(after.opponent.step)) == (1, int(not rises))


def test_the_ratio_of_updates() -> None:
    """Three turns in five steps, evenly spread; measured in each of them."""
    generator, opponent = sides(updates=(3, 5))
    pair = begun(generator, opponent)
    step = players.quick(attack.make_pair_step(generator, opponent))
    counts, batch = [], players.batch(0)
    for number in range(10):
        made, tested = kernels(pair)
        expected = generator_loss(made, tested, batch)
        after, metrics = step(pair, batch)
        np.testing.assert_allclose(metrics["generator_loss"], expected, rtol=1e-5)
        learned = int(after.generator.step) > int(pair.generator.step)
        assert np.array_equal(kernels(after)[0], made) != learned
        assert int(after.opponent.step) == number + 1
        assert not np.array_equal(kernels(after)[1], tested)
        pair = after
        counts.append(int(pair.generator.step))
    assert counts == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]


def test_a_population_of_one_is_a_single_generator() -> None:
    # With targets that are drawn, so that the keys have to be the same as well.
    generator, opponent = sides(targets=attack.other_classes(3))
    variables = players.generator_variables(0)
    pairs = (
        (begun(generator, opponent, variables), {}),
        (
            begun(generator, opponent, attack.stack([variables]), population=1),
            {"population": 1},
        ),
    )
    ends = []
    for pair, options in pairs:
        step = players.quick(attack.make_pair_step(generator, opponent, **options))
        for number in range(3):
            pair, metrics = step(pair, players.batch(number))
        ends.append((*kernels(pair), *(metrics[name] for name in sorted(metrics))))
    single, several = ends
    for one, other in zip(single, (several[0][0], *several[1:]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_members_learn_by_themselves_and_the_opponent_from_their_mean() -> None:
    # A clip that saw all members' gradients would make their updates smaller.
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    generator, opponent = sides(optimizers=(clipped, optax.sgd(1.0)))
    members = [players.generator_variables(seed) for seed in range(3)]
    several, batch = attack.stack(members), players.batch(0)
    alone = players.quick(attack.make_pair_step(generator, opponent))
    ends = [alone(begun(generator, opponent, each), batch) for each in members]
    together, drawn = (
        attack.make_pair_step(generator, opponent, population=3, shown=seen)
        for seen in ("all", "one")
    )
    pair = begun(generator, opponent, several, population=3)
    after, metrics = players.quick(together)(pair, batch)
    for index, (end, _) in enumerate(ends):
        np.testing.assert_allclose(
            kernels(after)[0][index], kernels(end)[0], rtol=1e-5, atol=1e-7
        )
    opponents = np.stack([kernels(end)[1] for end, _ in ends])
    np.testing.assert_allclose(kernels(after)[1], opponents.mean(0), rtol=1e-5)
    for name in metrics:
        mean = np.mean([found[name] for _, found in ends])
        np.testing.assert_allclose(metrics[name], mean, rtol=1e-5)
    # Against one, it learns what it would have learned from that one alone.
    seen, drawn = set(), players.quick(drawn)
    for number in range(8):
        own = pair.opponent._replace(key=jax.random.key(number))
        found = kernels(drawn(pair._replace(opponent=own), batch)[0])[1]
        close = [np.allclose(found, each, rtol=1e-5) for each in opponents]
        assert sum(close) == 1
        seen.add(close.index(True))
    assert seen == {0, 1, 2}


def test_what_is_not_finite_is_left_out_on_both_sides() -> None:
    generator, opponent = sides()
    pair = begun(generator, opponent)
    step = attack.make_pair_step(generator, opponent, skip_nonfinite=True)
    broken = players.batch(0)
    broken["image"][0] = np.nan
    after, metrics = players.quick(step)(pair, broken)
    assert np.isnan(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after.variables, pair.variables)
    assert int(after.step) == 1


def test_a_generator_that_is_not_finite_shows_in_the_loss() -> None:
    def broken(params, statistics, others, batch, key):
        return jnp.nan * params["kernel"].sum(), (statistics, {"loss": jnp.nan})

    generator, opponent = sides()
    generator = generator._replace(loss=broken)
    pair = begun(generator, opponent)
    _, metrics = players.quick(attack.make_pair_step(generator, opponent))(
        pair, players.batch(0)
    )
    assert np.isnan(metrics["loss"])
    assert np.isfinite(metrics["accuracy"])


def test_bad_options_are_refused() -> None:
    generator, opponent = sides()
    with pytest.raises(errors.ArgumentError, match="nothing would be trained"):
        attack.make_pair_step(None, None)
    with pytest.raises(errors.ArgumentError, match="opponent=None where it is not to"):
        attack.make_pair_step(generator, opponent._replace(updates=0))
    with pytest.raises(errors.ArgumentError, match="one of all, one"):
        attack.make_pair_step(generator, opponent, shown="some")  # type: ignore
    for count, message in ((2, r"kernel has shape \(4, 4\)"), (0, "at least 1")):
        with pytest.raises(errors.ArgumentError, match=message):
            begun(generator, opponent, population=count)
    step = attack.make_pair_step(generator, opponent, population=2)
    with pytest.raises(errors.ArgumentError, match="attack.stack"):
        jax.eval_shape(step, begun(generator, opponent), players.batch(0))
