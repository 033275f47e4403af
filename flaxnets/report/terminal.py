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
        names: K names.
        width: characters of a full bar.
        ascii: draw with `#` instead of block characters.
    """
    longest = max(map(len, names))
    lines = []
    for name, share in zip(names, shares, strict=True):
        if ascii:
            bar = "#" * round(share * width)
        else:
            whole, part = divmod(round(float(share) * width * 8), 8)
            bar = "█" * whole + (_EIGHTHS[part] if part else "")
        lines.append(f"{name:>{longest}} {bar:<{width}} {share:6.1%}")
    return "\n".join(lines)


def plain_only() -> bool:
    """Whether standard output cannot show block characters."""
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
