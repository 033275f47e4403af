"""A new head on a frozen VGG-16, in flaxnets and in its peers, side by side.

    python -m experiments.benchmark transfer
    python -m experiments.benchmark transfer --rounds 1 --size 64 --pictures 64
    python -m experiments.benchmark transfer --check

The lecture's second program: VGG-16's convolutions stay as they are, and a head of 50
and 2 units is trained on what they make of each picture. Every contender has the same
parameters, pictures, batches and optimizer, each in its library's own way of freezing,
and each training is a fresh process. A round measures every contender once, in an
order that alternates.

Two things are compared. The whole training, from pictures and network in memory to the
end of the last epoch, compilation included: here flaxnets computes the features once
and trains the head on them. And one epoch, compilation left out, in which flaxnets too
stores nothing, as where pictures are augmented.

The optimizer is SGD with momentum, which is the same in every library. RMSprop, the
lecture's, is not: PyTorch adds its epsilon outside of the root, Keras and optax inside.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.benchmark import (
    checking,
    inputs,
    machine,
    plot,
    processes,
    summary,
)
from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import CONTENDERS, OURS, Contender
from flaxnets import console, errors, files

# What flaxnets' times are held to, over those of the fastest peer.
BARS = {"total": 0.3, "epoch": 0.95}
# Divided by the number of features: steps then move the logits about as much whatever
# the size of the pictures, and the loss falls without swinging.
RATE = 0.25
# Keras's smallest pictures for VGG-16, whose five poolings leave one pixel of them.
LEAST_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the training of a head on a frozen VGG-16 against every installed peer."""

    rounds: int = 3
    """How often each contender is measured."""
    pictures: int = 256
    """Pictures in an epoch, a multiple of --batch-size."""
    size: int = 224
    """Their height and width in pixels."""
    batch_size: int = 32
    """Pictures per step."""
    epochs: int = 5
    """Epochs of a training; the first is left out of the time of one epoch."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who takes part; flaxnets always does."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where all of them train."""
    tf32: bool = False
    """Let all of them round matrix products to TF32 on a GPU."""
    seed: int = 0
    """Of pictures, parameters and the order of pictures; round r adds r."""
    check: bool = False
    """Only check that all of them do the same work, and measure nothing."""
    out: Path | None = None
    """Results folder; by default experiments/benchmark/results/transfer-BACKEND (with
    --check none, so that it replaces no measurement)."""


def run(config: Config) -> int:
    """Checks, measures, and leaves result.json, table.txt and plot.png.

    Returns:
        0, or 1 where a worker failed or a contender does other work.
    """
    _validate(config)
    device = machine.device_kind(config.device)
    with (
        processes.ended_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
    ):
        seeds = range(config.seed, config.seed + config.rounds)
        given = inputs.TransferInputs(Path(folder), config.pictures, config.size, seeds)
        session = Session(config, device, given)
        session.check()
        if not config.check:
            session.measure()
    return session.finish()


class Way(NamedTuple):
    """A contender, and whether it stores features, which flaxnets does and does not."""

    contender: Contender
    stored: bool

    def __str__(self) -> str:
        if self.contender.name != OURS:
            return self.contender.name
        return f"{OURS}, features {'' if self.stored else 'not '}stored"


class Session:
    """A benchmark under way: whom it measures, and what it has found."""

    def __init__(
        self, config: Config, device: str, given: inputs.TransferInputs
    ) -> None:
        self._config, self._device, self._given = config, device, given
        self._folder = (
            config.out or Path(__file__).parent / f"results/transfer-{device}"
        )
        self._ways = [Way(CONTENDERS[OURS], True)]
        self._ways += [
            Way(contender, False)
            for name, contender in CONTENDERS.items()
            if name == OURS or name in config.contenders
        ]
        self._outcomes: list[processes.Outcome] = []
        self._skipped: dict[str, str] = {}
        self._failures: list[str] = []
        self._facts = machine.facts(device)

    def check(self) -> None:
        """Compares every way's losses of an epoch with the first's; drops the absent.

        Those that are not installed or have no such device or network are skipped;
        those that fail or do other work are failures, and are measured no further.
        """
        console.say("check: the losses of one epoch from the same weights")
        agreeing, reference = [], None
        for way in self._ways:
            outcome = self._run(way, "check", 0)
            verdict = _described(outcome)
            if outcome["status"] == "ok":
                reference = reference or outcome
                found = checking.differences(reference, outcome)
                outcome["differences"] = found
                # Nothing but the order of float32 sums differs, also later on.
                complaint = checking.complaint(found, checking.EARLY_TOLERANCE)
                if complaint is None:
                    agreeing.append(way)
                else:
                    outcome["status"], verdict = "other work", complaint
                    self._failures.append(f"{way}: {complaint}")
            elif way.contender.name == OURS:
                raise errors.DeviceError(f"flaxnets cannot run: {outcome['message']}")
            elif outcome["status"] != "failed":
                self._skipped[way.contender.name] = outcome["message"]
            console.say(f"  {way}: {verdict}")
        self._ways = agreeing

    def measure(self) -> None:
        """Measures every way in every round; what is found is on disk after each."""
        for number in range(self._config.rounds):
            for way in self._ways if number % 2 == 0 else self._ways[::-1]:
                outcome = self._run(way, "train", number)
                console.say(
                    f"round {number + 1}/{self._config.rounds} {way}: "
                    f"{_described(outcome)}"
                )
                self._write(self._result(complete=False))

    def finish(self) -> int:
        """Writes the result and prints its tables; returns the exit code."""
        result = self._result(complete=True)
        text = tables(result)
        if text:
            console.say(f"\n{text}")
        if self._config.out or not self._config.check:
            self._write(result)
            console.say(f"\nresult: {self._folder / 'result.json'}")
        if not self._config.check:
            (self._folder / "table.txt").write_text(text + "\n")
            plot.draw(_panels(result), result["device"], self._folder / "plot.png")
        return 1 if self._failures else 0

    def _run(
        self, way: Way, kind: Literal["train", "check"], number: int
    ) -> processes.Outcome:
        config, seed = self._config, self._config.seed + number
        job = jobs.TransferJob(
            kind=kind,
            variant=way.contender.variant,
            batch_size=config.batch_size,
            device=self._device,
            tf32=config.tf32,
            seed=seed,
            data=str(self._given.pictures),
            weights=str(self._given.weights(seed)),
            epochs=config.epochs,
            learning_rate=RATE / inputs.transfer_features(config.size),
            stored=way.stored,
        )
        outcome = {
            "round": number,
            "stored": way.stored,
            **processes.run(way.contender, job),
        }
        self._outcomes.append(outcome)
        if outcome["status"] == "failed":
            self._failures.append(f"{way} ({kind}): {outcome['message']}")
        return outcome

    def _result(self, *, complete: bool) -> dict[str, Any]:
        return {
            "complete": complete,
            **summary.setting(self._config, self._facts, self._outcomes),
            "skipped": self._skipped,
            "failures": self._failures,
            "bars": BARS,
            "summary": summarize(self._outcomes),
            "outcomes": self._outcomes,
        }

    def _write(self, result: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._folder / "result.json") as fresh:
            fresh.write_text(json.dumps(result, indent=1) + "\n")


def epoch_seconds(outcome: processes.Outcome) -> float:
    """Seconds of an epoch: the median of all but the first."""
    return float(np.median(outcome["epoch_seconds"]))


def warm_seconds(outcome: processes.Outcome) -> float:
    """Seconds of the whole training, less what compilation and warming up took."""
    return outcome["total_seconds"] - outcome["compile_seconds"]


_TOTAL: summary.Measures = {
    "total_seconds": lambda outcome: outcome["total_seconds"],
    "compile_seconds": lambda outcome: outcome["compile_seconds"],
    "warm_seconds": warm_seconds,
    "epoch_seconds": epoch_seconds,
    "peak_memory_bytes": lambda outcome: outcome["peak_memory_bytes"],
}


def summarize(outcomes: list[processes.Outcome]) -> dict[str, Any]:
    """The benchmark's numbers: of the whole training, and of an epoch without a store.

    Peers store nothing, so each of their trainings counts in both.
    """
    good = [o for o in outcomes if o["kind"] == "train" and o["status"] == "ok"]
    whole = [o for o in good if o["stored"] or o["contender"] != OURS]
    passes = [o["pass_seconds"] for o in whole if o["stored"]]
    return {
        "total": {
            **summary.tabulated(whole, _TOTAL, "total_seconds"),
            "pass_seconds": summary.spread(passes),
        },
        "total_without_compilation": summary.tabulated(whole, _TOTAL, "warm_seconds"),
        "epoch": summary.tabulated(
            [o for o in good if not o["stored"]], _TOTAL, "epoch_seconds"
        ),
    }


def tables(result: dict[str, Any]) -> str:
    """The summary as text, and what is left."""
    found, parts = result["summary"], []
    if found["total"]["rows"]:
        parts.append(_total_text(result))
    if found["epoch"]["rows"]:
        parts.append(_epoch_text(result))
    parts += [f"skipped: {name}: {why}" for name, why in result["skipped"].items()]
    parts += [f"failed: {failure}" for failure in result["failures"]]
    return "\n\n".join(parts)


def _total_text(result: dict[str, Any]) -> str:
    config, table = result["config"], result["summary"]["total"]
    header = [
        f"{config['epochs']} epochs of {_pictures(config)}",
        "s",
        "min..max",
        "flaxnets/it",
        "min..max",
        "compile s",
        "without it s",
        "peak MB",
    ]
    lines = [
        [
            name,
            summary.number(row["total_seconds"], "{:.1f}"),
            summary.interval(row["total_seconds"], "{:.1f}"),
            summary.number(row["ratio"], "{:.2f}"),
            summary.interval(row["ratio"], "{:.2f}"),
            summary.number(row["compile_seconds"], "{:.1f}"),
            summary.number(row["warm_seconds"], "{:.1f}"),
            summary.number(row["peak_memory_bytes"], "{:.0f}", 1e-6),
        ]
        for name, row in summary.by_speed(table["rows"], "total_seconds")
    ]
    text = summary.headed([header, *lines], result)
    if OURS in table["rows"]:
        epoch = summary.number(table["rows"][OURS]["epoch_seconds"], "{:.3f}")
        once = summary.number(table["pass_seconds"], "{:.1f}")
        text += f"\nflaxnets: {once} s for the features, then {epoch} s an epoch"
    text += summary.verdict(table, "total", result["bars"]["total"])
    warm = result["summary"]["total_without_compilation"]
    return text + summary.verdict(warm, "total without compilation")


def _epoch_text(result: dict[str, Any]) -> str:
    config, table = result["config"], result["summary"]["epoch"]
    header = [
        f"an epoch of {_pictures(config)}, nothing stored",
        "s",
        "min..max",
        "flaxnets/it",
        "min..max",
        "pictures/s",
        "peak MB",
    ]
    lines = [
        [
            name,
            summary.number(row["epoch_seconds"], "{:.2f}"),
            summary.interval(row["epoch_seconds"], "{:.2f}"),
            summary.number(row["ratio"], "{:.2f}"),
            summary.interval(row["ratio"], "{:.2f}"),
            f"{config['pictures'] / row['epoch_seconds']['median']:.1f}",
            summary.number(row["peak_memory_bytes"], "{:.0f}", 1e-6),
        ]
        for name, row in summary.by_speed(table["rows"], "epoch_seconds")
    ]
    text = summary.headed([header, *lines], result)
    return text + summary.verdict(table, "epoch", result["bars"]["epoch"])


def _pictures(config: dict[str, Any]) -> str:
    return (
        f"{config['pictures']} x {config['size']}x{config['size']}, "
        f"batch {config['batch_size']}"
    )


def _panels(result: dict[str, Any]) -> list[plot.Panel]:
    good = [
        outcome
        for outcome in result["outcomes"]
        if outcome["kind"] == "train" and outcome["status"] == "ok"
    ]
    whole = [o for o in good if o["stored"] or o["contender"] != OURS]
    plain = [outcome for outcome in good if not outcome["stored"]]
    config = result["config"]
    total = f"s for {config['epochs']} epochs of {_pictures(config)}, with compilation"
    epoch = "s per epoch, nothing stored, without compilation"
    return [
        (total, plot.by_contender(whole, lambda o: o["total_seconds"]), None),
        (epoch, plot.by_contender(plain, epoch_seconds), None),
    ]


def _described(outcome: processes.Outcome) -> str:
    """An outcome in a few words."""
    if outcome["status"] != "ok":
        return f"{outcome['status']}: {outcome['message']}"
    if outcome["kind"] == "check":
        losses = outcome["losses"]
        return f"loss {losses[0]:.5f} to {losses[-1]:.5f}"
    return (
        f"{outcome['total_seconds']:.1f} s, of which compilation "
        f"{outcome['compile_seconds']:.1f} s; an epoch {epoch_seconds(outcome):.3f} s"
    )


def _validate(config: Config) -> None:
    least = {
        "rounds": 1,
        "pictures": inputs.CLASSES,
        "size": LEAST_SIZE,
        "batch_size": 1,
        "epochs": 2,
        "seed": 0,
    }
    for name, value in least.items():
        if getattr(config, name) < value:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}, but must be "
                f"at least {value}"
            )
    if config.pictures % config.batch_size:
        raise errors.ArgumentError(
            f"--pictures is {config.pictures}, but must be a multiple of --batch-size, "
            f"{config.batch_size}, so that every batch is whole"
        )
    unknown = sorted(set(config.contenders) - set(CONTENDERS))
    if unknown:
        raise errors.ArgumentError(
            f"--contenders {' '.join(unknown)}: unknown; known are: "
            f"{', '.join(CONTENDERS)}"
        )
    if config.out and config.out.exists() and not config.out.is_dir():
        raise errors.ArgumentError(
            f"--out {config.out}: a file, but must be a folder; choose another"
        )
