"""Looks through a folder of pictures before it is trained on.

python -m flaxnets.data check pictures
python -m flaxnets.data check pictures.zip --json
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from flaxnets import console, errors
from flaxnets.data import checking

# Seconds between two states of the line that says how far it is.
_REDRAW_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Check:
    """Report broken files, copies in other classes or splits, and what is odd.

    Exits with 1 if there is a serious problem, and with 2 if there is no such folder,
    or none that can be trained on.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """A folder with a folder of pictures for each class, or a zip of one."""
    json: bool = False
    """Print JSON, with all names."""
    limit: int = 10
    """How many names of each problem are printed."""


def check(options: Check) -> int:
    """Prints what is wrong with a folder; 1 if it is serious, 2 if it is no folder."""
    try:
        if options.limit < 0:
            raise errors.ArgumentError(
                f"--limit {options.limit}: must be 0 or more names"
            )
        with _progress() as progress:
            report = checking.check(options.path, progress=progress)
    except errors.FlaxnetsError as error:
        console.say_error(f"error: {error}")
        return 2
    if options.json:
        console.say(json.dumps(checking.document(report), indent=1))
    else:
        console.say(checking.text(report, limit=options.limit))
    return int(report.serious)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Draws on a terminal how many pictures were read; nothing of it stays."""
    stream = console.Lenient(sys.stderr)
    live = console.live(stream)
    drawn = 0.0

    def draw(done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if live and (now - drawn > _REDRAW_SECONDS or done == total):
            drawn = now
            then = ", comparing them" if done == total else ""
            stream.write(f"\r{done:,} of {total:,} pictures read{then}")
            stream.flush()

    try:
        yield draw
    finally:
        if drawn:
            stream.write("\r\x1b[K")
            stream.flush()


def main() -> int:
    """The command line."""
    options = tyro.extras.subcommand_cli_from_dict(
        {"check": Check}, prog="python -m flaxnets.data"
    )
    return check(options)


if __name__ == "__main__":
    console.run(main)
