"""Importing is light and touches no network."""

import os
import subprocess
import sys

import pytest

CODE = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError("a socket was opened")

socket.socket.__init__ = refuse
{}
heavy = {{"tensorflow", "tensorflow_datasets", "orbax", "matplotlib"}}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "statement",
    ["import flaxnets", "from flaxnets import data, models, params, train, ops"],
)
def test_import_loads_no_heavy_package_and_opens_no_socket(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE.format(statement)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "[]"
