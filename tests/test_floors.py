"""The architecture: a file imports only from its own floor or from one below."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "flaxnets.console": 0,
    "flaxnets.errors": 0,
    "flaxnets.files": 0,
    "flaxnets.machine": 0,
    "flaxnets.ops": 0,
    "flaxnets.params": 0,
    "flaxnets.models": 1,
    "flaxnets.data": 2,
    "flaxnets.weights": 2,
    "flaxnets.train": 3,
    "flaxnets.report": 3,
    "flaxnets.transfer": 3,
    "flaxnets.attack": 3,
    "experiments": 4,
}


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in FLOORS:
            return FLOORS[name]
    return None


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


SOURCES = sorted(
    path
    for top in ("flaxnets", "experiments")
    for path in (ROOT / top).rglob("*.py")
    if path != ROOT / "flaxnets/__init__.py"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_own_floor_or_below(path: Path) -> None:
    own = floor_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert own is not None, f"{path} has no floor: add it to FLOORS"
    above = {name for name in imported(path) if (floor_of(name) or 0) > own}
    assert not above


def test_only_models_know_linen() -> None:
    knowing = {
        path.relative_to(ROOT / "flaxnets").parts[0]
        for path in SOURCES
        if any(name.startswith("flax.") for name in imported(path))
    }
    assert knowing <= {"models"}


def test_import_loads_no_tensorflow_and_no_heavy_package() -> None:
    code = (
        "import sys, flaxnets\n"
        "from flaxnets import data, models, params, train, report\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'sklearn',"
        " 'orbax', 'PIL', 'torch', 'keras'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
