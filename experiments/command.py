"""What every study's command line has in common."""

import sys
from collections.abc import Callable

from flaxnets import errors


def run(main: Callable[[], int]) -> None:
    """Calls `main` and exits: its code, 1 with a one-line error, 130 on Ctrl-C."""
    try:
        code = main()
    except errors.FlaxnetsError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
