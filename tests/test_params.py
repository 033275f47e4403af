"""Parameter trees by name, and the summary of a network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, models, params
from flaxnets.models import layers


def leaf(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


TREE = {
    "backbone": {
        "block1": {"conv1": {"kernel": leaf(3, 3, 1, 4), "bias": leaf(4)}},
        "block2": {"conv1": {"kernel": leaf(3, 3, 4, 8), "bias": leaf(8)}},
        "block10": {"conv1": {"kernel": leaf(1, 1, 8, 8)}},
    },
    "head": {"kernel": leaf(8, 2), "bias": leaf(2)},
    "scale": leaf(),
}
NAMES = (
    "backbone/block1/conv1/kernel",
    "backbone/block1/conv1/bias",
    "backbone/block2/conv1/kernel",
    "backbone/block2/conv1/bias",
    "backbone/block10/conv1/kernel",
    "head/kernel",
    "head/bias",
    "scale",
)


def test_names_are_paths_in_the_trees_order() -> None:
    flat = params.flatten(TREE)
    assert tuple(flat) == NAMES
    assert flat["head/bias"] is TREE["head"]["bias"]


def test_unflatten_undoes_flatten() -> None:
    rebuilt = params.unflatten(params.flatten(TREE))
    assert jax.tree.structure(rebuilt) == jax.tree.structure(TREE)
    assert rebuilt["head"]["kernel"] is TREE["head"]["kernel"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("**", NAMES),
        ("**/**", NAMES),
        ("scale", ("scale",)),
        ("head/*", ("head/kernel", "head/bias")),
        ("head/**", ("head/kernel", "head/bias")),
        ("**/head/**/bias", ("head/bias",)),
        ("*/bias", ("head/bias",)),
        ("**/bias", (NAMES[1], NAMES[3], "head/bias")),
        ("backbone/block?/**", NAMES[:4]),
        ("backbone/block[2-9]/*/kernel", (NAMES[2],)),
        ("backbone/block[!1]/**", NAMES[2:4]),
        ("backbone/**/**/bias", (NAMES[1], NAMES[3])),
        ("backbone/*1*/**", (*NAMES[:2], NAMES[4])),
        (["head/bias", "backbone/block10/**"], (NAMES[4], "head/bias")),
        (["head/*", "head/bias"], ("head/kernel", "head/bias")),
    ],
)
def test_globs_select_leaves_in_the_trees_order(patterns, expected) -> None:
    assert params.select(TREE, patterns) == expected


@pytest.mark.parametrize(
    "glob", ["head", "head/*/kernel", "head[!a]kernel", "head[/]bias", "*", "[z-a]"]
)
def test_one_segment_is_not_another(glob) -> None:
    """A star, a set or a subtree's name never reaches across a `/`."""
    tree = {"head": TREE["head"]}
    with pytest.raises(errors.ArgumentError, match="matches no parameter"):
        params.select(tree, glob)


@pytest.mark.parametrize(
    ("glob", "advice"),
    [
        ("haed/**", "did you mean 'head'"),
        ("head/kernal", "did you mean 'head/kernel'"),
        ("head", "'head' is a subtree: write 'head/\\*\\*'"),
        ("zzz", "the top-level names are: backbone, head, scale"),
        (["head/**", "zzz"], "'zzz' matches no parameter"),
    ],
)
def test_a_glob_that_matches_nothing_says_what_there_is(glob, advice) -> None:
    with pytest.raises(errors.ArgumentError, match=advice):
        params.select(TREE, glob)


def test_split_and_merge_are_inverse() -> None:
    names = params.select(TREE, ["**/bias", "scale"])
    chosen, others = params.split(TREE, names)
    assert set(params.flatten(chosen)) == set(names)
    assert set(params.flatten(others)) == set(NAMES) - set(names)
    assert "block10" not in chosen["backbone"], "no empty subtrees"
    merged = params.flatten(params.merge(chosen, others))
    assert set(merged) == set(NAMES)
    assert all(merged[name] is found for name, found in params.flatten(TREE).items())


def test_split_refuses_a_name_that_is_not_there() -> None:
    with pytest.raises(errors.ArgumentError, match="no such leaves: head/gamma"):
        params.split(TREE, ["head/bias", "head/gamma"])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"head": {"bias": leaf(2)}}, "head/bias"),
        ({"head": leaf(2)}, "head"),
        ({"scale": {"inner": leaf(2)}}, "scale"),
    ],
)
def test_merge_refuses_overlapping_trees(other, named) -> None:
    for pair in ((TREE, other), (other, TREE)):
        with pytest.raises(errors.ArgumentError, match=f"in both trees: {named}"):
            params.merge(*pair)


def test_counts_and_bytes_by_hand() -> None:
    tree = {"a": leaf(2, 3), "b": {"c": leaf(5, dtype=np.int8), "d": leaf()}}
    assert params.count(tree) == 12
    assert params.nbytes(tree) == 24 + 5 + 4
    shapes = jax.eval_shape(lambda: tree)
    assert (params.count(shapes), params.nbytes(shapes)) == (12, 33)


def test_differences_name_leaf_and_kind() -> None:
    found = {
        "head": {"kernel": leaf(8, 3), "bias": leaf(2, dtype=np.float16)},
        "scale": leaf(),
        "offset": leaf(),
    }
    assert params.differences({"head": TREE["head"], "scale": leaf()}, found) == (
        "head/kernel: expected float32[8, 2], found float32[8, 3]",
        "head/bias: expected float32[2], found float16[2]",
        "offset: unexpected",
    )
    assert params.differences(TREE, found)[-2:] == (
        "backbone/block10/conv1/kernel: missing",
        "offset: unexpected",
    )
    assert params.differences(TREE, TREE) == ()


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        return nn.BatchNorm(use_running_average=not train, name="norm")(x)


class Nested(nn.Module):
    """Nested modules, BatchNorm, stride, groups, a loop; only logits returned."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Block(name="block")(x, train)
        x = nn.Conv(8, (3, 3), strides=2, feature_group_count=2, name="grouped")(x)
        x = x.mean(axis=(1, 2))
        mixing = self.param("mixing", nn.initializers.ones, (8, 8))
        x, _ = jax.lax.scan(lambda x, _: (x @ mixing, None), x, length=3)
        return nn.Dense(2, name="logits")(x)


def test_summary_of_the_lectures_network() -> None:
    found = params.summary(models.CNN(), (28, 28, 1))
    assert [(row.layer, row.output, row.parameters) for row in found.rows] == [
        ("conv1", (28, 28, 16), 160),
        ("conv2", (14, 14, 32), 4_640),
        ("conv3", (7, 7, 64), 18_496),
        ("dense1", (512,), 1_606_144),
        ("dense2", (512,), 262_656),
        ("logits", (10,), 5_130),
    ]
    assert (found.total, found.trainable, found.frozen) == (1_897_226, 1_897_226, 0)
    assert found.bytes == 4 * 1_897_226
    multiply_adds = (112_896, 903_168, 903_168, 1_605_632, 262_144, 5_120)
    assert found.flops == 2 * sum(multiply_adds)


def test_summary_ignores_the_batch_and_counts_the_frozen() -> None:
    whole = params.summary(models.CNN(), (28, 28, 1))
    batch = params.summary(models.CNN(), (64, 28, 28, 1), frozen="conv*/**")
    assert (batch.rows, batch.flops) == (whole.rows, whole.flops)
    assert batch.frozen == 160 + 4_640 + 18_496
    assert batch.trainable == batch.total - batch.frozen
    with pytest.raises(errors.ArgumentError, match="top-level names are: conv1"):
        params.summary(models.CNN(), (28, 28, 1), frozen="backbone/**")


def test_summary_of_nested_modules_by_hand() -> None:
    found = params.summary(Nested(), (6, 6, 2))
    assert {row.layer: (row.output, row.parameters) for row in found.rows} == {
        "block/conv": ((6, 6, 4), 3 * 3 * 2 * 4),
        "block/norm": ((6, 6, 4), 8),
        "grouped": ((3, 3, 8), 3 * 3 * 2 * 8 + 8),
        "logits": ((2,), 8 * 2 + 2),
        "": ((2,), 64),
    }
    convolutions = 36 * 9 * 2 * 4 + 9 * 9 * 2 * 8
    assert found.flops == 2 * (convolutions + 3 * 64 + 8 * 2)


def test_flops_do_not_depend_on_the_lowering() -> None:
    """flaxnets' convolution, with one lowering a backend, costs what Linen's does."""

    class Native(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(16, (3, 3), name="conv1")(x)

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Conv(16, (3, 3), name="conv1")(x)

    ours, native = (params.summary(module(), (28, 28, 1)) for module in (Ours, Native))
    assert ours == native
    assert ours.flops == 2 * 112_896


def test_flops_through_jit_and_custom_gradients() -> None:
    @jax.custom_vjp
    def product(x, y):
        return x @ y

    product.defvjp(lambda x, y: (x @ y, None), lambda _, g: (g, g))

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (5, 7))
            x = x.reshape(len(x), -1)
            product_of = jax.checkpoint(jax.jit(product))
            return product_of(x, kernel)

    assert params.summary(Wrapped(), (1, 1, 5)).flops == 2 * 5 * 7


def test_a_transposed_convolution_counts_its_input_pixels() -> None:
    class Upward(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.ConvTranspose(3, (4, 4), strides=(2, 2), name="up")(x)

    found = params.summary(Upward(), (8, 8, 2))
    assert found.rows[0].output == (16, 16, 3)
    assert found.flops == 2 * 8 * 8 * 4 * 4 * 2 * 3


def test_summary_computes_nothing() -> None:
    """A network of 3.4 TB is described at once."""
    found = params.summary(models.CNN(dense=(2**23, 2**12)), (1024, 1024, 1))
    assert found.bytes > 3e12


def test_summary_prints_an_aligned_table() -> None:
    lines = str(params.summary(models.CNN(), (28, 28, 1), frozen="conv1/*")).split("\n")
    assert lines[0].split() == ["layer", "output", "shape", "parameters"]
    assert lines[2].split() == ["conv1", "28", "x", "28", "x", "16", "160"]
    assert len({len(line) for line in lines[:9]}) == 1
    assert lines[-2] == ("total 1,897,226 (7.6 MB), trainable 1,897,066, frozen 160")
    assert lines[-1] == "7.58 MFLOP per example, forward"


def test_summary_takes_an_array_or_an_array_and_endpoints() -> None:
    class Alone(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="logits")(x.reshape(len(x), -1))

    class Both(Alone):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2, name="logits")(x.reshape(len(x), -1))
            return x, {"logits": jnp.abs(x)}

    assert params.summary(Alone(), (2, 2, 1)) == params.summary(Both(), (2, 2, 1))


def test_initialize_draws_what_init_draws() -> None:
    model = models.CNN(widths=(4, 8), dense=(16,))
    key = jax.random.key(3)
    drawn = params.initialize(model, key, (1, 12, 12, 1))
    expected = model.init(key, jnp.zeros((1, 12, 12, 1)))
    assert jax.tree.structure(drawn) == jax.tree.structure(expected)
    for ours, theirs in zip(
        jax.tree.leaves(drawn), jax.tree.leaves(expected), strict=True
    ):
        # Compiled whole or operation by operation, erf_inv may round differently.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
