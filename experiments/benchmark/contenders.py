"""Who takes part, and what each is told."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way of training, as one library's user would write it.

    Attributes:
        name: in tables and on the command line.
        module: of `experiments.benchmark.workers`.
        requires: packages without which it cannot run.
        variant: what the module is told, where it has several ways.
        environment: variables that its process gets.
    """

    name: str
    module: str
    requires: tuple[str, ...]
    variant: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


OURS = "flaxnets"

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "flaxnets", ("flaxnets", "jax")),
        Contender("pytorch", "pytorch", ("torch",), "eager"),
        Contender("pytorch-channels-last", "pytorch", ("torch",), "channels-last"),
        Contender("pytorch-compile", "pytorch", ("torch",), "compile"),
        Contender(
            "keras-tensorflow",
            "keras",
            ("keras", "tensorflow"),
            environment={"KERAS_BACKEND": "tensorflow"},
        ),
        Contender(
            "keras-jax",
            "keras",
            ("keras", "jax"),
            environment={"KERAS_BACKEND": "jax"},
        ),
    )
}

FLOOR = Contender("floor", "floor", ("jax",))
