"""Medians and ratios of a benchmark's raw outcomes, and their tables."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.contenders import CONTENDERS, FLOOR, OURS
from experiments.benchmark.processes import Outcome

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread | None:
    """Minimum, median and maximum; None of nothing."""
    if not values:
        return None
    return {
        "min": float(min(values)),
        "median": float(np.median(values)),
        "max": float(max(values)),
    }


def setting(
    config: Any, facts: dict[str, Any], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """With what, where and by which versions a result was measured.

    Args:
        config: a benchmark's dataclass.
        facts: of `machine.facts`.
        outcomes: of its workers.
    """
    # An outcome that is not a measurement has no backend and no device.
    accelerators = {
        outcome["device"]
        for outcome in outcomes
        if outcome.get("backend", "cpu") != "cpu"
    }
    return {
        "device": ", ".join(sorted(accelerators))
        or f"{facts['cpus']} x {facts['cpu']}",
        # Where the result lies, it shows itself.
        "config": {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name != "out"
        },
        **facts,
        "versions": {
            package: version
            for outcome in outcomes
            for package, version in outcome.get("versions", {}).items()
        },
    }


def summarize(outcomes: Sequence[Outcome], batch_sizes: Sequence[int]) -> dict:
    """The benchmark's numbers, by batch size and contender.

    A ratio is flaxnets' number over the contender's in the same round: below one,
    flaxnets is faster.
    """
    good = [outcome for outcome in outcomes if outcome["status"] == "ok"]
    steps = {
        str(batch): _steps(
            [o for o in good if o["batch_size"] == batch and o["kind"] != "race"]
        )
        for batch in batch_sizes
    }
    return {
        "steps": steps,
        "race": tabulated([o for o in good if o["kind"] == "race"], _RACE, "seconds"),
    }


def step_milliseconds(outcome: Outcome) -> float:
    """Milliseconds per step of one worker: the median of its windows."""
    return float(np.median(outcome["window_seconds"])) / outcome["window_steps"] * 1e3


def race_seconds(outcome: Outcome) -> float | None:
    """Seconds from the process's start to the target; None if not reached."""
    return outcome["race"][-1]["seconds"] if outcome["reached"] else None


Measures = dict[str, Callable[[Outcome], float | None]]

STEPS: Measures = {
    "step_ms": step_milliseconds,
    "first_step_seconds": lambda outcome: outcome["first_step_seconds"],
    "compile_seconds": lambda outcome: outcome["compile_seconds"],
    "peak_memory_bytes": lambda outcome: outcome["peak_memory_bytes"],
}
_RACE: Measures = {
    "seconds": race_seconds,
    "epochs": lambda outcome: len(outcome["race"]) if outcome["reached"] else None,
    "peak_memory_bytes": lambda outcome: outcome["peak_memory_bytes"],
}


def _steps(outcomes: Sequence[Outcome]) -> dict:
    table = tabulated([o for o in outcomes if o["kind"] == "steps"], STEPS, "step_ms")
    floors = [o["floor_seconds"] * 1e3 for o in outcomes if o["kind"] == "floor"]
    table["floor_ms"] = spread(floors)
    for row in table["rows"].values():
        both = floors and row["step_ms"]
        row["times_floor"] = (
            row["step_ms"]["median"] / float(np.median(floors)) if both else None
        )
    for part in ("product_seconds", "adam_seconds"):
        found = [o[part] * 1e3 for o in outcomes if o["kind"] == "floor"]
        table[part.replace("seconds", "ms")] = spread(found)
    return table


def tabulated(outcomes: Sequence[Outcome], measures: Measures, main: str) -> dict:
    """Each contender's measures, and flaxnets' ratio to it and to the fastest.

    Args:
        outcomes: of one kind of work, each of them `ok`.
        measures: what is taken from an outcome, by name.
        main: the measure that contenders are compared by; less is better.
    """
    rows = {}
    by_round = {
        (outcome["contender"], outcome["round"]): outcome for outcome in outcomes
    }
    for name in dict.fromkeys(name for name, _ in by_round):
        mine = [outcome for (who, _), outcome in by_round.items() if who == name]
        row: dict[str, Any] = {
            measure: spread([v for o in mine if (v := of(o)) is not None])
            for measure, of in measures.items()
        }
        row["rounds"] = len(mine)
        ratios = [
            ours / theirs
            for (who, number), outcome in by_round.items()
            if who == name and (us := by_round.get((OURS, number)))
            if (ours := measures[main](us)) and (theirs := measures[main](outcome))
        ]
        row["ratio"] = spread(ratios)
        row["backend"], row["device"] = mine[0]["backend"], mine[0]["device"]
        rows[name] = row
    peers = {
        name: row
        for name, row in rows.items()
        if name != OURS and row[main] is not None
    }
    fastest = min(peers, key=lambda name: peers[name][main]["median"], default=None)
    return {
        "rows": rows,
        "fastest_peer": fastest,
        "ratio_to_fastest_peer": rows[fastest]["ratio"] if fastest else None,
    }


def tables(result: dict) -> str:
    """The summary as text: a table a batch size, one of the race, and what is left."""
    summary, parts = result["summary"], []
    for batch, table in summary["steps"].items():
        if table["rows"]:
            parts.append(_steps_text(batch, table, result))
    if summary["race"]["rows"]:
        parts.append(_race_text(summary["race"], result))
    for name, reason in result["skipped"].items():
        parts.append(f"skipped: {name}: {reason}")
    for failure in result["failures"]:
        parts.append(f"failed: {failure}")
    return "\n\n".join(parts)


def _steps_text(batch: str, table: dict, result: dict) -> str:
    header = [
        f"batch {batch}",
        "ms/step",
        "min..max",
        "flaxnets/it",
        "min..max",
        "x floor",
        "first step s",
        "compile s",
        "peak MB",
    ]
    lines = [
        [
            name,
            number(row["step_ms"], "{:.2f}"),
            interval(row["step_ms"], "{:.2f}"),
            number(row["ratio"], "{:.2f}"),
            interval(row["ratio"], "{:.2f}"),
            f"{row['times_floor']:.1f}" if row["times_floor"] else "-",
            number(row["first_step_seconds"], "{:.1f}"),
            number(row["compile_seconds"], "{:.1f}"),
            number(row["peak_memory_bytes"], "{:.0f}", 1e-6),
        ]
        for name, row in by_speed(table["rows"], "step_ms")
    ]
    lines.append(
        [
            FLOOR.name,
            number(table["floor_ms"], "{:.2f}"),
            interval(table["floor_ms"], "{:.2f}"),
            *["-"] * 6,
        ]
    )
    text = headed([header, *lines], result)
    if table["floor_ms"]:
        text += (
            f"\nfloor: matrix products {table['product_ms']['median']:.2f} ms + "
            f"Adam's memory traffic {table['adam_ms']['median']:.2f} ms"
        )
    return text + verdict(table, "step")


def _race_text(table: dict, result: dict) -> str:
    config = result["config"]
    header = [
        f"to {config['target']:.2%} at batch {config['race_batch_size']}",
        "s",
        "min..max",
        "flaxnets/it",
        "min..max",
        "epochs",
        "min..max",
        "peak MB",
        "rounds",
    ]
    lines = [
        [
            name,
            number(row["seconds"], "{:.1f}") if row["seconds"] else "not reached",
            interval(row["seconds"], "{:.1f}"),
            number(row["ratio"], "{:.2f}"),
            interval(row["ratio"], "{:.2f}"),
            number(row["epochs"], "{:g}"),
            interval(row["epochs"], "{:g}"),
            number(row["peak_memory_bytes"], "{:.0f}", 1e-6),
            str(row["rounds"]),
        ]
        for name, row in by_speed(table["rows"], "seconds")
    ]
    return headed([header, *lines], result) + verdict(table, "time to the target")


def headed(lines: Sequence[Sequence[str]], result: dict) -> str:
    """A table under the line that says where and how often it was measured."""
    rounds = result["config"]["rounds"]
    return f"{result['device']}, median of {rounds} rounds\n{_aligned(lines)}"


def verdict(table: dict, what: str, bar: float | None = None) -> str:
    """The ratio to the fastest peer in a line of its own; nothing without peers.

    Args:
        table: see `tabulated`.
        what: the measure, in words.
        bar: the ratio that flaxnets is held to.
    """
    ratio = table["ratio_to_fastest_peer"]
    if ratio is None:
        return ""
    held = ""
    if bar is not None:
        held = f", {'within' if ratio['median'] <= bar else 'above'} {bar:g}"
    return (
        f"\nflaxnets' {what} over that of the fastest peer, {table['fastest_peer']}: "
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}){held}"
    )


def by_speed(rows: dict, measure: str) -> list[tuple[str, dict]]:
    """Rows by a measure's median, those without one last."""
    order = list(CONTENDERS)

    def place(item: tuple[str, dict]) -> tuple[float, int]:
        value = item[1][measure]
        return (value["median"] if value else float("inf"), order.index(item[0]))

    return sorted(rows.items(), key=place)


def number(value: Spread | None, form: str, scale: float = 1.0) -> str:
    """A median, or a dash."""
    return form.format(value["median"] * scale) if value else "-"


def interval(value: Spread | None, form: str) -> str:
    """Minimum and maximum, or a dash."""
    if value is None:
        return "-"
    return f"{form.format(value['min'])}..{form.format(value['max'])}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "-" * max(map(len, rows)), *rows[1:]])
