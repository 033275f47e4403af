"""Progress for people: a live bar on a terminal, plain lines anywhere else."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

# A log file gets a line this often, besides one an epoch.
PLAIN_SECONDS = 30.0


class Progress:
    """Shows where a run is; a context manager.

    Args:
        epochs: epochs of the whole run.
        steps: steps per epoch.
        stream: where to write, standard error by default.
    """

    def __init__(
        self, epochs: int, steps: int, *, stream: TextIO | None = None
    ) -> None:
        self._epochs, self._steps = epochs, steps
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            from rich import console, progress

            self._bar = progress.Progress(
                progress.TextColumn("epoch {task.fields[epoch]}"),
                progress.BarColumn(bar_width=24),
                progress.TextColumn("{task.fields[text]}"),
                progress.TimeRemainingColumn(compact=True),
                console=console.Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=self._epochs * self._steps, epoch="", text="compiling"
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(
        self, epoch: int, step: int, rate: float, metrics: Mapping[str, float]
    ) -> None:
        """Reports that `step` steps of epoch `epoch` (from 0) are done.

        Args:
            epoch: the epoch under way.
            step: its steps done.
            rate: examples per second.
            metrics: means over the epoch so far.
        """
        numbers = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        text = f"{numbers} {rate:,.0f} examples/s"
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=epoch * self._steps + step,
                epoch=f"{epoch + 1}/{self._epochs}",
                text=text,
            )
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            place = f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}"
            self.say(f"{place} {text}")

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
            return
        say(text, self._stream)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line to standard output (or `stream`), whether or not it is read.

    A reader that leaves (`| head`) does not end the run, which goes on for its files.
    """
    target = sys.stdout if stream is None else stream
    try:
        print(text, file=target, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
