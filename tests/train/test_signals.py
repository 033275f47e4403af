"""Requests to stop are noticed, and handlers put back."""

import signal
import threading

import pytest

from flaxnets.train import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_instead_of_stopping(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.StopRequests() as requests:
        assert requests.received is None
        signal.raise_signal(number)
        assert requests.received is number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.StopRequests() as requests:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert requests.received is signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_handlers_stay_as_they_are() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals.StopRequests() as requests:
            inside.append((signal.getsignal(signal.SIGTERM), requests.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, None)]
