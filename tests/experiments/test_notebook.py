"""The notebook's first cell: where it finds flaxnets, and what it does to jax."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "experiments/notebooks/mnist.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
FIRST = "".join(CODE[0]["source"])


@pytest.fixture
def first_cell(monkeypatch) -> Callable[[Path], list[list[str]]]:
    """Runs the first cell in a folder; returns the commands that it would start."""
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: commands.append(command)
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delenv("FLAXNETS_REPOSITORY", raising=False)

    def run(folder: Path) -> list[list[str]]:
        monkeypatch.chdir(folder)
        exec(FIRST, {})
        return commands

    return run


@pytest.fixture
def find_checkout() -> Callable[[Path], Path | None]:
    """The first cell's function of this name."""
    parts = ast.parse(FIRST).body
    functions: list[Any] = [p for p in parts if isinstance(p, ast.FunctionDef)]
    (found,) = [part for part in functions if part.name == "find_checkout"]
    names: dict[str, Any] = {}
    exec(ast.unparse(found), names)
    return names["find_checkout"]


def checkout(folder: Path) -> Path:
    """What the cell takes for a checkout, in a new folder."""
    (folder / "flaxnets").mkdir(parents=True)
    (folder / "flaxnets/__init__.py").touch()
    (folder / "pyproject.toml").touch()
    return folder


def test_a_checkout_is_found_at_and_above_a_folder(tmp_path, find_checkout) -> None:
    here = checkout(tmp_path / "somewhere")
    below = here / "experiments/notebooks"
    below.mkdir(parents=True)
    assert find_checkout(here) == find_checkout(below) == here
    assert find_checkout(here / "flaxnets") == here
    assert find_checkout(ROOT / "experiments/notebooks") == ROOT


def test_the_folder_of_a_clone_is_no_checkout(tmp_path, find_checkout) -> None:
    """`git clone` leaves a `flaxnets` in its folder, as a checkout has one."""
    content = tmp_path / "content"
    content.mkdir()
    assert find_checkout(content) is None
    clone = checkout(content / "flaxnets")
    assert find_checkout(content) == find_checkout(clone) == clone
    (clone / "pyproject.toml").unlink()
    assert find_checkout(content) is None


def test_a_checkout_is_installed_beside_the_jax_that_is_there(
    tmp_path, first_cell
) -> None:
    clone = checkout(tmp_path / "flaxnets")
    (install,) = first_cell(tmp_path)
    pin = f"jax=={metadata.version('jax')}"
    assert install[1:] == ["-m", "pip", "install", "--quiet", "-e", str(clone), pin]
    assert Path.cwd() == clone


def test_a_checkout_is_fetched_where_there_is_none(
    tmp_path, first_cell, monkeypatch
) -> None:
    (tmp_path / "flaxnets").mkdir()
    monkeypatch.setenv("FLAXNETS_REPOSITORY", "its/address")
    clone, install = first_cell(tmp_path)
    assert clone == ["git", "clone", "--quiet", "its/address", "flaxnets"]
    assert str(tmp_path / "flaxnets") in install


def test_an_unset_repository_gets_one_clear_line(tmp_path, first_cell) -> None:
    with pytest.raises(SystemExit, match="REPOSITORY is <address of flaxnets>.*set it"):
        first_cell(tmp_path)


def test_the_notebook_is_stored_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(names)) == len(names)
    for cell in CODE:
        assert cell["outputs"] == [] and cell["execution_count"] is None
