"""Bar charts in plain text."""

import sys
from collections.abc import Sequence

import numpy as np

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bars(
    shares: np.ndarray, names: Sequence[str], *, width: int = 40, ascii: bool = False
) -> str:
    """One line a name: a bar, and the share in percent.

    Args:
        shares: [K] numbers from 0 to 1.
        names: K names; characters that a terminal would act on show as `?`.
        width: characters of a full bar.
        ascii: only ASCII: `#` instead of block characters, `?` for other letters.
    """
    shown = [_printable(name, ascii) for name in names]
    longest = max(map(len, shown))
    lines = []
    for name, share in zip(shown, shares, strict=True):
        if ascii:
            bar = "#" * round(share * width)
        else:
            whole, part = divmod(round(float(share) * width * 8), 8)
            bar = "█" * whole + (_EIGHTHS[part] if part else "")
        lines.append(f"{name:>{longest}} {bar:<{width}} {share:6.1%}")
    return "\n".join(lines)


def plain_only() -> bool:
    """Whether standard output cannot show block characters."""
    # Python has no standard output at all where it was closed at the start.
    encoding = getattr(sys.stdout, "encoding", None)
    try:
        "█▏".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _printable(name: str, ascii: bool) -> str:
    """A name without control characters, which could rewrite the terminal's screen."""
    return "".join(
        letter if letter.isprintable() and (letter.isascii() or not ascii) else "?"
        for letter in name
    )
