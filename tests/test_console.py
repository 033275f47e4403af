"""What command lines say."""

import sys
from pathlib import Path

from flaxnets import console


def test_letters_that_a_stream_lacks_are_escaped(tmp_path: Path, monkeypatch) -> None:
    for encoding, shown in (("ascii", "gr\\xfcn\n"), ("utf-8", "grün\n")):
        with (tmp_path / encoding).open("w", encoding=encoding) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            console.say("grün")
        assert (tmp_path / encoding).read_text(encoding) == shown


def test_errors_go_to_standard_error(capsys) -> None:
    console.say("fine")
    console.say_error("broken")
    assert capsys.readouterr() == ("fine\n", "broken\n")
