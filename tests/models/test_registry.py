"""Every architecture: its size, its endpoints, its options."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flaxnets import errors, models, params
from flaxnets.models import registry


@pytest.mark.parametrize("name", models.list_models())
def test_has_its_parameters_and_logits(name: str) -> None:
    row = registry.architecture(name)
    model = models.build(name)
    shape = (2, row.side, row.side, 3)
    variables = params.abstract(model, shape)
    assert params.count(variables["params"]) == row.parameters
    logits, endpoints = jax.eval_shape(
        model.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert logits.shape == (2, 1000)
    assert endpoints["logits"].shape == (2, 1000)
    assert endpoints["features"].ndim == 4


@pytest.mark.parametrize(
    "name", ["alexnet", "googlenet", "squeezenet1_1", "vgg11_bn", "resnet18"]
)
def test_without_a_head_gives_features(name: str) -> None:
    model = models.build(name, num_classes=None)
    shape = (1, 96, 128, 3)
    variables = params.abstract(model, shape)
    output, endpoints = jax.eval_shape(
        model.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert output.shape == endpoints["features"].shape
    assert "logits" not in endpoints
    assert not any(name.startswith(("logits", "dense")) for name in variables["params"])


def test_the_lectures_backbone_has_the_lectures_parameters() -> None:
    model = models.build("vgg16", num_classes=0)
    variables = params.abstract(model, (1, 224, 224, 3))
    assert params.count(variables["params"]) == 14_714_688


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vgg11_bn"])
def test_computes_in_bfloat16_with_float32_parameters(name: str) -> None:
    model = models.build(name, num_classes=7, dtype=jnp.bfloat16)
    shape = (1, 64, 64, 3)
    variables = params.abstract(model, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, _ = jax.eval_shape(
        model.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert (logits.shape, logits.dtype) == ((1, 7), jnp.bfloat16)


@pytest.mark.once
def test_training_moves_the_statistics_and_drops() -> None:
    model = models.build("googlenet", num_classes=3, auxiliary=False)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = params.initialize(model, jax.random.key(1), images.shape)

    @jax.jit
    def apply(key: jax.Array) -> Any:
        return model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )

    (first, second) = (apply(key) for key in jax.random.split(jax.random.key(2)))
    assert jnp.any(first[0][0] != second[0][0])
    # Dropout comes last, so that the statistics do not depend on it.
    moved = params.flatten(first[1]["batch_stats"])
    for name, before in params.flatten(variables["batch_stats"]).items():
        assert jnp.any(moved[name] != before), name


def test_names_are_listed_by_globs() -> None:
    assert models.list_models("vgg1[69]") == ("vgg16", "vgg19")
    assert models.list_models("nothing*") == ()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg61", {}, "no model is called 'vgg61'; did you mean 'vgg1"),
        ("resnet18", {"dropuot": 0.1}, "resnet18 has no option dropuot; it has"),
        ("resnet18", {"depth": 17}, "depth is 17, but ResNet has one of"),
        ("vgg16", {"depth": 17}, "depth is 17, but VGG has one of"),
    ],
)
def test_mistakes_are_named(name: str, options, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        params.abstract(models.build(name, **options), (1, 64, 64, 3))
