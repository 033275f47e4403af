"""The worst case against attacks and a network that can be followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, errors
from flaxnets.attack import WorstCase
from tests.attack import small

# Brightness of each picture; the class is whether it is above one half.
LEVELS = np.float32([0.1, 0.44, 0.46, 0.6, 0.48, 0.2, 0.47, 0.41, 0.45])
IMAGES = np.ones((len(LEVELS), 2, 2, 1), np.float32) * LEVELS[:, None, None, None]
LABELS = np.zeros(len(LEVELS), int)
KEY = jax.random.key(0)


def apply(variables: dict, images: jax.Array) -> tuple[jax.Array, dict]:
    level = images.mean(axis=(1, 2, 3))
    return jnp.stack([0.5 - level, level - 0.5], axis=1), variables


def brighter(amount: float) -> attack.Attack:
    return lambda logits, images, labels, key: images + amount


def noisy(logits, images, labels, key) -> jax.Array:
    """By a random amount of each picture's own."""
    amounts = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1)))(key)
    return jnp.clip(images + 0.2 * amounts, 0, 1)


ATTACKS = {"little": brighter(0.05), "noise": noisy, "more": brighter(0.08)}


def run(attacks: dict = ATTACKS, batch_size: int = 4, **options) -> WorstCase:
    return attack.worst_case(
        attacks, apply, {}, IMAGES, LABELS, key=KEY, batch_size=batch_size, **options
    )


def test_each_picture_falls_to_the_first_attack_that_breaks_it() -> None:
    found = run({"little": brighter(0.05), "more": brighter(0.08)})
    np.testing.assert_array_equal(found.broken_by, [-1, 2, 1, 0, 1, -1, 1, -1, 2])
    np.testing.assert_array_equal(found.tried, [3, 3, 2, 1, 2, 3, 2, 3, 3])
    added = np.float32([0, 0.08, 0.05, 0, 0.05, 0, 0.05, 0, 0.08])
    np.testing.assert_array_equal(found.images, IMAGES + added.reshape(-1, 1, 1, 1))
    shares = [found.standing(stage) for stage in range(3)]
    np.testing.assert_allclose(shares, [8 / 9, 5 / 9, 3 / 9])


def test_a_run_cut_off_after_any_batch_goes_on_to_the_same_end() -> None:
    whole = run()
    assert len(set(whole.broken_by)) >= 3
    saved = []

    def keep(progress: WorstCase) -> None:
        saved.append(WorstCase(*map(np.copy, vars(progress).values())))

    run(after_batch=keep)
    assert len(saved) >= 5
    for progress in saved:
        began = [np.copy(array) for array in vars(progress).values()]
        # Neither does the size of the batches matter.
        resumed = run(progress=progress, batch_size=8)
        for array, expected in zip(
            vars(resumed).values(), vars(whole).values(), strict=True
        ):
            np.testing.assert_array_equal(array, expected)
        for array, expected in zip(vars(progress).values(), began, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_progress_of_other_pictures_is_refused() -> None:
    progress = run()
    with pytest.raises(errors.ArgumentError, match="progress is of pictures"):
        attack.worst_case(
            ATTACKS, apply, {}, IMAGES / 2, LABELS, key=KEY, progress=progress
        )


def test_pictures_that_an_attack_spoils_are_no_success() -> None:
    def spoiling(logits, images, labels, key) -> jax.Array:
        return images * jnp.nan

    with pytest.raises(errors.ArgumentError, match="returned 4 of 4 pictures that are"):
        run({"spoiling": spoiling})


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_auto_attack_names_its_attacks(norm: attack.Norm) -> None:
    names = ["apgd_ce", "apgd_dlr_targeted", "fab_targeted", "square"]
    assert list(attack.auto_attack(0.1, norm)) == names
    assert list(attack.auto_attack(0.1, norm, "gradient")) == names[:2]
    with pytest.raises(errors.ArgumentError, match="standard, gradient"):
        attack.auto_attack(0.1, version="best")  # type: ignore[arg-type]


def test_square_finds_what_hidden_gradients_hide() -> None:
    def hidden(variables: dict, images: jax.Array) -> tuple[jax.Array, dict]:
        return small.affine(jnp.round(255 * images) / 255), variables

    images = small.pictures()
    labels = (images.reshape(len(images), -1) @ small.KERNEL).argmax(axis=1)
    with pytest.warns(attack.GradientWarning, match="zero for 8 of the first 8"):
        found = attack.worst_case(
            attack.auto_attack(0.2), hidden, {}, images, labels, key=KEY
        )
    # All of them can be broken; the first attacks can do it by their start alone.
    assert found.standing(4) == 0 and (found.broken_by == 4).sum() >= 4
    for picture, point in zip(images, found.images, strict=True):
        small.assert_bounded(point[None], picture[None], 0.2, "linf")
