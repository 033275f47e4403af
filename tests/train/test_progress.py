"""Progress suits whatever reads it, and never ends a run."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from flaxnets.train import progress

RUN = """
from flaxnets.console import say
from flaxnets.train.progress import Progress
say("before")
with Progress(2, 10) as shown:
    for step in range(1, 11):
        shown.update(0, step, 1000.0, {"loss": 0.5})
    shown.say("epoch 1/2 done")
"""


def on_terminal(kind: str) -> str:
    """What RUN writes to a terminal of a kind."""
    main, side = pty.openpty()
    environment = os.environ | {"TERM": kind}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=side, stderr=side, env=environment
    )
    os.close(side)
    output = b""
    while chunk := read(main):
        output += chunk
    os.close(main)
    assert process.wait() == 0, output
    return output.decode()


def read(terminal: int) -> bytes:
    """Nothing once the other side has closed, which Linux tells by an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_a_terminal_gets_a_bar_and_lines_that_stay() -> None:
    output = on_terminal("xterm-256color")
    assert "\x1b[" in output
    assert "loss 0.5000 1,000 examples/s" in output
    assert "epoch 1/2 done" in output


def test_a_dumb_terminal_gets_plain_lines() -> None:
    assert on_terminal("dumb").split("\r\n") == ["before", "epoch 1/2 done", ""]


def test_a_pipe_gets_plain_lines() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("before\n", "epoch 1/2 done\n")


@pytest.mark.parametrize(
    "redirection", ["2>&-", ">&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true"]
)
def test_what_cannot_be_written_does_not_end_a_run(redirection: str) -> None:
    command = f'set -o pipefail; "$0" -W error -c "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, RUN], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Error" not in done.stdout + done.stderr


def test_a_terminal_that_goes_away_does_not_end_a_run() -> None:
    main, side = pty.openpty()
    code = "input()\n" + RUN
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=side,
        env=os.environ | {"TERM": "xterm"},
    ) as process:
        os.close(side)
        os.close(main)
        output, _ = process.communicate(b"\n")
    assert (process.returncode, output) == (0, b"before\n")


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """Sets the time that progress sees."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def set_time(seconds: float) -> None:
        now[0] = seconds

    return set_time


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock) -> None:
    stream = io.StringIO()
    with progress.Progress(2, 100, stream=stream) as shown:
        for seconds, step in ((20, 10), (29, 19), (31, 21), (60, 50), (62, 52)):
            clock(seconds)
            shown.update(0, step, 1234.5, {"loss": 0.25})
        clock(93)
        shown.update(1, 0, 1234.5, {"loss": 0.25})
    # A step a second, of 200.
    assert stream.getvalue().splitlines() == [
        "epoch 1/2 step 21/100 loss 0.2500 1,234 examples/s 2:59 left",
        "epoch 1/2 step 52/100 loss 0.2500 1,234 examples/s 2:28 left",
        "epoch 2/2 step 0/100 loss 0.2500 1,234 examples/s 1:21 left",
    ]


@pytest.mark.parametrize(
    ("pace", "left"), [(0.1, "0:10"), (1.0, "1:38"), (36.75, "1:00:02")]
)
def test_time_left_is_written_as_on_a_clock(clock, monkeypatch, pace, left) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    stream = io.StringIO()
    with progress.Progress(1, 100, stream=stream) as shown:
        shown.update(0, 1, 1.0, {})
        clock(pace)
        shown.update(0, 2, 1.0, {})
    assert stream.getvalue().endswith(f" {left} left\n")


def test_a_stream_that_was_closed_gets_nothing(capsys) -> None:
    stream = io.StringIO()
    stream.close()
    with progress.Progress(1, 1, stream=stream) as shown:
        shown.say("lost")
    assert capsys.readouterr() == ("", "")
