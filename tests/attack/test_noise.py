"""The losses of learned noise, and what is measured of it, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import attack, errors, models, params
from tests.attack import players

NETWORKS = players.generator, players.classifier
KEY = jax.random.key(0)


def by_hand(generator, classifier, batch, targets=None):
    """Noise, the pictures with it, and their logits."""
    images = batch["image"]
    output = images.reshape(len(images), -1) @ generator["params"]["kernel"]
    if targets is not None:
        output = output + generator["params"]["targets"][targets][:, None]
    noise = (0.3 * np.tanh(output)).reshape(images.shape)
    shown = np.clip(images + noise, 0, 1)
    kernel = classifier["params"]["kernel"]
    return noise, shown, shown.reshape(len(images), -1) @ kernel


def margins(logits, labels):
    """Each label's logit less the largest of the others."""
    return np.array(
        [
            row[k] - np.delete(row, k).max()
            for row, k in zip(logits, labels, strict=True)
        ]
    )


def measured(loss, generator, classifier, batch):
    def run(params, others, batch):
        return loss(params, {}, others, batch, KEY)

    run = players.quick(jax.value_and_grad(run, has_aux=True))
    (value, (_, metrics)), gradients = run(generator["params"], classifier, batch)
    return value, metrics, gradients


def to_two(key, labels):
    return jnp.full_like(labels, 2)


@pytest.mark.parametrize("targets", [None, to_two])
def test_the_hinge_and_the_penalty(targets) -> None:
    generator, classifier = (
        players.generator_variables(0),
        players.classifier_variables(1),
    )
    batch = players.batch(0, 12)
    loss = attack.misleading(
        *NETWORKS,
        objective="hinge",
        confidence=0.1,
        targets=targets,
        norm_limit=0.3,
        norm_weight=2.0,
    )
    value, metrics, _ = measured(loss, generator, classifier, batch)
    goals = batch["label"] if targets is None else np.full(12, 2)
    noise, shown, logits = by_hand(
        generator, classifier, batch, None if targets is None else goals
    )
    ahead = margins(logits, goals) * (1 if targets is None else -1)
    norms = np.sqrt(np.square(noise).sum(axis=(1, 2, 3)))
    # Neither part is all on one side of its bend.
    assert (ahead > -0.1).any() and (ahead < -0.1).any()
    assert (norms > 0.3).any()
    expected = np.maximum(ahead, -0.1).mean() + 2 * np.maximum(norms - 0.3, 0).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    fooled = (logits.argmax(1) == goals) == (targets is not None)
    difference = shown - batch["image"]
    np.testing.assert_allclose(metrics["success_rate"], fooled.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["noise_l2"],
        np.sqrt(np.square(difference).sum(axis=(1, 2, 3))).mean(),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        metrics["noise_linf"], np.abs(difference).max(axis=(1, 2, 3)).mean(), rtol=1e-5
    )


def test_the_target_is_made_likely() -> None:
    generator, classifier = (
        players.generator_variables(0),
        players.classifier_variables(1),
    )
    batch = players.batch(0)
    loss = attack.misleading(*NETWORKS, targets=to_two)
    value, _, _ = measured(loss, generator, classifier, batch)
    _, _, logits = by_hand(generator, classifier, batch, np.full(6, 2))
    chosen = np.exp(logits)[:, 2] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(value, -np.log(chosen).mean(), rtol=1e-5)


def test_no_noise_has_a_gradient_that_is_finite() -> None:
    generator = jax.tree.map(np.zeros_like, players.generator_variables(0))
    loss = attack.misleading(*NETWORKS, objective="hinge", norm_limit=0.0)
    arguments = generator, players.classifier_variables(1), players.batch(0)
    value, _, gradients = measured(loss, *arguments)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_other_classes_are_all_classes_but_the_true_one() -> None:
    labels = np.arange(400, dtype=np.int32) % 4
    found = np.asarray(players.quick(attack.other_classes(4))(KEY, labels))
    pairs = set(zip(labels.tolist(), found.tolist(), strict=True))
    assert pairs == {
        (one, other) for one in range(4) for other in range(4) if one != other
    }


def test_what_is_measured_of_a_population() -> None:
    """13 pictures in batches of 5: each counts once, and the worst noise counts."""
    members = [players.generator_variables(seed) for seed in range(3)]
    classifier, batch = players.classifier_variables(1), players.batch(0, 13)
    evaluator = attack.PairEvaluator(
        attack.noise_measure(*NETWORKS, population=3),
        metric="robust_accuracy",
        key=KEY,
        batch_size=5,
    )
    variables = {"generator": attack.stack(members), "opponent": classifier}
    images, labels = batch["image"], batch["label"]
    evaluator.prepare(variables, images)
    found = evaluator.evaluate(variables, images, labels)
    clean = images.reshape(13, -1) @ classifier["params"]["kernel"]
    each = [by_hand(member, classifier, batch) for member in members]
    right = np.array([logits.argmax(1) == labels for _, _, logits in each])
    assert right.all(0).mean() < right.mean()
    largest = [np.abs(shown - images).max(axis=(1, 2, 3)) for _, shown, _ in each]
    lengths = [
        np.sqrt(np.square(shown - images).sum(axis=(1, 2, 3))) for _, shown, _ in each
    ]
    own = clean[np.arange(13), labels]
    expected = {
        "loss": (np.log(np.exp(clean).sum(1)) - own).mean(),
        "accuracy": (clean.argmax(1) == labels).mean(),
        "robust_accuracy": right.all(0).mean(),
        "success_rate": 1 - right.mean(),
        "noise_l2": np.mean(lengths),
        "noise_linf": np.mean(largest),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_the_librarys_networks_learn_from_each_other() -> None:
    """Noise that is told targets and random numbers, and a classifier with dropout."""
    noise = models.Perturber((2,), 1, 0.2, classes=3, latent=2)
    classifier = models.CNN(3, (2,), 1, (4,), dropout=0.5)
    networks = noise.apply, classifier.apply
    options = {"targets": to_two}
    sides = (
        attack.Player(attack.misleading(*networks, **options), optax.sgd(0.1)),
        attack.Player(
            attack.withstanding(*networks, **options), optax.sgd(0.1), "conv1/bias"
        ),
    )
    shape = (1, 2, 2, 1)
    variables = [params.initialize(model, KEY, shape) for model in (noise, classifier)]
    pair = attack.create_pair(*sides, *variables, key=KEY)
    batch = players.batch(0)
    after, metrics = players.quick(attack.make_pair_step(*sides))(pair, batch)
    assert all(np.isfinite(value) for value in metrics.values())
    assert 0 < metrics["noise_linf"] <= 0.2
    before, now = (params.flatten(state.variables) for state in (pair, after))
    still = {name for name in now if np.array_equal(before[name], now[name])}
    assert still == {"opponent/params/conv1/bias"}


def test_a_generator_learns_its_targets_within_the_penaltys_limit() -> None:
    """A matrix as classifier, whose boundaries' distances are a formula."""
    noise = models.Perturber((16,), 1, None, classes=3)
    generator = np.random.default_rng(0)
    images = generator.uniform(0.3, 0.7, (400, 4, 4, 1)).astype(np.float32)
    kernel = generator.normal(size=(16, 3)).astype(np.float32)
    kernel -= kernel.mean(axis=0)
    flat = images.reshape(400, -1)
    labels = (flat @ kernel).argmax(axis=1)
    # Each picture's way to the boundary of the farther of the two other classes.
    normals = np.linalg.norm(kernel.T[:, None] - kernel.T[None], axis=2)
    logits = flat @ kernel
    heights = logits[np.arange(400), labels][:, None] - logits
    farther = (heights / (normals[labels] + np.eye(3)[labels])).max(axis=1)
    limit = float(5 * farther.mean())

    def apply(variables, images, *, train=False, rngs=None, mutable=()):
        return images.reshape(len(images), -1) @ kernel, {}

    def learned(norm_limit: float | None) -> dict[str, float]:
        loss = attack.misleading(
            noise.apply,
            apply,
            targets=attack.other_classes(3),
            norm_limit=norm_limit,
            norm_weight=10,
        )
        optimizer = optax.adam(1e-2)
        start = params.initialize(noise, KEY, (1, 4, 4, 1))["params"]

        def step(carry, key):
            places = jax.random.choice(key, 300, (50,))
            batch = {"image": jnp.take(images, places, 0)}
            batch["label"] = jnp.take(jnp.asarray(labels), places)
            (_, (_, found)), slopes = jax.value_and_grad(loss, has_aux=True)(
                carry[0], {}, {}, batch, key
            )
            updates, state = optimizer.update(slopes, carry[1])
            return (optax.apply_updates(carry[0], updates), state), found

        @players.quick
        def trained(tree):
            keys = jax.random.split(KEY, 400)
            (tree, _), _ = jax.lax.scan(step, (tree, optimizer.init(tree)), keys)
            # Pictures that it has not seen.
            batch = {"image": jnp.asarray(images[300:]), "label": labels[300:]}
            return loss(tree, {}, {}, batch, jax.random.key(1))[1][1]

        return {name: float(value) for name, value in trained(start).items()}

    near, far = learned(limit), learned(None)
    assert near["success_rate"] > 0.9 and far["success_rate"] > 0.9
    assert near["noise_l2"] < 1.05 * limit < far["noise_l2"]


@pytest.mark.parametrize("targeted", [False, True])
def test_a_trained_generator_is_an_attack(targeted) -> None:
    generator, batch = players.generator_variables(0), players.batch(0)
    attacker = attack.learned_noise(players.generator, generator, targeted=targeted)
    classifier, goals = players.classifier_variables(1), np.full(6, 2)
    run = players.quick(lambda *arguments: attacker(lambda images: images, *arguments))
    _, shown, _ = by_hand(generator, classifier, batch, goals if targeted else None)
    for key in (KEY, jax.random.split(KEY, 6)):
        found = run(batch["image"], goals, key)
        np.testing.assert_allclose(found, shown, rtol=1e-5, atol=1e-7)


def test_random_noise_of_a_picture_does_not_depend_on_its_batch() -> None:
    noise = models.Perturber((2,), 1, 0.2, latent=2)
    variables = params.initialize(noise, KEY, (1, 2, 2, 1))
    images, keys = players.batch(0)["image"], jax.random.split(KEY, 6)
    attacker = attack.learned_noise(noise.apply, variables)

    @players.quick
    def run(images, keys):
        labels = np.zeros(len(images), np.int32)
        return attacker(lambda images: images, images, labels, keys)

    whole, part = run(images, keys), run(images[2:4], keys[2:4])
    np.testing.assert_allclose(whole[2:4], part, atol=1e-6)
    again = run(images[2:4], keys[4:])
    assert not np.allclose(again, part)


def test_bad_options_are_refused() -> None:
    for options, message in (
        ({"objective": "margin"}, "one of cross_entropy, hinge"),
        ({"confidence": 1.0}, "only objective='hinge'"),
        ({"objective": "hinge", "confidence": float("nan")}, "confidence is nan"),
        ({"norm_limit": -1.0}, "norm_limit is -1.0"),
        ({"norm_weight": float("inf")}, "norm_weight is inf"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            attack.misleading(*NETWORKS, **options)
    with pytest.raises(errors.ArgumentError, match="share is 1.5"):
        attack.withstanding(*NETWORKS, share=1.5)
    evaluator = attack.PairEvaluator(
        lambda variables, images, labels, key: {"loss": jnp.zeros(len(images))},
        metric="accuracy",
        key=KEY,
        batch_size=2,
    )
    with pytest.raises(errors.ArgumentError, match="what is measured is loss"):
        evaluator.evaluate({}, np.zeros((2, 1, 1, 1)), np.zeros(2))
