"""A network cut at its frozen boundary, against the network in one piece."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import data, errors, models, params, train, transfer
from flaxnets.train import losses, optimizers


class Foreign(nn.Module):
    """A module as a user of flax would write it: nothing of this library's."""

    features: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        x = nn.Conv(self.features, (3, 3), name="first")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        skip = x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.Conv(self.features, (3, 3), name="second")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm2")(x)
        x = nn.relu(x + skip).reshape(len(x), -1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="top")(x), {}


SHAPE = (12, 12, 3)
CASES = [
    (models.CNN(num_classes=3, dropout=0.5), ("conv*/**",)),
    (models.CNN(num_classes=3), ("conv[12]/**",)),
    (models.CNN(num_classes=3), ("conv1/kernel",)),
    (Foreign(), ("first/**", "norm/**")),
    (Foreign(), ("first/**", "norm/**", "second/**", "norm2/**")),
    pytest.param(
        models.WithHead(
            models.build("resnet18", num_classes=None), models.Head(3, "mean", ())
        ),
        ("backbone/stem/**", "backbone/block[123]/**"),
        marks=pytest.mark.once,
    ),
]


def _drawn(model: Any, shape: tuple[int, ...]) -> Any:
    """Variables, with statistics that are not those of a fresh network.

    Nor is a head's zero kernel, which would let no gradient through.
    """
    variables = params.initialize(model, jax.random.key(0), (1, *shape))
    leaves, structure = jax.tree.flatten(variables["params"])
    noise = [
        0.02 * np.random.default_rng(place).normal(size=leaf.shape)
        for place, leaf in enumerate(leaves)
    ]
    moved = [leaf + jnp.float32(more) for leaf, more in zip(leaves, noise, strict=True)]
    statistics = {
        collection: jax.tree.map(
            lambda leaf: leaf + jnp.linspace(0.1, 0.5, leaf.size).reshape(leaf.shape),
            tree,
        )
        for collection, tree in variables.items()
        if collection != "params"
    }
    return {"params": jax.tree.unflatten(structure, moved), **statistics}


@pytest.mark.parametrize(("model", "globs"), CASES)
def test_the_cut_network_is_the_whole_one(model: Any, globs: Any) -> None:
    """Logits, loss, gradients of what is trained, and moving statistics."""
    side = 64 if isinstance(model, models.WithHead) else SHAPE[0]
    shape = (side, side, 3)
    variables = _drawn(model, shape)
    frozen = params.select(variables["params"], globs)
    boundary = transfer.Boundary(model, frozen, shape)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    features = boundary.features(variables, images, batch_size=2)
    assert features.shape == (5, boundary.size(variables))

    expected, _ = boundary.apply_whole(variables, images.astype(np.float32) / 255)
    found, _ = boundary.apply(variables, features)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    def objective(apply: Any, pictures: Any) -> Any:
        loss = losses.classification(apply)
        held, free = params.split(variables["params"], frozen)
        statistics = {name: variables[name] for name in variables if name != "params"}
        batch = {"image": pictures, "label": jnp.array([0, 1, 2, 0, 1])}

        def value(free: Any) -> Any:
            whole = params.merge(free, held)
            return loss(whole, statistics, batch, jax.random.key(1))

        return jax.jit(jax.value_and_grad(value, has_aux=True))(free)

    (value, (changed, _)), gradients = objective(boundary.apply, features)
    (value0, (changed0, _)), gradients0 = objective(boundary.apply_whole, images)
    np.testing.assert_allclose(value, value0, rtol=1e-4)
    for one, other in ((changed, changed0), (gradients, gradients0)):
        assert params.flatten(one).keys() == params.flatten(other).keys()
        leaves = params.flatten(other)
        largest = max(
            (float(jnp.abs(leaf).max()) for leaf in leaves.values()), default=1
        )
        for name, leaf in leaves.items():
            # A bias before a normalisation has no gradient but rounding's.
            scale = max(float(jnp.abs(leaf).max()), 1e-3 * largest)
            np.testing.assert_allclose(
                params.flatten(one)[name] / scale, leaf / scale, atol=2e-3, err_msg=name
            )


def test_a_frozen_module_runs_as_outside_training() -> None:
    """Its normalisation by what is stored, its dropout not at all."""
    model = Foreign()
    variables = _drawn(model, SHAPE)
    frozen = params.select(variables["params"], ("first/**", "norm/**"))
    boundary = transfer.Boundary(model, frozen, SHAPE)
    images = jax.random.uniform(jax.random.key(0), (4, *SHAPE))
    _, state = boundary.apply_whole(
        variables,
        images,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
    )
    before, after = variables["batch_stats"], state["batch_stats"]
    np.testing.assert_array_equal(after["norm"]["mean"], before["norm"]["mean"])
    assert np.all(after["norm2"]["mean"] != before["norm2"]["mean"])


def test_the_features_of_vggs_body_are_what_pooling_leaves() -> None:
    """Not the larger map before it: 4x4 pixels of 256 channels at 32x32."""
    model = models.WithHead(models.build("vgg11", num_classes=None), models.Head(2))
    shape = (1, 32, 32, 3)
    variables = params.abstract(model, shape)
    globs = transfer.frozen_globs("partial_fine_tuning", model, shape, up_to="block3")
    frozen = params.select(variables["params"], globs)
    boundary = transfer.Boundary(model, frozen, shape[1:])
    assert boundary.size(variables) == 4 * 4 * 256


def test_features_that_are_not_an_images_own_are_refused() -> None:
    class Mixing(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
            x = nn.Conv(4, (3, 3), name="body")(x)
            x = (x - x.mean(axis=0, keepdims=True)).reshape(len(x), -1)
            return nn.Dense(2, name="top")(x), {}

    model = Mixing()
    variables = params.initialize(model, jax.random.key(0), (1, *SHAPE))
    boundary = transfer.Boundary(
        model, params.select(variables["params"], "body/**"), SHAPE
    )
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    with pytest.raises(errors.ArgumentError, match="beside other images"):
        boundary.features(variables, images)
    # Also where each batch is the first one's size.
    with pytest.raises(errors.ArgumentError, match="beside other images"):
        boundary.features(variables, images, batch_size=2)


def test_wrong_shapes_are_named() -> None:
    model = models.CNN(num_classes=3)
    variables = params.initialize(model, jax.random.key(0), (1, *SHAPE))
    frozen = params.select(variables["params"], "conv*/**")
    boundary = transfer.Boundary(model, frozen, SHAPE)
    with pytest.raises(errors.ArgumentError, match=r"\[2, 8, 8, 3\].*12, 12, 3"):
        boundary.features(variables, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(errors.ArgumentError, match=r"\[2, 7\].*takes \[B, 576\]"):
        boundary.apply(variables, jnp.zeros((2, 7)))
    with pytest.raises(errors.DataError, match="no images"):
        boundary.features(variables, np.zeros((0, *SHAPE), np.uint8))


def test_training_on_features_is_training_on_pictures() -> None:
    """The same losses, epoch by epoch, to float tolerance."""
    digits = data.load("digits")
    model = models.CNN(num_classes=10, widths=(8, 8), dense=(32,))
    shape = digits.train.images.shape[1:]
    variables = params.initialize(model, jax.random.key(0), (1, *shape))
    frozen = params.select(variables["params"], "conv*/**")
    boundary = transfer.Boundary(model, frozen, shape)
    stored = digits._replace(
        train=data.Split(
            boundary.features(variables, digits.train.images), digits.train.labels
        ),
        test=data.Split(
            boundary.features(variables, digits.test.images), digits.test.labels
        ),
    )
    records = []
    for dataset, apply in (
        (digits, boundary.apply_whole),
        (stored, boundary.apply),
    ):
        optimizer, schedule = optimizers.make(
            "adam", learning_rate=1e-3, total_steps=100
        )
        fresh = jax.tree.map(jnp.copy, variables)
        state = train.create(fresh, optimizer, key=jax.random.key(1), frozen=frozen)
        step = train.make_step(losses.classification(apply), optimizer, frozen=frozen)
        fitted = train.fit(
            state,
            step,
            dataset,
            epochs=2,
            batch_size=32,
            seed=0,
            evaluator=train.Evaluator(apply),
            learning_rate=schedule,
        )
        records.append(fitted.records)
    for one, other in zip(*records, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)


@pytest.mark.once
def test_frozen_work_is_not_done_and_not_kept() -> None:
    """The step's products are the head's alone; without features, forward besides."""
    model = models.WithHead(models.build("vgg11", num_classes=None), models.Head(2))
    shape = (1, 64, 64, 3)
    variables = params.abstract(model, shape)
    frozen = params.select(variables["params"], "backbone/**")
    boundary = transfer.Boundary(model, frozen, shape[1:])
    optimizer = optax.sgd(0.1)

    def compiled(apply: Any, pictures: tuple[int, ...], frozen: Any) -> Any:
        held, free = params.split(variables["params"], frozen)
        del held
        step = train.make_step(losses.classification(apply), optimizer, frozen=frozen)
        state = train.State(
            step=jax.ShapeDtypeStruct((), jnp.int32),
            params=variables["params"],
            statistics={},
            optimizer=jax.eval_shape(optimizer.init, free),
            key=jax.eval_shape(lambda: jax.random.key(0)),
        )
        batch = {
            "image": jax.ShapeDtypeStruct((8, *pictures), jnp.float32),
            "label": jax.ShapeDtypeStruct((8,), jnp.int32),
        }
        return jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def flops(found: Any) -> float:
        return found.cost_analysis()["flops"]

    def kept(found: Any) -> int:
        """Bytes beside arguments and results."""
        return found.memory_analysis().temp_size_in_bytes

    images = jax.ShapeDtypeStruct((8, *shape[1:]), jnp.float32)
    inference = jax.jit(lambda v, x: model.apply(v, x)[0])
    forward = flops(inference.lower(variables, images).compile())
    size = boundary.size(variables)
    head = flops(compiled(boundary.apply, (size,), frozen))
    held = compiled(boundary.apply_whole, shape[1:], frozen)
    trained = compiled(model.apply, shape[1:], ())
    frozen_whole, everything = flops(held), flops(trained)
    # Three products of a multiply and an add for each of the head's kernels.
    assert head < 1.1 * 3 * 2 * 8 * (size * 50 + 50 * 2)
    assert frozen_whole <= 1.05 * (forward + head)
    assert everything > 2 * frozen_whole
    # What convolutions and poolings put out, and the kernels' gradients, are kept
    # only where they are needed again.
    assert kept(trained) - kept(held) > 8 * 4 * 64**2 * 64
