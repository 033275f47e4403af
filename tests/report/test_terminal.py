"""Bars have the lengths of their numbers, in any terminal."""

import subprocess
import sys

import numpy as np
import pytest

from flaxnets.report import terminal


def test_bars_have_the_length_of_their_share() -> None:
    drawn = terminal.bars(np.array([1.0, 0.5, 0.0]), ["yes", "no", "?"], width=8)
    assert drawn.splitlines() == [
        "yes ████████ 100.0%",
        " no ████      50.0%",
        "  ?            0.0%",
    ]


def test_bars_resolve_an_eighth_of_a_character() -> None:
    # 0.3 of 8 characters are 19 eighths: two whole ones and three eighths.
    assert "██▍ " in terminal.bars(np.array([0.3]), ["a"], width=8)


def test_plain_bars_are_ascii() -> None:
    drawn = terminal.bars(np.array([0.5]), ["großer Hund"], width=4, ascii=True)
    assert drawn == "gro?er Hund ##    50.0%"


def test_names_cannot_control_the_terminal() -> None:
    drawn = terminal.bars(np.array([0.5]), ["\x1b[2Jdog\n"], width=4)
    assert drawn.startswith("?[2Jdog? ██")


@pytest.mark.parametrize(
    ("encoding", "plain"), [("utf-8", False), ("ascii", True), ("latin-1", True)]
)
def test_block_characters_only_where_the_stream_has_them(encoding, plain) -> None:
    code = "from flaxnets.report import terminal; print(terminal.plain_only())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(plain)


def test_without_standard_output_bars_are_plain(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert terminal.plain_only()
