"""`python -m experiments.benchmark NAME`: runs a benchmark by its name."""

import sys

import tyro

from experiments.benchmark import (
    attacks,
    autoencoders,
    mnist,
    networks,
    pictures,
    transfer,
)
from flaxnets import console, errors

BENCHMARKS = {
    "mnist": mnist,
    "attacks": attacks,
    "autoencoders": autoencoders,
    "networks": networks,
    "pictures": pictures,
    "transfer": transfer,
}


def main() -> int:
    """Runs the benchmark that the first argument names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        name, arguments = "mnist", ["--help"]
    if name not in BENCHMARKS:
        raise errors.ArgumentError(
            f"no benchmark {name!r}; the first argument must be the name of one: "
            f"{', '.join(BENCHMARKS)}"
        )
    benchmark = BENCHMARKS[name]
    prog = f"python -m experiments.benchmark {name}"
    return benchmark.run(tyro.cli(benchmark.Config, args=arguments, prog=prog))


if __name__ == "__main__":
    console.run(main)
