"""What every study's command line has in common."""

import sys
from collections.abc import Callable

from flaxnets import errors
from flaxnets.train.progress import say_error


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
