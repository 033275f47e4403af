"""Networks of the registry in flaxnets and in its peers, side by side.

    python -m experiments.benchmark networks
    python -m experiments.benchmark networks --device gpu --rounds 7

Logits of a batch, and steps of training, with parameters drawn at random and a batch
that is on the device. That all compute the same is shown by tests/parity. Keras's
ResNet is that of version 1, torchvision's that of version 1.5, so each is compared with
flaxnets' own of that version. Each measurement is a fresh process, and a round measures
every contender once, in an order that alternates.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

from experiments.benchmark import machine, plot, processes, summary
from experiments.benchmark.contenders import CONTENDERS, OURS
from experiments.benchmark.job import NetworkJob
from flaxnets import console, errors


@dataclasses.dataclass(frozen=True)
class Task:
    """Work that is timed.

    Attributes:
        kind: see `NetworkJob`.
        network: the architecture.
        batch_size: images.
        side: their height and width.
        dtype: of the computation.
        calls: calls in a window.
    """

    kind: Literal["forward", "train_step"]
    network: str
    batch_size: int
    side: int
    dtype: str = "float32"
    calls: int = 4

    def __str__(self) -> str:
        work = "logits" if self.kind == "forward" else "training step"
        return (
            f"{self.network} {work}, {self.batch_size} x {self.side}x{self.side}, "
            f"{self.dtype}"
        )


CPU = {
    "vgg16": Task("forward", "vgg16", 32, 224, calls=1),
    "resnet50": Task("forward", "resnet50", 32, 224, calls=2),
    "resnet50_v1": Task("forward", "resnet50_v1", 32, 224, calls=2),
    "resnet18-train": Task("train_step", "resnet18", 32, 64, calls=5),
}
ACCELERATOR = {
    "vgg16": Task("forward", "vgg16", 256, 224, "bfloat16", 20),
    "resnet50": Task("forward", "resnet50", 256, 224, "bfloat16", 50),
    "resnet50_v1": Task("forward", "resnet50_v1", 256, 224, "bfloat16", 50),
    "resnet18-train": Task("train_step", "resnet18", 256, 64, "float32", 50),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time networks in flaxnets against every peer that is installed."""

    rounds: int = 5
    """How often each contender is measured."""
    tasks: tuple[str, ...] = tuple(CPU)
    """What is timed."""
    windows: int = 3
    """Timed windows per process, after one that is not counted."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who takes part; flaxnets always does."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where all of them compute."""
    tf32: bool = False
    """Let all of them round float32 products to TF32 on a GPU."""
    seed: int = 0
    """Of the parameters and images; round r adds r."""
    out: Path | None = None
    """Results folder; by default experiments/benchmark/results/networks-BACKEND."""


def run(config: Config) -> int:
    """Measures, and leaves result.json, table.txt and plot.png.

    Returns:
        0, or 1 where a worker failed.
    """
    _validate(config)
    device = machine.device_kind(config.device)
    tasks = CPU if device == "cpu" else ACCELERATOR
    folder = config.out or Path(__file__).parent / f"results/networks-{device}"
    facts = {
        # Where the result lies, it shows itself.
        "config": {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name != "out"
        },
        "tasks": {name: dataclasses.asdict(tasks[name]) for name in config.tasks},
        **machine.facts(device),
    }
    outcomes: list[processes.Outcome] = []
    with processes.ended_by_sigterm():
        for number in range(config.rounds):
            names = [name for name in CONTENDERS if name in (OURS, *config.contenders)]
            for name in config.tasks:
                for contender in names if number % 2 == 0 else names[::-1]:
                    job = _job(config, tasks[name], contender, device, number)
                    found = processes.run(CONTENDERS[contender], job)
                    outcomes.append({"round": number, "task": name, **found})
                    console.say(
                        f"round {number + 1}/{config.rounds} {name} {contender}: "
                        f"{_described(found)}"
                    )
                    _write(folder, _result(facts, outcomes, complete=False))
    result = _result(facts, outcomes, complete=True)
    _write(folder, result)
    text = tables(result)
    (folder / "table.txt").write_text(text + "\n")
    plot.draw(_panels(result), result["device"], folder / "plot.png")
    console.say(f"\n{text}\n\nresult: {folder / 'result.json'}")
    return 1 if result["failures"] else 0


def tables(result: dict[str, Any]) -> str:
    """The summary as text, a table a task."""
    parts = []
    for name, table in result["summary"].items():
        if not table["rows"]:
            continue
        header = ["ms", "min..max", "flaxnets/it", "min..max", "images/s", "first s"]
        task = Task(**result["tasks"][name])
        lines = [[str(task), *header, "peak MB"]]
        for contender, row in summary.by_speed(table["rows"], "step_ms"):
            median = row["step_ms"]["median"]
            lines.append(
                [
                    contender,
                    summary.number(row["step_ms"], "{:.1f}"),
                    summary.interval(row["step_ms"], "{:.1f}"),
                    summary.number(row["ratio"], "{:.2f}"),
                    summary.interval(row["ratio"], "{:.2f}"),
                    f"{task.batch_size / median * 1e3:.1f}",
                    summary.number(row["first_step_seconds"], "{:.1f}"),
                    summary.number(row["peak_memory_bytes"], "{:.0f}", 1e-6),
                ]
            )
        text = summary.headed(lines, result) + summary.verdict(table, "time")
        if rate := table["share_of_products"]:
            text += (
                f"\nflaxnets' multiplications over the rate of one large matrix "
                f"product here: {rate['median']:.2f}"
            )
        parts.append(text)
    parts += [f"failed: {failure}" for failure in result["failures"]]
    return "\n\n".join(parts)


def _result(
    facts: dict[str, Any], outcomes: list[processes.Outcome], *, complete: bool
) -> dict[str, Any]:
    good = [outcome for outcome in outcomes if outcome["status"] == "ok"]
    found = {}
    for name in facts["tasks"]:
        mine = [outcome for outcome in good if outcome["task"] == name]
        table = summary.tabulated(mine, summary.STEPS, "step_ms")
        shares = [
            outcome["flops"]
            / (summary.step_milliseconds(outcome) / 1e3)
            / outcome["product_flops_per_second"]
            for outcome in mine
            if "flops" in outcome
        ]
        found[name] = {**table, "share_of_products": summary.spread(shares)}
    accelerators = {o["device"] for o in good if o.get("backend", "cpu") != "cpu"}
    return {
        "complete": complete,
        "device": ", ".join(sorted(accelerators))
        or f"{facts['cpus']} x {facts['cpu']}",
        **facts,
        "versions": {
            package: version
            for outcome in good
            for package, version in outcome["versions"].items()
        },
        "failures": [
            f"{outcome['contender']} ({outcome['task']}): {outcome['message']}"
            for outcome in outcomes
            if outcome["status"] == "failed"
        ],
        "summary": found,
        "outcomes": outcomes,
    }


def _panels(result: dict[str, Any]) -> list[plot.Panel]:
    good = [outcome for outcome in result["outcomes"] if outcome["status"] == "ok"]
    return [
        (
            f"ms, {Task(**task)}",
            plot.by_contender(
                [outcome for outcome in good if outcome["task"] == name],
                summary.step_milliseconds,
            ),
            None,
        )
        for name, task in result["tasks"].items()
    ]


def _job(
    config: Config, task: Task, contender: str, device: str, number: int
) -> NetworkJob:
    return NetworkJob(
        kind=task.kind,
        variant=CONTENDERS[contender].variant,
        network=task.network,
        batch_size=task.batch_size,
        side=task.side,
        dtype=task.dtype,
        device=device,
        tf32=config.tf32,
        seed=config.seed + number,
        calls=task.calls,
        windows=config.windows,
    )


def _described(outcome: processes.Outcome) -> str:
    if outcome["status"] != "ok":
        return f"{outcome['status']}: {outcome['message']}"
    return f"{summary.step_milliseconds(outcome):.1f} ms"


def _write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, folder / "result.json")


def _validate(config: Config) -> None:
    for name in ("rounds", "windows"):
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name} is {getattr(config, name)}, but must be at least 1"
            )
    if not config.tasks:
        raise errors.ArgumentError(
            f"--tasks is empty; give one or more of: {', '.join(CPU)}"
        )
    for name, known in (("tasks", CPU), ("contenders", CONTENDERS)):
        if unknown := sorted(set(getattr(config, name)) - set(known)):
            raise errors.ArgumentError(
                f"--{name} {' '.join(unknown)}: unknown; known are: {', '.join(known)}"
            )
    if config.out and config.out.exists() and not config.out.is_dir():
        raise errors.ArgumentError(
            f"--out {config.out}: a file, but must be a folder; choose another"
        )
