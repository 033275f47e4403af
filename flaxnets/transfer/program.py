"""A traced function as a list of operations, of which some can be left out."""

import copy
import enum
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from flaxnets import errors


class Kind(enum.IntEnum):
    """What a value depends on, at most."""

    CONSTANT = 0
    """Frozen parameters."""
    PICTURE = 1
    """Pictures, and what is constant."""
    TRAINED = 2
    """What is trained, or drawn anew in each step."""


class _Operation(NamedTuple):
    text: str
    run: Callable[..., Sequence[Any]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Program:
    """A function's operations on values, which are numbered as they arise.

    Attributes:
        inputs: numbers of the function's arguments' leaves.
        outputs: numbers of its results' leaves.
        shapes: of each value, with its type.
        kinds: of each value.

    Args:
        function: takes `arguments`, and returns any tree of arrays.
        arguments: trees of shapes and types.
        kinds: of the leaves of the arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        kinds: Sequence[Kind],
    ) -> None:
        self.shapes: list[Any] = []
        self.kinds: list[Kind] = []
        self._constants: dict[int, Any] = {}
        self._operations: list[_Operation] = []
        closed, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self._results = jax.tree.structure(results)
        self.inputs = [
            self._number(variable.aval, kind)
            for variable, kind in zip(closed.jaxpr.invars, kinds, strict=True)
        ]
        self.outputs = self._inline(closed.jaxpr, closed.consts, self.inputs)

    @property
    def boundary(self) -> list[int]:
        """Values of kind PICTURE that an operation of kind TRAINED takes, or results.

        What is left of the pictures where training begins.
        """
        needed = self._needed(self.outputs, down_to=Kind.TRAINED)
        taken = {value for operation in needed for value in operation.inputs}
        return [
            value
            for value, kind in enumerate(self.kinds)
            if kind == Kind.PICTURE and value in taken | set(self.outputs)
        ]

    def restricted(self, other: "Program") -> "Program":
        """With what another program of the same arguments does not compute TRAINED."""
        found = copy.copy(self)
        found.kinds = list(self.kinds)
        theirs, ours = set(other._descriptions().values()), self._descriptions()
        for operation in found._operations:
            alone = any(ours.get(value) not in theirs for value in operation.outputs)
            above = any(
                found.kinds[value] == Kind.TRAINED for value in operation.inputs
            )
            if above or (alone and found._kind(operation) == Kind.PICTURE):
                for value in operation.outputs:
                    found.kinds[value] = Kind.TRAINED
        return found

    def same(self, values: Sequence[int], other: "Program") -> list[int]:
        """The values here that are what `values` are in another program.

        Args:
            values: of the other, which this one computes too.
            other: a program of the same arguments.
        """
        theirs = other._descriptions()
        places = {text: value for value, text in self._descriptions().items()}
        return [places[theirs[value]] for value in values]

    def described(self, values: Sequence[int]) -> list[str]:
        """How values come from the inputs: the same text for the same operations."""
        texts = self._descriptions()
        return [texts[value] for value in values]

    def _descriptions(self) -> dict[int, str]:
        """How each value comes from the inputs, where nothing trained is in it."""
        known = {value: f"input {place}" for place, value in enumerate(self.inputs)}
        for value, constant in self._constants.items():
            (known[value],) = _held([constant])
        for operation in self._operations:
            if self._kind(operation) < Kind.TRAINED:
                sources = [known[value] for value in operation.inputs]
                text = "\n".join([operation.text, *sources])
                digest = hashlib.sha256(text.encode()).hexdigest()
                for place, value in enumerate(operation.outputs):
                    known[value] = f"{digest} {place}"
        return known

    def run(self, given: Mapping[int, Any], wanted: Sequence[int]) -> Any:
        """The function's results, as it returns them, where some values are given."""
        return jax.tree.unflatten(self._results, self.values(given, wanted))

    def values(self, given: Mapping[int, Any], wanted: Sequence[int]) -> list[Any]:
        """Computes values; nothing below a given one is looked at."""
        known = {**self._constants, **given}
        for operation in self._needed(wanted, given=given):
            found = operation.run(*(known[value] for value in operation.inputs))
            known.update(zip(operation.outputs, found, strict=True))
        return [known[value] for value in wanted]

    def _needed(
        self,
        wanted: Iterable[int],
        *,
        given: Mapping[int, Any] | None = None,
        down_to: Kind = Kind.CONSTANT,
    ) -> list[_Operation]:
        """The operations that values come from, in order."""
        missing = set(wanted) - set(given or {})
        chosen = []
        for operation in reversed(self._operations):
            if missing.isdisjoint(operation.outputs):
                continue
            if self._kind(operation) >= down_to:
                chosen.append(operation)
                missing |= set(operation.inputs) - set(given or {})
        return chosen[::-1]

    def _kind(self, operation: _Operation) -> Kind:
        return self.kinds[operation.outputs[0]]

    def _number(self, shape: Any, kind: Kind) -> int:
        self.shapes.append(shape)
        self.kinds.append(kind)
        return len(self.kinds) - 1

    def _constant(self, value: Any, shape: Any) -> int:
        number = self._number(shape, Kind.CONSTANT)
        self._constants[number] = value
        return number

    def _inline(
        self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[int]
    ) -> list[int]:
        """Adds a jaxpr's operations, those of functions jitted in it one by one."""
        numbers = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            numbers[variable] = self._constant(value, variable.aval)

        def number(atom: Any) -> int:
            if isinstance(atom, core.Literal):
                return self._constant(atom.val, atom.aval)
            return numbers[atom]

        for equation in jaxpr.eqns:
            if equation.primitive.name in ("jit", "pjit"):
                inner = equation.params["jaxpr"]
                taken = [number(atom) for atom in equation.invars]
                made = self._inline(inner.jaxpr, inner.consts, taken)
                numbers.update(zip(equation.outvars, made, strict=True))
                continue
            if not equation.outvars:
                # An effect and no value, such as printing: of tracing, not of training.
                continue
            variables = list(
                dict.fromkeys(
                    atom
                    for atom in equation.invars
                    if not isinstance(atom, core.Literal)
                )
            )
            taken = [numbers[variable] for variable in variables]
            kind = max((self.kinds[value] for value in taken), default=Kind.CONSTANT)
            made = [self._number(result.aval, kind) for result in equation.outvars]
            numbers.update(zip(equation.outvars, made, strict=True))
            alone = jaxpr.replace(
                constvars=[],
                invars=variables,
                outvars=equation.outvars,
                eqns=[equation],
            )
            run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))
            text = _text(alone) if kind < Kind.TRAINED else ""
            operation = _Operation(text, run, tuple(taken), tuple(made))
            self._operations.append(operation)
        return [number(atom) for atom in jaxpr.outvars]


def described(function: Callable[..., Any], *arguments: Any) -> str:
    """A function's operations on arguments like these, and the numbers in them."""
    closed = jax.make_jaxpr(function)(*arguments)
    return "\n".join([_text(closed.jaxpr), *_held(closed.consts)])


def _text(jaxpr: Any) -> str:
    """A jaxpr, and the numbers in those inside it.

    Without addresses in memory, which differ between two traces.
    """
    return "\n".join([re.sub(r" at 0x\w+", "", str(jaxpr)), *_numbers(jaxpr)])


def _numbers(jaxpr: Any) -> Iterator[str]:
    """The constants of the jaxprs inside a jaxpr, of which its text tells no values.

    Raises:
        ArgumentError: it calls back to Python, whose results nobody can foresee.
    """
    for equation in jaxpr.eqns:
        if "callback" in equation.primitive.name:
            raise errors.ArgumentError(
                f"below the frozen boundary there is a {equation.primitive.name}, "
                "which may give something else each time; train this network without "
                "stored features"
            )
        for parameter in equation.params.values():
            several = parameter if isinstance(parameter, tuple | list) else [parameter]
            for value in several:
                if hasattr(value, "consts"):
                    yield from _held(value.consts)
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from _numbers(inner)


def _held(constants: Iterable[Any]) -> list[str]:
    arrays = [np.asarray(constant) for constant in constants]
    return [f"{array.dtype} {array.shape} {array.tobytes()!r}" for array in arrays]
