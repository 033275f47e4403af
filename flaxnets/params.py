"""Parameter trees by name: draw, select, split, merge, count, compare, summarise.

A tree is nested dicts with string keys; a leaf's name is its path joined by `/`, such
as `conv1/kernel`. A set of leaves is given by globs over names: `*` and `?` match
within one segment, `**` matches any number of segments, `[..]` a set of characters.
"""

import dataclasses
import difflib
import fnmatch
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import errors

Tree = Any


def initialize(
    model: Any,
    key: jax.Array,
    input_shape: Sequence[int],
    leaves: Collection[str] | None = None,
) -> Tree:
    """`model.init(key, zeros)`, the same values in a fraction of the time.

    Args:
        model: a Linen module that takes one array f32[*input_shape].
        key: typed PRNG key of the parameters.
        input_shape: batch size included.
        leaves: names of those to draw; by default all.

    Returns:
        The module's variables: `{"params": ..., **statistics}`.
    """
    shape = tuple(input_shape)

    def drawn(key: jax.Array) -> Tree:
        variables = model.init(key, jnp.zeros(shape))
        if leaves is None:
            return variables
        found = flatten(variables)
        return unflatten({name: found[name] for name in leaves})

    lowered = jax.jit(drawn).lower(key)
    # It runs once: on CPU, LLVM's optimizations would take longer than they save.
    cheap = jax.default_backend() == "cpu"
    options: Any = {"xla_backend_optimization_level": 0} if cheap else None
    return lowered.compile(compiler_options=options)(key)


def abstract(model: Any, input_shape: Sequence[int]) -> Tree:
    """Shapes and types of a Linen module's variables; computes nothing.

    Args:
        model: a Linen module that takes one array f32[*input_shape].
        input_shape: batch size included.
    """
    image = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    return jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by name, in the tree's order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested tree of leaves given by name."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def select(tree: Mapping[str, Any], patterns: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the leaves that any of the globs matches, in the tree's order.

    A glob that matches a whole subtree's name selects nothing: write `head/**`.

    Raises:
        ArgumentError: a glob matches no leaf.
    """
    names = tuple(flatten(tree))
    globs = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    chosen: set[str] = set()
    for glob in globs:
        segments = glob.split("/")
        matched = {name for name in names if _matches(name.split("/"), segments)}
        if not matched:
            raise errors.ArgumentError(_nothing_matched(glob, tree, names))
        chosen |= matched
    return tuple(name for name in names if name in chosen)


def split(
    tree: Mapping[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees: one of the leaves called `names`, one of the others.

    Raises:
        ArgumentError: a name is not in the tree.
    """
    flat, wanted = flatten(tree), set(names)
    if absent := sorted(wanted - set(flat)):
        raise errors.ArgumentError(f"no such leaves: {', '.join(absent[:5])}")
    chosen = {name: leaf for name, leaf in flat.items() if name in wanted}
    others = {name: leaf for name, leaf in flat.items() if name not in wanted}
    return unflatten(chosen), unflatten(others)


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that holds the leaves of both, in sorted order.

    Raises:
        ArgumentError: a leaf is in both, or is a subtree of the other.
    """
    one, two = flatten(first), flatten(second)
    taken = set(one) | _subtrees(one), set(two) | _subtrees(two)
    if both := sorted((taken[0] & set(two)) | (taken[1] & set(one))):
        raise errors.ArgumentError(f"leaves are in both trees: {', '.join(both[:5])}")
    return unflatten(dict(sorted({**one, **two}.items())))


def belongs(module: str, chosen: Collection[str], others: Collection[str]) -> bool:
    """Whether a module goes with the leaves `chosen` rather than with the `others`.

    It does if all leaves below it are chosen. A module without leaves of its own goes
    with the nearest module around it that has some.

    Args:
        module: its path.
        chosen, others: names of leaves.
    """
    while module:
        if any(name.startswith(f"{module}/") for name in others):
            return False
        if any(name.startswith(f"{module}/") for name in chosen):
            return True
        module = module.rpartition("/")[0]
    return False


def fingerprint(tree: Mapping[str, Any]) -> str:
    """The SHA-256 of a tree's names, types, shapes and bytes, hexadecimal."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def count(tree: Tree) -> int:
    """Number of scalars in a tree's arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """Bytes of a tree's arrays."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def differences(
    expected: Mapping[str, Any], found: Mapping[str, Any]
) -> tuple[str, ...]:
    """One line for each leaf that is missing, unexpected, or of other shape or type."""
    want, have = flatten(expected), flatten(found)
    lines = [
        f"{name}: expected {_kind(leaf)}, found {_kind(have[name])}"
        for name, leaf in want.items()
        if name in have and _kind(leaf) != _kind(have[name])
    ]
    lines += [f"{name}: missing" for name in want if name not in have]
    lines += [f"{name}: unexpected" for name in have if name not in want]
    return tuple(lines)


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer of a summary: its path, output shape and number of parameters."""

    layer: str
    output: tuple[int, ...]
    parameters: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a network consists of; `str()` gives the table.

    Attributes:
        rows: one a layer that owns parameters.
        total, trainable, frozen: numbers of parameters.
        bytes: size of all parameters.
        flops: of one forward pass of one example, two for each multiply-add of a
            convolution or matrix product.
    """

    rows: tuple[Row, ...]
    total: int
    trainable: int
    frozen: int
    bytes: int
    flops: int

    def __str__(self) -> str:
        cells = [("layer", "output shape", "parameters")] + [
            (row.layer, " x ".join(map(str, row.output)), f"{row.parameters:,}")
            for row in self.rows
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        lines = [
            f"{layer:<{widths[0]}}  {output:<{widths[1]}}  {number:>{widths[2]}}"
            for layer, output, number in cells
        ]
        rule = "-" * len(lines[0])
        return "\n".join(
            [
                lines[0],
                rule,
                *lines[1:],
                rule,
                f"total {self.total:,} ({self.bytes / 1e6:.1f} MB), trainable "
                f"{self.trainable:,}, frozen {self.frozen:,}",
                f"{self.flops / 1e6:.2f} MFLOP per example, forward",
            ]
        )


def summary(
    model: Any, input_shape: Sequence[int], *, frozen: str | Sequence[str] = ()
) -> Summary:
    """Layers, shapes, counts, bytes and FLOPs of a Linen module; computes nothing.

    Args:
        model: any Linen module whose call takes images and returns an array, or an
            array and endpoints.
        input_shape: [B, H, W, C] or [H, W, C]; the batch does not matter.
        frozen: globs of parameters to count as frozen.
    """
    image = jax.ShapeDtypeStruct((1, *tuple(input_shape)[-3:]), jnp.float32)
    variables = abstract(model, image.shape)
    leaves = flatten(variables["params"])

    def forward(variables: Tree, image: jax.Array) -> Any:
        return model.apply(
            variables, image, capture_intermediates=True, mutable=["intermediates"]
        )

    _, captured = jax.eval_shape(forward, variables, image)
    outputs = flatten(captured["intermediates"])
    sizes: dict[str, int] = {}
    for name, leaf in leaves.items():
        layer = name.rpartition("/")[0]
        sizes[layer] = sizes.get(layer, 0) + math.prod(leaf.shape)
    rows = tuple(
        Row(layer, _output_shape(outputs.get(f"{layer}/__call__".lstrip("/"))), size)
        for layer, size in sizes.items()
    )
    held = select(variables["params"], frozen) if frozen else ()
    frozen_count = sum(math.prod(leaves[name].shape) for name in held)
    total = count(leaves)
    return Summary(
        rows=rows,
        total=total,
        trainable=total - frozen_count,
        frozen=frozen_count,
        bytes=nbytes(leaves),
        flops=flops(model.apply, variables, image),
    )


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of a function's convolutions and matrix products, none of it computed.

    As `summary` counts them: two for each multiply-add of a plain convolution or
    product, whatever it is lowered to.

    Args:
        function: of trees of arrays, such as a training step.
        arguments: such trees, or their shapes and types.
    """
    return 2 * _multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)


def _output_shape(captured: Any) -> tuple[int, ...]:
    """Shape without the batch of a layer's output, () where it was not called."""
    return jax.tree.leaves(captured)[0].shape[1:] if captured is not None else ()


def _multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of the convolutions and matrix products in a jaxpr."""
    total = 0
    lowerings = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "platform_index":
            lowerings += equation.outvars
        inner = [
            _multiply_adds(getattr(value, "jaxpr", value))
            for parameter in equation.params.values()
            for value in (
                parameter if isinstance(parameter, tuple | list) else (parameter,)
            )
            if hasattr(getattr(value, "jaxpr", value), "eqns")
        ]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = equation.invars[1].aval.shape
            outputs = kernel[numbers.rhs_spec[0]]
            depth = math.prod(kernel) // outputs
            # Of a transposed convolution, the taps on inserted zeros do not count.
            spread = math.prod(equation.params["lhs_dilation"])
            total += depth * math.prod(equation.outvars[0].aval.shape) // spread
        elif name == "cond" and equation.invars[0] in lowerings:
            # Of one lowering for each backend, the last, for any backend, is the plain
            # one; others may multiply zeros, or multiply less and add more.
            total += inner[-1]
        elif name == "cond":
            total += max(inner)
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            total += sum(inner)
    return total


def _matches(segments: Sequence[str], globs: Sequence[str]) -> bool:
    """Whether a name's segments match a glob's, where `**` takes any number of them."""
    if not globs or not segments:
        return not segments and all(glob == "**" for glob in globs)
    if globs[0] == "**":
        return _matches(segments, globs[1:]) or _matches(segments[1:], globs)
    return fnmatch.fnmatchcase(segments[0], globs[0]) and _matches(
        segments[1:], globs[1:]
    )


def _subtrees(names: Iterable[str]) -> set[str]:
    """Names of all subtrees that hold leaves of these names."""
    found: set[str] = set()
    for name in names:
        while name := name.rpartition("/")[0]:
            found.add(name)
    return found


def _nothing_matched(glob: str, tree: Mapping[str, Any], names: Sequence[str]) -> str:
    subtrees = ", ".join(tree)
    close = difflib.get_close_matches(glob.replace("/**", ""), [*tree, *names], n=1)
    hint = f"; did you mean {close[0]!r}" if close else ""
    if glob in tree:
        hint = f"; {glob!r} is a subtree: write '{glob}/**' for all of it"
    return f"{glob!r} matches no parameter{hint}; the top-level names are: {subtrees}"


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
