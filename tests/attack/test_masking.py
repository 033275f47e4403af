"""Alarms for networks that hide their gradients, and none for one that does not."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(0.2, 0.8, (16, 4, 4, 1)).astype(np.float32)
KERNEL = GENERATOR.normal(size=(16, 3)).astype(np.float32)
KEY = jax.random.key(0)
EPSILON = 0.3

# Of the honest network.
LABELS = ((IMAGES.reshape(16, -1) - 0.5) @ KERNEL).argmax(axis=1)

# One network, so that all of its forms share what is compiled.
HONEST = {"kernel": KERNEL, "rounded": False, "scale": 1.0, "bumps": 0.0}
ROUNDED = HONEST | {"rounded": True}
# The differences of logits are so large that softmax is 0 or 1.
SCALED = HONEST | {"scale": 1e4}
# Only the brightness counts, with a bump every tenth.
BUMPY = HONEST | {"scale": 0.0, "bumps": 1.0}
# In the dents between bumps, whose bottoms are at 0.45; a step of 0.3 leads out.
LEVELS = np.linspace(0.405, 0.42, 16, dtype=np.float32)
GREY = np.broadcast_to(LEVELS[:, None, None, None], IMAGES.shape).copy()


def apply(variables: dict, images: jax.Array) -> tuple[jax.Array, dict]:
    seen = jnp.where(variables["rounded"], jnp.round(images), images) - 0.5
    flat = seen.reshape(len(images), -1, 1) * variables["kernel"][None]
    level = images.mean(axis=(1, 2, 3))
    margin = 1 - 2 * jax.nn.sigmoid(40 * (level - 0.6))
    margin += 0.5 * jnp.cos(20 * jnp.pi * level)
    bumpy = jnp.stack([margin, -margin, jnp.full_like(margin, -9)], axis=1)
    return variables["scale"] * flat.sum(axis=1) + variables["bumps"] * bumpy, {}


@functools.cache
def pgd(epsilon: float) -> attack.Attack:
    return attack.pgd(epsilon, steps=10, random_start=False)


@functools.cache
def square(epsilon: float) -> attack.Attack:
    return attack.square(epsilon, queries=100)


def labels_of(variables: dict, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(apply)(variables, images)[0]).argmax(axis=1)


def evaluated(variables: dict, images: np.ndarray) -> attack.Evaluated:
    return attack.evaluate(
        {"pgd": pgd, "square": square},
        apply,
        variables,
        images,
        labels_of(variables, images),
        key=KEY,
        epsilons=[0.05, EPSILON],
    )


def alarms_of(
    table: attack.Evaluated, variables: dict, images: np.ndarray
) -> dict[str, attack.Alarm]:
    found = attack.masking_alarms(
        table,
        apply,
        variables,
        images,
        labels_of(variables, images),
        key=KEY,
        black_box=["square"],
        epsilon=EPSILON,
        samples=30,
    )
    json.dumps([alarm.as_json() for alarm in found], allow_nan=False)
    text = attack.robustness_report(table, found)
    assert text.startswith(table.table())
    for alarm in found:
        assert f"\nwarning: {alarm.name}: {alarm.meaning}" in text
    assert text.count("warning: ") == len(found)
    by_name = {alarm.name: alarm for alarm in found}
    assert len(by_name) == len(found)
    return by_name


def test_an_honest_network_raises_none() -> None:
    table = evaluated(HONEST, IMAGES)
    assert alarms_of(table, HONEST, IMAGES) == {}
    assert "no sign of hidden gradients" in attack.robustness_report(table, [])


@pytest.mark.parametrize("variables", [ROUNDED, SCALED], ids=["rounded", "scaled"])
def test_gradients_of_zero_raise_all_that_they_can(variables: dict) -> None:
    """Attacks along them move nothing, and those without them succeed."""
    with pytest.warns(attack.GradientWarning) as caught:
        table = evaluated(variables, IMAGES)
    assert len(caught) == 1
    found = alarms_of(table, variables, IMAGES)
    assert set(found) == {
        "black_box_stronger",
        "epsilon_without_effect",
        "loss_does_not_rise",
        "unbounded_attack_fails",
        "random_noise_succeeds",
        "zero_gradients",
    }
    assert found["zero_gradients"].figures == {"without_gradient": 16, "pictures": 16}
    assert found["epsilon_without_effect"].figures == {
        "attack": "pgd",
        "epsilons": [0.0, 0.05, EPSILON],
        "accuracies": [1.0, 1.0, 1.0],
    }
    ahead = found["black_box_stronger"].figures
    by_square = {row.epsilon: row for row in table.rows if row.attack == "square"}
    assert ahead["accuracy"] == by_square[ahead["epsilon"]].accuracy
    assert ahead["broken_by_it_alone"] == round(16 * (1 - ahead["accuracy"])) >= 8
    assert found["unbounded_attack_fails"].figures["standing"] == 16
    losses = found["loss_does_not_rise"].figures
    assert losses["steps"] == [0, 1, 10, 40] and len(set(losses["losses"])) == 1
    noise = found["random_noise_succeeds"].figures
    assert noise["broken_by_noise_alone"] == 16 * (1 - noise["accuracy_under_noise"])


def test_small_steps_that_are_caught_are_noticed() -> None:
    found = alarms_of(evaluated(BUMPY, GREY), BUMPY, GREY)
    assert {"one_step_stronger", "loss_does_not_rise"} <= set(found)
    assert "zero_gradients" not in found
    assert found["one_step_stronger"].figures == {
        "epsilon": EPSILON,
        "accuracy_after_one_step": 0.0,
        "steps": 40,
        "accuracy_after_all": 1.0,
    }
    # The margin after one step, and at the bottom of the dent, by the formula.
    losses = found["loss_does_not_rise"].figures["losses"]
    at = LEVELS.astype(np.float64) + EPSILON
    margin = 1 - 2 / (1 + np.exp(-40 * (at - 0.6))) + 0.5 * np.cos(20 * np.pi * at)
    odds = np.logaddexp(-margin, -9.0) - margin
    # float32, times the steepness of the bumps.
    np.testing.assert_allclose(losses[1], np.logaddexp(0, odds).mean(), rtol=1e-4)
    assert losses[0] < losses[3] < losses[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"black_box": []}, "must name some and not all"),
        ({"black_box": ["pgd", "square"]}, "must name some and not all"),
        ({"black_box": ["fgsm"]}, r"\(pgd, square\)"),
        ({"epsilon": 0}, "above 0"),
        ({"steps": 1}, "at least 2 steps"),
        ({"labels": (LABELS + 1) % 3}, "none of the 16 images"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict, said: str) -> None:
    standing = np.ones(16, bool)
    rows = tuple(
        attack.Tried(name, EPSILON, standing, 0, np.zeros(0), np.zeros(0), 1.0)
        for name in ("pgd", "square")
    )
    given = {
        "labels": np.zeros(16, int),
        "key": KEY,
        "black_box": ["square"],
        "epsilon": EPSILON,
        "samples": 30,
    }
    with pytest.raises(errors.ArgumentError, match=said):
        attack.masking_alarms(
            attack.Evaluated("linf", standing, rows),
            apply,
            HONEST,
            IMAGES,
            **(given | options),
        )
