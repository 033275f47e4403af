"""The benchmark of reading pictures, at small size."""

import json
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark import pictures
from flaxnets import errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for index in range(12):
        for name in ("cats", "dogs"):
            path = tmp_path / "pictures" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def test_all_read_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    config = pictures.Config(folder, rounds=1, batch_size=4, out=tmp_path / "out")
    assert pictures.run(config) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    read = {row["workers"]: row for row in result["outcomes"] if row["status"] == "ok"}
    # Ten of each class are left to train on where a fifth is set aside.
    assert result["pictures"] == 20
    assert result["pictures_per_second"]["flaxnets"]["median"] > 0
    if not util.find_spec("torchvision"):
        assert result["ratio"] is None
        return
    assert len(result["outcomes"]) == 2 + result["cpus"]
    assert len(read) > 1 and result["ratio"]["median"] > 0


def test_the_best_number_of_workers_counts() -> None:
    def outcome(contender: str, workers: int, seconds: float) -> dict:
        return {
            "contender": contender,
            "workers": workers,
            "round": 0,
            "status": "ok",
            "pictures": 100,
            "seconds": seconds,
        }

    rates, ratio = pictures.summarize(
        [
            outcome("flaxnets", 0, 1.0),
            outcome("pytorch", 0, 10.0),
            outcome("pytorch", 2, 2.0),
        ]
    )
    assert rates["pytorch, 2 workers"] == {"min": 50.0, "median": 50.0, "max": 50.0}
    assert ratio == {"min": 2.0, "median": 2.0, "max": 2.0}


def test_what_cannot_be_asked_for(folder: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="--rounds is 0"):
        pictures.run(pictures.Config(folder, rounds=0))
