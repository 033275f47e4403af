"""`python -m flaxnets.data check`: what it prints where, and how it ends."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxnets.data import checking


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four sound pictures; a fifth has a name that is no UTF-8."""
    root = tmp_path / "pictures"
    for seed, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed))
    with open(os.fsencode(root) + b"/a/\xff.png", "wb") as file:
        file.write(picture(4))
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "flaxnets.data", *map(str, arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_nothing_serious_ends_with_0(folder: Path) -> None:
    process = run("check", folder)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == checking.text(checking.check(folder), limit=10) + "\n"
    assert process.stdout.endswith("\nno serious problem\n")


def test_something_serious_ends_with_1(folder: Path) -> None:
    (folder / "a/broken.jpg").write_bytes(b"")
    with open(os.fsencode(folder) + b"/a/\xff.png", "wb") as file:
        file.write(picture(2))
    # A stream that can hold nothing but ASCII.
    process = run("check", folder, "--limit", "3", PYTHONIOENCODING="ascii")
    assert (process.returncode, process.stderr) == (1, "")
    assert process.stdout == checking.text(checking.check(folder), limit=3) + "\n"
    assert "    a/broken.jpg: is empty" in process.stdout
    assert r"a/\udcff.png" in process.stdout
    process = run("check", folder, "--json")
    assert (process.returncode, process.stderr) == (1, "")
    document = json.loads(process.stdout)
    assert document["serious"]
    assert {each["kind"]: each["found"] for each in document["problems"]} == {
        problem.kind: [
            {"names": list(finding.names), "detail": finding.detail}
            for finding in problem.found
        ]
        for problem in checking.check(folder).problems
    }
    assert os.fsencode(document["problems"][1]["found"][0]["names"][0]) in (
        b"a/\xff.png",
        b"b/0.png",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "subcommand"),
        (["check"], "PATH"),
        (["check", "."], "error: .: has 0 folders"),
        (["check", "absent", "--json"], "error: absent: there is no such folder"),
        (["check", ".", "--limit", "-1"], "error: --limit -1: must be 0 or more"),
        (["check", ".", "--limit", "few"], "limit"),
    ],
)
def test_what_cannot_be_checked_ends_with_2(
    arguments, message: str, tmp_path: Path
) -> None:
    process = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=tmp_path
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert message in process.stderr and "Traceback" not in process.stderr


def on_terminal(path: Path, term: str) -> tuple[subprocess.Popen[bytes], int]:
    """The command, its standard error a terminal, of which the other end is given."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("check", path),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": term},
    )
    os.close(theirs)
    return process, ours


def everything(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other end was closed
            piece = b""
        shown += piece
        if not piece:
            os.close(terminal)
            return shown


def test_a_terminal_sees_how_far_it_is(folder: Path) -> None:
    process, terminal = on_terminal(folder, "xterm")
    shown = everything(terminal)
    text, _ = process.communicate()
    assert process.returncode == 0 and b"pictures read" not in text
    assert b"\r5 of 5 pictures read, comparing them" in shown
    assert shown.endswith(b"\r\x1b[K")
    process, terminal = on_terminal(folder, "dumb")
    assert everything(terminal) == b""
    assert process.communicate()[0] == text


def test_an_interrupt_ends_at_once(tmp_path: Path) -> None:
    """One large picture by thousands of names: minutes of work, if it went on."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    first = tmp_path / "a/0.png"
    first.parent.mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(noise).save(first, compress_level=1)
    for index in range(1, 4000):
        os.link(first, tmp_path / "ab"[index % 2] / f"{index}.png")
    process, terminal = on_terminal(tmp_path, "xterm")
    assert b"of 4,000 pictures read" in os.read(terminal, 1 << 16)
    process.send_signal(signal.SIGINT)
    shown = everything(terminal)
    assert process.communicate()[0] == b""
    assert process.returncode == 130
    assert shown.endswith(b"\r\x1b[Kinterrupted\r\n")
    assert b"comparing" not in shown
