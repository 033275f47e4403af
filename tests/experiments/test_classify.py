"""The classifier of pictures from its command line, with real weights."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments import classify
from flaxnets.data import preprocessing

ROOT = Path(__file__).parents[2]


def study(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "experiments.classify", *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def pictures(real_data: Path, tmp_path: Path) -> list[Path]:
    """A tench and a black swan."""
    paths = []
    with zipfile.ZipFile(real_data / "imagenet_samples_100.zip") as archive:
        for name in ("n01440764_tench.jpg", "n01860187_black_swan.jpg"):
            paths.append(tmp_path / name)
            paths[-1].write_bytes(archive.read(f"imagenet_samples_100/{name}"))
    return paths


def test_names_what_pictures_show(pictures: list[Path], real_data: Path) -> None:
    weights = real_data / "squeezenet_v1_caffe.npz"
    options = ("--model", "squeezenet_caffe", "--weights", weights, "--top", 3)
    done = study(*pictures, *options, "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer["image"] for answer in answers] == list(map(str, pictures))
    first = [answer["classes"][0] for answer in answers]
    assert [row["name"] for row in first] == ["tench", "black swan"]
    assert [row["class"] for row in first] == [0, 100]
    for answer in answers:
        shares = [row["probability"] for row in answer["classes"]]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    done = study(pictures[0], *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[0] == "tench"


def test_class_names_are_in_the_order_of_the_logits(real_data: Path) -> None:
    index = json.loads((real_data / "imagenet_class_index.json").read_text())
    names = preprocessing.imagenet_classes()
    assert len(set(names)) == 1000
    # That list writes underscores, and names two cranes and two maillots alike.
    same = [
        name.lower().replace(" ", "_") == index[str(number)][1].lower()
        for number, name in enumerate(names)
    ]
    assert np.mean(same) > 0.99


def test_likeliest_come_first_and_ties_in_order() -> None:
    found = classify.likeliest(np.array([0.2, 0.3, 0.3, 0.2]), tuple("abcd"), 3)
    assert [row["name"] for row in found] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.jpg", "--model", "vgg61", "--weights", "w"), "no model is called 'vgg61'"),
        (("x.jpg", "--model", "vgg16", "--weights", "w"), "x.jpg: there is no such"),
        (
            ("x.jpg", "--model", "vgg16", "--weights", "w", "--top", "0"),
            "--top is 0",
        ),
        (("--model", "vgg16", "--weights", "w"), "no picture was given"),
    ],
)
def test_mistakes_get_one_clear_line(arguments, message: str) -> None:
    done = study(*arguments)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
