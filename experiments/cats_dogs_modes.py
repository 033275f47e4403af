"""The four modes of transfer side by side, each with the same time.

python -m experiments.cats_dogs --mode all --seconds 120
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxnets import console, errors, train
from flaxnets.report import figures, html
from flaxnets.train import signals


def compare(
    out: Path,
    commands: Mapping[str, Sequence[str]],
    described: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> int:
    """Runs each mode in a process of its own, and puts their results side by side.

    A process each, so that each one's memory is its own.

    Args:
        out: the run folder; each mode's is in it, under the mode's name.
        commands: of each mode, the arguments of `python`.
        described: what is stored of the options.
        resume: leave out what is finished, and go on with what is not.
        overwrite: replace what is there.
    """
    with train.RunFolder.open(
        out, described, resume=resume, overwrite=overwrite
    ) as folder:
        results: dict[str, Any] = {}
        # So that a resume sees that a run is here, and compares its options.
        folder.write_json("result.json", {"modes": results})
        for mode, command in commands.items():
            path = folder.path(f"{mode}/result.json")
            if not (resume and path.exists()):
                console.say(f"\n{mode.replace('_', ' ')}")
                words = [sys.executable, *command]
                if overwrite and path.parent.exists():
                    words.append("--overwrite")
                elif resume and path.parent.exists():
                    words.append("--resume")
                code = _ended(words)
                if code in (130, 143):
                    return code
                if code:
                    raise errors.FlaxnetsError(
                        f"{mode} ended with exit code {code}; see above, and go on "
                        "with --resume"
                    )
            results[mode] = json.loads(path.read_text())
            folder.write_json("result.json", {"modes": results})
        write_report(folder, results)
    return 0


def _ended(words: Sequence[str]) -> int:
    """Runs a command to its end, also where this process is asked to stop.

    A terminal's Ctrl-C reaches the command too, which then saves; SIGTERM is handed on.
    """
    with signals.StopRequests() as requests, subprocess.Popen(words) as process:
        told = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.2)
            if requests.received == signal.SIGTERM and not told:
                process.terminate()
                told = True


# What the time of a mode went into, as its result names it.
_SECONDS = ("features_seconds", "train_seconds", "evaluation_seconds")


def write_report(folder: train.RunFolder, results: Mapping[str, Any]) -> None:
    """The table, the figure, and the page that holds them."""
    names = [mode.replace("_", " ") for mode in results]
    heads = ("mode", "accuracy", "95 % interval", "trained", "seconds", "epochs", "MB")
    cells = [
        (
            name,
            f"{found['test_accuracy']:.2%}",
            "{:.2%} to {:.2%}".format(*found["metrics"]["accuracy_interval"]),
            f"{found['trainable_parameters']:,}",
            f"{sum(found[name] for name in _SECONDS):.0f}",
            f"{found['epochs']}",
            f"{found['peak_memory_bytes'] / 2**20:,.0f}",
        )
        for name, found in zip(names, results.values(), strict=True)
    ]
    text = html.table(heads, cells)
    console.say("\n" + text)
    path = folder.path("figures/modes.png")
    path.parent.mkdir(exist_ok=True)
    figure = figures.intervals(
        names,
        [found["test_accuracy"] for found in results.values()],
        [found["metrics"]["accuracy_interval"] for found in results.values()],
        "Four ways of transferring, the same time for each",
    )
    figures.save(figure, path)
    first = next(iter(results.values()))
    best = max(results, key=lambda mode: results[mode]["test_accuracy"])
    html.write(
        folder.path("report.html"),
        f"The best of four modes: {best.replace('_', ' ')}",
        summary={
            "backbone": first["backbone"],
            "weights": Path(first["weights"]).name,
            "head": first["head"],
            "training_pictures": first["training_pictures"],
        },
        sections=[
            html.Section(
                "Accuracy on the test pictures",
                "With 95 % intervals (Wilson) of these test pictures.",
                path,
            ),
            html.Section(
                "The same in numbers",
                "Seconds are those of reading pictures or computing features, of "
                "training, and of evaluating and saving after each epoch, compilation "
                "left out; memory is the largest that the process had.",
                text,
            ),
        ],
    )
    console.say(f"report: {folder.path('report.html')}")
