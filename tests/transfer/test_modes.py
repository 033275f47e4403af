"""What each mode freezes, learning rates by subtree, and the freeze certificate."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import errors, models, params, train, transfer
from flaxnets.train import losses, optimizers

LECTURE = (1, 224, 224, 3)


class Normed(nn.Module):
    """A body of nobody's library, whose statistics move in training."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for index, features in enumerate((8, 6)):
            x = nn.Conv(features, (3, 3), use_bias=False, name=f"conv{index}")(x)
            x = nn.BatchNorm(use_running_average=not train, name=f"norm{index}")(x)
            x = nn.relu(x)
        return x


@pytest.fixture(scope="module")
def lecture() -> models.WithHead:
    """VGG-16's body with the lecture's head for two classes."""
    return models.WithHead(models.build("vgg16", num_classes=None), models.Head(2))


def test_the_lectures_counts(lecture: models.WithHead) -> None:
    globs = transfer.frozen_globs("feature_extraction", lecture, LECTURE)
    summary = params.summary(lecture, LECTURE, frozen=globs)
    assert summary.total == 15_969_240
    assert summary.trainable == 1_254_552
    assert summary.frozen == 14_714_688


def test_partial_fine_tuning_freezes_in_the_order_of_the_calls(
    lecture: models.WithHead,
) -> None:
    globs = transfer.frozen_globs(
        "partial_fine_tuning", lecture, LECTURE, up_to="block2"
    )
    assert globs == ("backbone/block1/**", "backbone/block2/**")
    # By name fire10 would come before fire2, and conv1 before fire2 only by luck.
    fires = models.WithHead(
        models.build("squeezenet1_1", num_classes=None), models.Head(2, "mean")
    )
    globs = transfer.frozen_globs(
        "partial_fine_tuning", fires, (1, 64, 64, 3), up_to="fire3"
    )
    assert globs == tuple(f"backbone/{name}/**" for name in ("conv1", "fire2", "fire3"))


@pytest.mark.parametrize("mode", ["fine_tuning", "scratch"])
def test_nothing_is_frozen(mode, lecture: models.WithHead) -> None:
    assert transfer.frozen_globs(mode, lecture, LECTURE) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "frozen"}, "no mode 'frozen'; there are: feature_extraction"),
        ({"mode": "partial_fine_tuning"}, "up_to None"),
        ({"mode": "fine_tuning", "up_to": "block1"}, "only of that"),
        (
            {"mode": "partial_fine_tuning", "up_to": "blok4"},
            "no layer 'blok4'; did you mean 'block4'.*block1, block2, block3",
        ),
        ({"mode": "feature_extraction", "body": "bone"}, "'bone'.*backbone, head"),
    ],
)
def test_what_cannot_be_is_named(options, message, lecture: models.WithHead) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        transfer.frozen_globs(**{"model": lecture, "input_shape": LECTURE, **options})


def test_updates_are_scaled_by_glob() -> None:
    tree = {
        "backbone": {
            "conv1": {"kernel": jnp.ones(2)},
            "conv2": {"kernel": jnp.ones(2)},
        },
        "head": {"kernel": jnp.ones(2)},
    }
    scaled = transfer.scale_updates({"backbone/**": 0.1, "backbone/conv2/**": 0.5})
    optimizer = optax.chain(optax.sgd(1.0), scaled)
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    found = {name: float(leaf[0]) for name, leaf in params.flatten(updates).items()}
    assert found == pytest.approx(
        {
            "backbone/conv1/kernel": -0.1,
            "backbone/conv2/kernel": -0.5,
            "head/kernel": -1.0,
        }
    )
    with pytest.raises(
        errors.ArgumentError, match="'tail/\\*\\*' matches no parameter"
    ):
        transfer.scale_updates({"tail/**": 0.1}).init(tree)
    with pytest.raises(errors.ArgumentError, match="must not be negative"):
        transfer.scale_updates({"head/**": -1.0})


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-2, weight_decay=0.1),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9)),
        optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
        optax.chain(optax.adam(1e-2), optax.ema(0.9)),
        optimizers.lookahead(optax.sgd(0.1), period=2, step_size=0.5),
    ],
    ids=["adamw", "clipped", "accumulated", "averaged", "lookahead"],
)
def test_a_certificate_after_steps_of_any_optimizer(optimizer) -> None:
    """Frozen leaves and statistics bit-equal, and no moment held for them."""
    model = models.WithHead(Normed(), models.Head(2, "mean", ()))
    shape = (1, 32, 32, 3)
    variables = params.initialize(model, jax.random.key(0), shape)
    plan = transfer.Plan(model, shape[1:], "feature_extraction", stored=False)
    frozen = plan.frozen
    state = train.create(variables, optimizer, key=jax.random.key(1), frozen=frozen)
    before = transfer.fingerprint(state, frozen)
    step = jax.jit(
        train.make_step(losses.classification(plan.apply), optimizer, frozen=frozen)
    )
    batch = {
        "image": jax.random.uniform(jax.random.key(2), (4, *shape[1:])),
        "label": jnp.array([0, 1, 0, 0]),
    }
    for _ in range(3):
        state, _ = step(state, batch)
    found = transfer.certificate(before, state, plan, optimizer)
    assert found["unchanged"]
    assert found["sha256_before"] == found["sha256_after"] == before
    assert found["trained_leaves"] == ["head/logits/bias", "head/logits/kernel"]
    assert found["frozen_parameters"] == params.count(variables["params"]["backbone"])
    held = params.nbytes(state.params["head"])
    assert found["optimizer_bytes"] <= 4 * held + 64
    assert found["optimizer_bytes_saved"] >= params.nbytes(state.params["backbone"])
    # The body's forward pass once; of the head its own, and its kernel's gradient.
    body = 2 * 32 * 32 * 9 * (3 * 8 + 8 * 6)
    assert found["step_flops"] == body + 2 * 2 * 6 * 2
    assert found["step_flops_avoided"] > body
    # A changed statistic is a changed certificate.
    statistics = jax.tree.map(lambda leaf: leaf + 1, state.statistics)
    moved = transfer.fingerprint(state._replace(statistics=statistics), frozen)
    assert moved != before
    assert not np.array_equal(
        state.params["head"]["logits"]["bias"],
        variables["params"]["head"]["logits"]["bias"],
    )
