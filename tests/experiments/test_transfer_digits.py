"""The study of transfer on digits, whole, at small size."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import transfer_digits
from flaxnets import data, errors, transfer
from flaxnets.report import figures

pytestmark = pytest.mark.usefixtures("hardly_optimised")


def _config(out: Path, **options) -> transfer_digits.Config:
    small = {
        "dataset": "digits",
        "per_class": (40,),
        "seeds": 1,
        "source_epochs": 2,
        "steps": 15,
    }
    return transfer_digits.Config(out=out, **{**small, **options})


def test_it_leaves_a_table_a_figure_and_certificates(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert transfer_digits.run(_config(out)) == 0
    said = capsys.readouterr().out
    assert "40 per class: feature extraction" in said
    result = json.loads((out / "result.json").read_text())
    rows = {(row["per_class"], row["mode"]): row for row in result["table"]}
    assert rows.keys() == {(40, mode) for mode in transfer.MODES}
    # Far above one in five, even so.
    assert rows[40, "fine_tuning"]["test_accuracy"] > 0.5
    certificates = result["freeze_certificates"]
    assert set(certificates) == {"feature_extraction", "partial_fine_tuning"}
    assert all(found["unchanged"] for found in certificates.values())
    trained = certificates["feature_extraction"]["trained_leaves"]
    assert trained == ["head/logits/bias", "head/logits/kernel"]
    assert (out / "figures/learning_curves.png").stat().st_size > 10_000
    assert "data:image/png" in (out / "report.html").read_text()
    with pytest.raises(errors.RunFolderError, match="run"):
        transfer_digits.run(_config(out))
    # Stopped in the middle, it goes on with the rows that are missing.
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    (out / "result.json").unlink()
    assert transfer_digits.run(_config(out, resume=True)) == 0
    again = json.loads((out / "result.json").read_text())
    times = {"seconds"}
    assert [{k: row[k] for k in row.keys() - times} for row in again["table"]] == [
        {k: row[k] for k in row.keys() - times} for row in result["table"]
    ]
    assert again["freeze_certificates"].keys() == certificates.keys()
    kept = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert kept[:3] == lines[:3] and len(kept) == len(lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": (10, 200)}, "asks for 200 pictures, but digits has only"),
        ({"batch_size": 256}, "--batch-size is 256.*only 200 pictures"),
        ({"per_class": ()}, "--per-class is"),
        ({"steps": 0}, "--steps is 0"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        transfer_digits.run(_config(tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_smaller_draws_are_parts_of_larger_ones() -> None:
    _, target = transfer_digits.halves(data.load("digits"))
    assert target.class_names == ("5", "6", "7", "8", "9")
    few = transfer_digits.drawn(target.train, 10, seed=1)
    many = transfer_digits.drawn(target.train, 40, seed=1)
    assert np.bincount(few.labels).tolist() == [10] * 5
    larger = {image.tobytes() for image in many.images}
    assert all(image.tobytes() in larger for image in few.images)
    other = transfer_digits.drawn(target.train, 10, seed=2)
    assert not np.array_equal(few.images, other.images)


def test_learning_curves_show_each_way_and_its_spread() -> None:
    accuracies = {
        "frozen": np.array([[0.7, 0.8], [0.72, 0.82]]),
        "scratch": np.array([[0.4, 0.79], [0.5, 0.81]]),
    }
    figure = figures.learning_curves((10, 100), accuracies, "Title")
    (axes,) = figure.axes
    means = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(sorted(map(tuple, means)), [(0.45, 0.8), (0.71, 0.81)])
    assert len(axes.collections) == 2
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["frozen 81.0%", "scratch 80.0%"]
