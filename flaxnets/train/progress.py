"""Progress for people: a live bar on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from flaxnets import console

# A log file gets a line this often, besides one an epoch.
PLAIN_SECONDS = console.PLAIN_SECONDS


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
        self._stream = console.Lenient(stream or sys.stderr)
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "Progress":
        if console.live(self._stream):
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("epoch {task.fields[epoch]}"),
                progress.BarColumn(bar_width=24),
                progress.TextColumn("{task.fields[text]}"),
                progress.TimeRemainingColumn(compact=True),
                console=Console(file=self._stream),  # type: ignore[arg-type]
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
        done = epoch * self._steps + step
        numbers = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        text = f"{numbers} {rate:,.0f} examples/s"
        left = self._left(done)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=done,
                epoch=f"{epoch + 1}/{self._epochs}",
                text=text,
            )
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            place = f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}"
            self.say(f"{place} {text}{left}")

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
            return
        print(text, file=self._stream, flush=True)

    def _left(self, done: int) -> str:
        """The time left at the pace since the first report, once there is a pace."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        before, begun = self._first
        if done == before:
            return ""
        seconds = (now - begun) / (done - before) * (self._epochs * self._steps - done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        return f" {clock}:{seconds:02} left"
