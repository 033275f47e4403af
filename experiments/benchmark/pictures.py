"""Pictures read from a folder: flaxnets beside PyTorch's DataLoader.

    python -m experiments.benchmark pictures --data cats_and_dogs_small.zip

Decode, resize to 256, crop 224, in batches of 32, in the same shuffled order; one epoch
for each measurement, after one that is not timed. torchvision's transforms end in
normalised floats, as its users have them; flaxnets' pictures stay bytes, and are scaled
and normalised on the device, within the step. A DataLoader is measured with each number
of workers up to the processors', and counts with its best.
"""

import dataclasses
import json
import tempfile
import time
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark import job as jobs
from experiments.benchmark import machine, processes, summary
from experiments.benchmark.contenders import CONTENDERS, OURS, Contender
from flaxnets import console, data, errors, files
from flaxnets.data import folders, preprocessing

PEER = "pytorch"


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the reading of pictures against PyTorch's DataLoader."""

    data: Path
    """A folder or zip with a folder of pictures a class."""
    rounds: int = 5
    """How often each contender is measured."""
    pictures: int = 2000
    """The most pictures in an epoch."""
    batch_size: int = 32
    """Pictures in a batch."""
    seed: int = 0
    """Of the order; round r adds r."""
    out: Path | None = None
    """Results folder; by default experiments/benchmark/results/pictures-cpu."""


def run(config: Config) -> int:
    """Measures, and leaves result.json and table.txt; returns the exit code."""
    for name in ("rounds", "pictures", "batch_size"):
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}, but must be "
                "at least 1"
            )
    folder = config.out or Path(__file__).parent / "results/pictures-cpu"
    facts = machine.facts("cpu")
    outcomes: list[processes.Outcome] = []
    with (
        processes.ended_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="benchmark-") as scratch,
    ):
        count = laid_out(config, Path(scratch))
        ways = [(OURS, 0), *((PEER, n) for n in range(facts["cpus"] + 1))]
        for number in range(config.rounds):
            for name, workers in ways if number % 2 == 0 else ways[::-1]:
                job = jobs.PicturesJob(
                    kind="read",
                    batch_size=config.batch_size,
                    device="cpu",
                    seed=config.seed + number,
                    folder=scratch,
                    workers=workers,
                )
                found = processes.run(CONTENDERS[name], job)
                outcomes.append({"round": number, "workers": workers, **found})
                console.say(
                    f"round {number + 1}/{config.rounds} {_named(outcomes[-1])}"
                )
    rates, ratio = summarize(outcomes)
    text = _table(rates, ratio, count)
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        **facts,
        "pictures": count,
        "batch_size": config.batch_size,
        "pictures_per_second": rates,
        "ratio": ratio,
        "outcomes": outcomes,
    }
    with files.replacing(folder / "result.json") as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    (folder / "table.txt").write_text(text + "\n")
    console.say(f"\n{text}\n\nresult: {folder / 'result.json'}")
    return int(any(outcome["status"] == "failed" for outcome in outcomes))


def laid_out(config: Config, folder: Path) -> int:
    """Writes the training pictures to a folder a class, which all read; their number.

    Their names are made here, so that what a zip calls them does not matter.
    """
    found = data.image_folder(config.data)
    # Of every class alike, which lie one after the other.
    count = min(config.pictures, len(found.train))
    places = np.linspace(0, len(found.train) - 1, count).astype(int)
    chosen = [found.train[place] for place in places.tolist()]
    with folders.Source(found.path) as source:
        for number, (name, label) in enumerate(chosen):
            path = folder / f"{label:03}" / f"{number:06}{Path(name).suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.content(name))
    return len(chosen)


def work(contender: Contender, job: jobs.PicturesJob) -> dict[str, Any]:
    """Reads an epoch untimed and one timed, in this process."""
    count = sum(1 for _ in Path(job.folder).glob("*/*"))
    order = np.random.default_rng(job.seed).permutation(count)
    read = _by_flaxnets if contender.name == OURS else _by_torch
    total = 0.0
    seconds = []
    for batches in read(job, order):
        start = time.perf_counter()
        seen = 0
        for batch in batches:
            seen += len(batch)
            # Looked at, so that nothing is put off.
            total += float(batch[0, 0, 0, 0])
        seconds.append(time.perf_counter() - start)
        assert seen == count
    return {"seconds": seconds[-1], "pictures": count, "seen": total}


def _by_flaxnets(job: jobs.PicturesJob, order: np.ndarray) -> Any:
    folder = data.image_folder(job.folder, validation=1e-9)
    every = [*folder.train, *folder.validation]
    found = data.Pictures(
        folder, data.Listing(sorted(every)), preprocessing.TORCHVISION.cropped
    )
    # As the streamed feed asks for them: several batches in one call.
    chunk = 8 * job.batch_size
    for _ in range(2):
        yield (
            found[order[start : start + chunk]] for start in range(0, len(order), chunk)
        )


def _by_torch(job: jobs.PicturesJob, order: np.ndarray) -> Any:
    import torch

    from experiments.benchmark.torchvision_import import imported

    torchvision = imported()
    transforms = torchvision.transforms
    dataset = torchvision.datasets.ImageFolder(
        job.folder,
        transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        ),
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        job.batch_size,
        sampler=order.tolist(),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )
    for _ in range(2):
        yield (images for images, _ in loader)


def summarize(
    outcomes: list[processes.Outcome],
) -> tuple[dict[str, Any], summary.Spread | None]:
    """Pictures per second of each way, and flaxnets' over the best of the peer's.

    The ratio is that of each round; above one, flaxnets is faster.
    """
    good = [outcome for outcome in outcomes if outcome["status"] == "ok"]
    rates: dict[str, list[float]] = {}
    of_round: dict[int, dict[str, float]] = {}
    for outcome in good:
        rate = outcome["pictures"] / outcome["seconds"]
        rates.setdefault(_way(outcome), []).append(rate)
        best = of_round.setdefault(outcome["round"], {})
        name = outcome["contender"]
        best[name] = max(rate, best.get(name, 0.0))
    ratios = [
        best[OURS] / best[PEER]
        for best in of_round.values()
        if OURS in best and PEER in best
    ]
    found = {name: summary.spread(values) for name, values in rates.items()}
    return found, summary.spread(ratios)


def _way(outcome: processes.Outcome) -> str:
    if outcome["contender"] == OURS:
        return OURS
    return f"{outcome['contender']}, {outcome['workers']} workers"


def _named(outcome: processes.Outcome) -> str:
    if outcome["status"] != "ok":
        return f"{_way(outcome)}: {outcome['status']}: {outcome['message']}"
    rate = outcome["pictures"] / outcome["seconds"]
    return f"{_way(outcome)}: {rate:,.0f} pictures/s"


def _table(rates: dict[str, Any], ratio: summary.Spread | None, count: int) -> str:
    lines = [f"{'pictures a second, of ' + format(count, ','):40} median  min..max"]
    lines += [
        f"{name:40} {row['median']:6,.0f}  {row['min']:,.0f}..{row['max']:,.0f}"
        for name, row in rates.items()
    ]
    if ratio is not None:
        lines.append(
            f"flaxnets over the best DataLoader: {ratio['median']:.2f} "
            f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    elif not util.find_spec("torch"):
        lines.append("skipped: PyTorch is not installed")
    return "\n".join(lines)
