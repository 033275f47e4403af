"""Signals that ask a run to stop, noticed between steps instead of inside one."""

import signal
import threading
from types import FrameType


class StopRequests:
    """Remembers SIGINT and SIGTERM while active; a context manager.

    The first signal is remembered in `received`; a second SIGINT raises
    KeyboardInterrupt at once. Outside the main thread, where Python allows no
    handlers, signals keep their usual effect.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
