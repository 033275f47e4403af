"""`python -m experiments.benchmark NAME`: runs a benchmark by its name."""

import sys

import tyro

from experiments import command
from experiments.benchmark import mnist
from flaxnets import errors


def main() -> int:
    """Runs the benchmark that the first argument names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        name, arguments = "mnist", ["--help"]
    if name != "mnist":
        raise errors.ArgumentError(
            f"no benchmark {name!r}; the first argument must be the name of one: mnist"
        )
    return mnist.run(
        tyro.cli(
            mnist.Config,
            args=arguments,
            prog="python -m experiments.benchmark mnist",
        )
    )


if __name__ == "__main__":
    command.run(main)
