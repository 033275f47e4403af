"""The losses of a generative pair against formulas."""

import functools

import jax
import numpy as np
import optax
import pytest

from flaxnets import attack, errors, models, params
from tests.attack import players

KEY = jax.random.key(0)


def generator(variables, latents, *, train=False, rngs=None, mutable=()):
    """Pictures of 2x2 pixels: sigmoid(z W)."""
    output = jax.nn.sigmoid(latents @ variables["params"]["kernel"])
    return players.wrapped(output.reshape(-1, 2, 2, 1), variables, mutable)


def quadratic(variables, images, *, train=False, rngs=None, mutable=()):
    """x' A x / 2 + b' x, whose gradient is A x + b for a symmetric A."""
    x = images.reshape(len(images), -1)
    a, b = variables["params"]["matrix"], variables["params"]["vector"]
    logits = ((x @ a) * x).sum(1) / 2 + x @ b
    return players.wrapped(logits, variables, mutable)


def parts():
    matrix = players.drawn(0, 4, 4)
    discriminator = {"matrix": matrix + matrix.T, "vector": players.drawn(1, 4)}
    return {"kernel": players.drawn(2, 3, 4)}, discriminator


def test_r1_is_half_of_gamma_times_the_squared_slope_at_real_pictures() -> None:
    made, discriminator = parts()
    batch = players.batch(0)

    def values(discriminator, gamma):
        loss = attack.discriminating(generator, quadratic, latent=3, r1=gamma)
        return loss(discriminator, {}, {"params": made}, batch, KEY)[0]

    @players.quick
    def both(discriminator):
        return [
            jax.value_and_grad(lambda tree, gamma=gamma: values(tree, gamma))(
                discriminator
            )
            for gamma in (0.0, 3.0)
        ]

    (plain, gradients), (whole, more) = both(discriminator)
    x = batch["image"].reshape(6, -1)
    slopes = x @ discriminator["matrix"] + discriminator["vector"]
    expected = 3.0 / 2 * np.square(slopes).sum(1).mean()
    np.testing.assert_allclose(whole - plain, expected, rtol=1e-5)
    # The derivative of the penalty: gamma times the mean of (A x + b), and of its
    # outer product with x, symmetric as the slope of x' A x / 2 is.
    np.testing.assert_allclose(
        more["vector"] - gradients["vector"], 3 * slopes.mean(0), rtol=1e-4
    )
    outer = 3 * slopes.T @ x / 6
    np.testing.assert_allclose(
        more["matrix"] - gradients["matrix"], (outer + outer.T) / 2, rtol=1e-4
    )


def test_losses_are_the_cross_entropies_of_real_and_made() -> None:
    made, discriminator = parts()
    batch, networks = players.batch(0), (generator, quadratic)
    seen = {}

    def recording(variables, latents, **options):
        seen["latents"] = latents
        return generator(variables, latents, **options)

    @players.quick
    def run():
        own = attack.generating(recording, quadratic, latent=3)
        first = own(made, {}, {"params": discriminator}, batch, KEY)
        latents = [seen["latents"]]
        other = attack.discriminating(recording, quadratic, latent=3)
        second = other(discriminator, {}, {"params": made}, batch, KEY)
        return first, second, [*latents, seen["latents"]]

    (value, (_, _)), (other, (_, metrics)), latents = run()

    @players.quick
    def normal(key):
        keys = jax.random.split(key)
        return [jax.random.normal(own, (6, 3)) for own in keys]

    def logits(images):
        return np.asarray(quadratic({"params": discriminator}, images)[0], np.float64)

    def pictures(latents):
        return np.asarray(generator({"params": made}, latents)[0])

    # Non-saturating: -log D(G(z)), and for the other -log D(x) - log(1 - D(G(z))).
    expected = np.log1p(np.exp(-logits(pictures(latents[0])))).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    real, false = logits(batch["image"]), logits(pictures(latents[1]))
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(false)).mean()
    np.testing.assert_allclose(other, expected, rtol=1e-5)
    scores = [(1 / (1 + np.exp(-part))).mean() for part in (real, false)]
    found = metrics["real_score"], metrics["made_score"]
    np.testing.assert_allclose(found, scores, rtol=1e-5)

    measure = attack.generative_measure(*networks, latent=3, population=2)
    several = attack.stack([{"params": made}, {"params": made}])
    variables = {"generator": several, "opponent": {"params": discriminator}}
    arguments = variables, batch["image"], batch["label"], KEY
    measured = players.quick(measure)(*arguments)
    assert {value.shape for value in measured.values()} == {(6,)}
    np.testing.assert_allclose(measured["real_score"].mean(), scores[0], rtol=1e-5)
    each = np.stack([logits(pictures(drawn)) for drawn in normal(KEY)])
    false = np.log1p(np.exp(each)).mean(axis=0)
    np.testing.assert_allclose(
        measured["loss"], np.log1p(np.exp(-real)) + false, rtol=1e-5
    )
    right = ((real > 0) + (each <= 0).mean(axis=0)) / 2
    np.testing.assert_allclose(measured["accuracy"], right, rtol=1e-6)


def test_all_that_is_judged_is_changed_by_keys_of_its_own() -> None:
    made, discriminator = parts()
    batch, seen = players.batch(0), []

    def recording(variables, latents, **options):
        seen.append(latents)
        return generator(variables, latents, **options)

    def dimmed(key, images):
        seen.append(jax.random.uniform(key))
        return seen[-1] * images

    given = {"latent": 3, "augment": dimmed}

    @players.quick
    def run():
        own = attack.generating(recording, quadratic, **given)
        first = own(made, {}, {"params": discriminator}, batch, KEY)[0]
        other = attack.discriminating(recording, quadratic, **given)
        return first, other(discriminator, {}, {"params": made}, batch, KEY)[0], seen

    value, other, (latents, factor, *rest) = jax.device_get(run())
    assert len({float(one) for one in (factor, *rest[1:])}) == 3

    def logits(images):
        return np.asarray(quadratic({"params": discriminator}, images)[0], np.float64)

    def pictures(latents):
        return np.asarray(generator({"params": made}, latents)[0])

    false = logits(factor * pictures(latents))
    np.testing.assert_allclose(value, np.log1p(np.exp(-false)).mean(), rtol=1e-5)
    real, false = logits(rest[1] * batch["image"]), logits(rest[2] * pictures(rest[0]))
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(false)).mean()
    np.testing.assert_allclose(other, expected, rtol=1e-5)


def test_the_average_of_parameters_is_kept_beside_them() -> None:
    made, discriminator = parts()
    sides = (
        attack.Player(
            attack.generating(generator, quadratic, latent=3, average=0.75),
            optax.sgd(0.5),
        ),
        attack.Player(
            attack.discriminating(generator, quadratic, latent=3), optax.sgd(0.5)
        ),
    )
    begun = attack.with_average({"params": made})
    pair = attack.create_pair(*sides, begun, {"params": discriminator}, key=KEY)
    step = players.quick(attack.make_pair_step(*sides))
    expected = dict(made)
    for number in range(3):
        now = jax.device_get(pair.generator.params)
        expected = {name: 0.75 * expected[name] + 0.25 * now[name] for name in now}
        pair, _ = step(pair, players.batch(number))
    found = attack.averaged(pair.variables["generator"])
    assert set(found) == {"params"}
    for name, value in expected.items():
        np.testing.assert_allclose(found["params"][name], value, rtol=1e-5)
        assert not np.allclose(value, now[name])
    with pytest.raises(errors.ArgumentError, match="average is 1.5"):
        attack.generating(generator, quadratic, latent=3, average=1.5)


def test_a_discriminator_is_measured_as_it_learns() -> None:
    """With the statistics of a batch of one kind, and not with what it has stored."""
    made = models.DCGANGenerator((4, 4), 1, (2,))
    judge = models.DCGANDiscriminator((2, 3), "batch")
    images = np.random.default_rng(0).random((6, 4, 4, 1), np.float32)
    variables = {
        "generator": params.initialize(made, jax.random.key(0), (1, 2)),
        "opponent": params.initialize(judge, jax.random.key(1), (1, 4, 4, 1)),
    }
    measure = attack.generative_measure(made.apply, judge.apply, latent=2)
    labels = np.zeros(6, np.int32)
    found = players.quick(measure)(variables, images, labels, KEY)

    @players.quick
    def judged(variables, images):
        apply = functools.partial(judge.apply, train=True, mutable=["batch_stats"])
        return apply(variables, images)[0][0]

    expected = 1 / (1 + np.exp(-judged(variables["opponent"], images)))
    np.testing.assert_allclose(found["real_score"], expected, rtol=1e-4)


def test_dcgan_with_all_options_takes_steps() -> None:
    """Spectral normalisation within R1: twice differentiated convolutions."""
    made = models.DCGANGenerator((4, 4), 1, (2,))
    judge = models.DCGANDiscriminator((2,), "spectral")
    networks = made.apply, judge.apply
    sides = (
        attack.Player(attack.generating(*networks, latent=2), optax.sgd(0.1)),
        attack.Player(
            attack.discriminating(*networks, latent=2, r1=1.0), optax.sgd(0.1)
        ),
    )
    variables = (
        params.initialize(made, jax.random.key(0), (1, 2)),
        params.initialize(judge, jax.random.key(1), (1, 4, 4, 1)),
    )
    pair = attack.create_pair(*sides, *variables, key=KEY)
    batch = players.batch(0, 4)
    batch["image"] = np.tile(batch["image"], (1, 2, 2, 1))
    after, metrics = players.quick(attack.make_pair_step(*sides))(pair, batch)
    assert all(np.isfinite(value) for value in metrics.values())
    before, now = (params.flatten(state.variables) for state in (pair, after))
    still = [name for name in now if np.array_equal(before[name], now[name])]
    # The last layer has one kernel, whose vector is one number of size one.
    assert still == ["opponent/batch_stats/logits/singular"]


def test_a_gamma_that_is_none_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="r1 is -1"):
        attack.discriminating(generator, quadratic, latent=3, r1=-1)
