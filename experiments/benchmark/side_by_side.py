"""Tasks that every contender does, one process each, and what comes of it.

A round measures every contender once, in an order that alternates.
"""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from experiments.benchmark import machine, plot, processes, summary
from experiments.benchmark.contenders import CONTENDERS, OURS
from experiments.benchmark.job import AnyJob
from flaxnets import console, errors


@dataclasses.dataclass(frozen=True)
class Config:
    """What every such benchmark is asked."""

    rounds: int = 5
    """How often each contender is measured."""
    tasks: tuple[str, ...] = ()
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
    """Results folder; by default experiments/benchmark/results/BENCHMARK-BACKEND."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a task's job is told of the run.

    Attributes:
        variant: of the contender.
        device: `cpu`, `gpu` or `tpu`.
        tf32, windows: as `Config` has them.
        seed: of this round.
    """

    variant: str
    device: str
    tf32: bool
    seed: int
    windows: int


class Task(Protocol):
    """Work that is timed; its `str` is a title."""

    @property
    def batch_size(self) -> int:
        """Images of a call."""
        ...

    def job(self, asked: Asked) -> AnyJob:
        """What a worker is sent."""
        ...


def run(
    name: str,
    config: Config,
    cpu: Mapping[str, Task],
    accelerator: Mapping[str, Task],
) -> int:
    """Measures, and leaves result.json, table.txt and plot.png.

    Args:
        name: of the benchmark.
        config: what is asked.
        cpu, accelerator: tasks by name, the same names in both.

    Returns:
        0, or 1 where a worker failed.
    """
    _validate(config, cpu)
    device = machine.device_kind(config.device)
    tasks = cpu if device == "cpu" else accelerator
    folder = config.out or Path(__file__).parent / f"results/{name}-{device}"
    facts = {
        # Where the result lies, it shows itself.
        "config": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(config).items()
            if name != "out"
        },
        "tasks": {
            name: {
                "title": str(tasks[name]),
                **{
                    field: value
                    for field, value in dataclasses.asdict(
                        cast(Any, tasks[name])
                    ).items()
                    # It is gone by the time that the result is read.
                    if field != "file"
                },
            }
            for name in config.tasks
        },
        **machine.facts(device),
    }
    outcomes: list[processes.Outcome] = []
    with processes.ended_by_sigterm():
        for number in range(config.rounds):
            names = [name for name in CONTENDERS if name in (OURS, *config.contenders)]
            for name in config.tasks:
                for contender in names if number % 2 == 0 else names[::-1]:
                    asked = Asked(
                        CONTENDERS[contender].variant,
                        device,
                        config.tf32,
                        config.seed + number,
                        config.windows,
                    )
                    job = tasks[name].job(asked)
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
        task = result["tasks"][name]
        lines = [[task["title"], *header, "peak MB"]]
        for contender, row in summary.by_speed(table["rows"], "step_ms"):
            median = row["step_ms"]["median"]
            lines.append(
                [
                    contender,
                    summary.number(row["step_ms"], "{:.1f}"),
                    summary.interval(row["step_ms"], "{:.1f}"),
                    summary.number(row["ratio"], "{:.2f}"),
                    summary.interval(row["ratio"], "{:.2f}"),
                    f"{task['batch_size'] / median * 1e3:.1f}",
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
        if shares := _fooled(result, name):
            text += f"\nshare of the pictures that is fooled: {shares}"
        parts.append(text)
    parts += [f"failed: {failure}" for failure in result["failures"]]
    return "\n\n".join(parts)


def _fooled(result: dict[str, Any], task: str) -> str:
    """How well each contender's attack did, the median over the rounds."""
    found: dict[str, list[float]] = {}
    for outcome in result["outcomes"]:
        if outcome["task"] == task and "success_rate" in outcome:
            found.setdefault(outcome["contender"], []).append(outcome["success_rate"])
    return ", ".join(
        f"{contender} {np.median(shares):.1%}" for contender, shares in found.items()
    )


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
            f"ms, {task['title']}",
            plot.by_contender(
                [outcome for outcome in good if outcome["task"] == name],
                summary.step_milliseconds,
            ),
            None,
        )
        for name, task in result["tasks"].items()
    ]


def _described(outcome: processes.Outcome) -> str:
    if outcome["status"] != "ok":
        return f"{outcome['status']}: {outcome['message']}"
    return f"{summary.step_milliseconds(outcome):.1f} ms"


def _write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, folder / "result.json")


def _validate(config: Config, tasks: Collection[str]) -> None:
    for name in ("rounds", "windows"):
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name} is {getattr(config, name)}, but must be at least 1"
            )
    if not config.tasks:
        raise errors.ArgumentError(
            f"--tasks is empty; give one or more of: {', '.join(tasks)}"
        )
    for name, known in (("tasks", tasks), ("contenders", CONTENDERS)):
        if unknown := sorted(set(getattr(config, name)) - set(known)):
            raise errors.ArgumentError(
                f"--{name} {' '.join(unknown)}: unknown; known are: {', '.join(known)}"
            )
    if config.out and config.out.exists() and not config.out.is_dir():
        raise errors.ArgumentError(
            f"--out {config.out}: a file, but must be a folder; choose another"
        )
