"""What command lines say, and how they end."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from flaxnets import errors

# Seconds between the lines that a log file gets about work under way.
PLAIN_SECONDS = 30.0


def run(main: Callable[[], int]) -> None:
    """Calls `main` and exits: its code, 1 with a one-line error, 130 on Ctrl-C."""
    try:
        code = main()
    except errors.FlaxnetsError as error:
        say_error(f"error: {error}")
        code = 1
    except KeyboardInterrupt:
        say_error("interrupted")
        code = 130
    sys.exit(code)


def say(text: str) -> None:
    """Prints a line to standard output, whether or not it is read.

    A reader that leaves (`| head`), a full disk or a closed stream does not end the
    run, which goes on for its files.
    """
    print(text, file=Lenient(sys.stdout), flush=True)


def say_error(text: str) -> None:
    """Prints a line to standard error, whether or not it is read."""
    print(text, file=Lenient(sys.stderr), flush=True)


def live(stream: "Lenient") -> bool:
    """Whether a stream is a terminal on which a bar can move."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class Lenient:
    """A text stream that drops what cannot be written, and all if it is None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):  # it is closed
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> None:
        if self._stream is not None:
            shown = text.encode(self.encoding, "backslashreplace")
            with self._dropping():
                self._stream.write(shown.decode(self.encoding))

    def flush(self) -> None:
        if self._stream is not None:
            with self._dropping():
                self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # it is closed
            pass
        except OSError:
            # What it still holds would fail again at exit, and spoil the exit code.
            assert self._stream is not None
            with (
                # A stream that is no file has no descriptor.
                contextlib.suppress(OSError, ValueError, AttributeError),
                open(os.devnull, "w") as nowhere,
            ):
                os.dup2(nowhere.fileno(), self._stream.fileno())
