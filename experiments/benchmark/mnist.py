"""The lecture's training on MNIST, in flaxnets and in its peers, side by side.

    python -m experiments.benchmark mnist
    python -m experiments.benchmark mnist --device gpu --rounds 7
    python -m experiments.benchmark mnist --check

Every contender trains the same network of 1,897,226 parameters from the same initial
parameters on the same data, with Adam at 1e-3 and float32, each in the fast way of its
own library, and each measurement is a fresh process. A round measures every contender
once, in an order that alternates.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from experiments.benchmark import (
    checking,
    inputs,
    machine,
    plot,
    processes,
    summary,
)
from experiments.benchmark.contenders import CONTENDERS, FLOOR, OURS, Contender
from experiments.benchmark.job import Job, Kind
from flaxnets import console, data, errors


@dataclasses.dataclass(frozen=True)
class Config:
    """Time flaxnets against every peer that is installed."""

    rounds: int = 5
    """How often each contender is measured."""
    batch_sizes: tuple[int, ...] = (128, 16)
    """Batch sizes whose steps are timed; none for the race alone."""
    steps: int = 200
    """Steps per timed window."""
    windows: int = 3
    """Timed windows per process, after one that is not counted."""
    race: bool = True
    """Also time from process start to the target accuracy."""
    race_batch_size: int = 16
    """Batch size of that; 16 is the lecture's."""
    target: float = 0.99
    """The test accuracy that ends the race."""
    max_epochs: int = 12
    """Where the race gives up."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who takes part; flaxnets always does."""
    dataset: str = "auto"
    """mnist, fashion_mnist, digits, tfds:NAME, an .npz file or an IDX folder."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where all of them train."""
    tf32: bool = False
    """Let all of them round matrix products to TF32 on a GPU."""
    seed: int = 0
    """Of the initial parameters and the order of examples; round r adds r."""
    check: bool = False
    """Only check that all of them do the same work, and measure nothing."""
    out: Path | None = None
    """Results folder; by default experiments/benchmark/results/mnist-BACKEND (with
    --check none, so that it replaces no measurement)."""


def run(config: Config) -> int:
    """Checks, measures, and leaves result.json, table.txt and plot.png.

    Returns:
        0, or 1 where a worker failed or a contender does other work.
    """
    _validate(config)
    dataset = data.load(config.dataset)
    device = machine.device_kind(config.device)
    console.say(f"data: {dataset.name}, {dataset.source}")
    with (
        processes.ended_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
    ):
        files = inputs.Inputs(
            Path(folder),
            dataset,
            batch_sizes=config.batch_sizes,
            steps=config.steps,
            race_batch=config.race_batch_size,
            seeds=range(config.seed, config.seed + config.rounds),
        )
        session = Session(config, device, files, dataset)
        session.check()
        if not config.check:
            session.measure()
    return session.finish()


class Session:
    """A benchmark under way: whom it measures, and what it has found."""

    def __init__(
        self, config: Config, device: str, files: inputs.Inputs, dataset: data.Dataset
    ) -> None:
        self._config, self._device, self._files = config, device, files
        self._folder = config.out or Path(__file__).parent / f"results/mnist-{device}"
        self._active = [
            contender
            for name, contender in CONTENDERS.items()
            if name == OURS or name in config.contenders
        ]
        self._outcomes: list[processes.Outcome] = []
        self._skipped: dict[str, str] = {}
        self._failures: list[str] = []
        self._facts = {
            "dataset": dataset.name,
            "train_examples": len(dataset.train.labels),
            "test_examples": len(dataset.test.labels),
            **machine.facts(device),
        }

    def check(self) -> None:
        """Compares every contender's first losses with flaxnets', and drops the absent.

        Those that are not installed or have no such device are skipped; those that
        fail or do other work are failures, and are measured no further.
        """
        console.say(f"check: {inputs.CHECK_STEPS} steps from the same weights")
        answers = {}
        for contender in self._active:
            outcome = self._run(contender, "check", inputs.CHECK_BATCH, 0)
            if outcome["status"] == "ok":
                answers[contender.name] = outcome
            elif outcome["status"] != "failed":
                self._skipped[contender.name] = outcome["message"]
            if contender.name == OURS and outcome["status"] != "ok":
                raise errors.DeviceError(f"flaxnets cannot run: {outcome['message']}")
            verdict = _described(outcome)
            if outcome["status"] == "ok":
                complaint = checking.check(answers[OURS], outcome)
                verdict = complaint or f"agrees with flaxnets, {verdict}"
                if complaint:
                    outcome["status"] = "other work"
                    self._failures.append(f"{contender.name}: {complaint}")
            console.say(f"  {contender.name}: {verdict}")
        self._active = [
            contender
            for contender in self._active
            if answers.get(contender.name, {}).get("status") == "ok"
        ]

    def measure(self) -> None:
        """Measures everyone in every round; what is found is on disk after each."""
        everyone = [*self._active, FLOOR]
        for number in range(self._config.rounds):
            order = everyone if number % 2 == 0 else everyone[::-1]
            for batch in self._config.batch_sizes:
                for contender in order:
                    kind: Kind = "floor" if contender is FLOOR else "steps"
                    self._measured(contender, kind, batch, number)
            for contender in order:
                if self._config.race and contender is not FLOOR:
                    self._measured(
                        contender, "race", self._config.race_batch_size, number
                    )

    def finish(self) -> int:
        """Writes the result and prints its tables; returns the exit code."""
        result = self._result(complete=True)
        text = summary.tables(result)
        if text:
            console.say(f"\n{text}")
        if self._config.out or not self._config.check:
            self._write(result)
            console.say(f"\nresult: {self._folder / 'result.json'}")
        if not self._config.check:
            (self._folder / "table.txt").write_text(text + "\n")
            plot.save(result, self._folder / "plot.png")
        return 1 if self._failures else 0

    def _measured(
        self, contender: Contender, kind: Kind, batch: int, number: int
    ) -> None:
        outcome = self._run(contender, kind, batch, number)
        if "race" in outcome:
            last = outcome["race"][-1]["test_accuracy"]
            outcome["reached"] = round(last, 6) >= self._config.target
        console.say(
            f"round {number + 1}/{self._config.rounds} {kind} of {batch} "
            f"{contender.name}: {_described(outcome)}"
        )
        self._write(self._result(complete=False))

    def _run(
        self, contender: Contender, kind: Kind, batch: int, number: int
    ) -> processes.Outcome:
        config, files = self._config, self._files
        seed = config.seed + number
        path = {
            "check": files.check,
            "race": files.race,
        }.get(kind) or files.steps(batch)
        job = Job(
            kind=kind,
            variant=contender.variant,
            batch_size=batch,
            device=self._device,
            tf32=config.tf32,
            seed=seed,
            data=str(path),
            weights=str(files.weights(seed)),
            windows=config.windows,
            target=config.target,
            max_epochs=config.max_epochs,
        )
        outcome = {"round": number, **processes.run(contender, job)}
        self._outcomes.append(outcome)
        if outcome["status"] == "failed":
            self._failures.append(f"{contender.name} ({kind}): {outcome['message']}")
        return outcome

    def _result(self, *, complete: bool) -> dict[str, Any]:
        return {
            "complete": complete,
            **summary.setting(self._config, self._facts, self._outcomes),
            "skipped": self._skipped,
            "failures": self._failures,
            "summary": summary.summarize(
                [o for o in self._outcomes if o["kind"] != "check"],
                self._config.batch_sizes,
            ),
            "outcomes": self._outcomes,
        }

    def _write(self, result: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "result.json"
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(path)


def _described(outcome: processes.Outcome) -> str:
    """An outcome in a few words."""
    if outcome["status"] != "ok":
        return f"{outcome['status']}: {outcome['message']}"
    if outcome["kind"] == "check":
        (form, *_) = checking.FORMS & outcome.keys()
        losses = outcome[form]["losses"]
        return f"loss {losses[0]:.5f} to {losses[-1]:.5f}"
    if outcome["kind"] == "floor":
        return f"{outcome['floor_seconds'] * 1e3:.2f} ms"
    if outcome["kind"] == "race":
        last = outcome["race"][-1]
        return (
            f"{last['test_accuracy']:.2%} after {len(outcome['race'])} epochs, "
            f"{last['seconds']:.1f} s"
        )
    return (
        f"{summary.step_milliseconds(outcome):.2f} ms, first step after "
        f"{outcome['first_step_seconds']:.1f} s"
    )


def _validate(config: Config) -> None:
    for name in ("rounds", "steps", "windows", "race_batch_size", "max_epochs"):
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}, but must be "
                "at least 1"
            )
    if config.seed < 0:
        raise errors.ArgumentError(f"--seed is {config.seed}, but must be at least 0")
    if config.out and config.out.exists() and not config.out.is_dir():
        raise errors.ArgumentError(
            f"--out {config.out}: a file, but must be a folder; choose another"
        )
    if any(size < 1 for size in config.batch_sizes):
        raise errors.ArgumentError(
            f"--batch-sizes is {config.batch_sizes}, but each must be at least 1"
        )
    if not config.batch_sizes and not config.race:
        raise errors.ArgumentError(
            "--batch-sizes is empty and --no-race was given, so there is nothing to "
            "measure; give a batch size, or leave --no-race out"
        )
    if not 0 < config.target <= 1:
        raise errors.ArgumentError(
            f"--target is {config.target}, but must be above 0 and at most 1"
        )
    unknown = sorted(set(config.contenders) - set(CONTENDERS))
    if unknown:
        raise errors.ArgumentError(
            f"--contenders {' '.join(unknown)}: unknown; known are: "
            f"{', '.join(CONTENDERS)}"
        )
