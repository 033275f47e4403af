"""The study of autoencoders, whole, at small size."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import autoencoder, autoencoder_report, classical
from flaxnets import data, errors
from flaxnets.data import corruption

pytestmark = pytest.mark.usefixtures("hardly_optimised")


def _config(out: Path, **options) -> autoencoder.Config:
    small = {
        "dataset": "digits",
        "noises": ("gaussian:0.5",),
        "unpoolings": ("nearest",),
        "widths": (4, 8),
        "convolutions": 1,
        "steps": 60,
    }
    return autoencoder.Config(out=out, **{**small, **options})


def _known(rows: list[dict]) -> list[dict]:
    return [{k: row[k] for k in row.keys() - {"seconds"}} for row in rows]


def test_it_leaves_a_table_pictures_and_codes_and_goes_on(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(autoencoder, "TUNED_ON", 8)  # For the time it takes.
    out = tmp_path / "run"
    assert autoencoder.run(_config(out)) == 0
    assert "gaussian:0.5  nearest" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    filters = ("total variation", "non-local means", "median")
    assert list(rows) == ["noisy", *filters, "nearest"]
    # Even so short a training restores something; the filters certainly do.
    noisy = rows["noisy"]["psnr"]
    assert rows["nearest"]["psnr"] > noisy + 2
    assert rows["total variation"]["psnr"] > noisy + 5
    assert rows["nearest"]["steps"] == 66  # six whole epochs of 11
    (gain,) = result["gains"]
    best = max(rows[name]["psnr"] for name in filters)
    assert gain["filter_psnr"] == best
    assert gain["gain"] == pytest.approx(gain["network_psnr"] - best)
    assert result["codes"].keys() == {"2", "32"}
    for name in ("restored0", "codes", "between"):
        assert (out / f"figures/{name}.png").stat().st_size > 10_000
    # Stopped in the middle, it goes on with the rows that are missing.
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    (out / "result.json").unlink()
    assert autoencoder.run(_config(out, resume=True)) == 0
    again = json.loads((out / "result.json").read_text())
    assert _known(again["rows"]) == _known(result["rows"])
    assert again["codes"] == result["codes"]


def test_photographs_give_patches_of_their_middle(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        folder = tmp_path / "pictures" / split / name
        folder.mkdir(parents=True)
        picture = generator.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "1.png")
        if (split, name) == ("train", "a"):
            first = picture
        if (split, name) == ("test", "a"):
            other = picture
    config = autoencoder.Config(data=tmp_path / "pictures", patch=16)
    found = autoencoder.loaded(config)
    assert found.train.images.shape == (8, 16, 16, 3)
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4
    # Of 48 columns the middle 32, in four quarters, row by row.
    np.testing.assert_array_equal(found.train.images[0], first[:16, 8:24])
    np.testing.assert_array_equal(found.train.images[1], first[:16, 24:40])
    np.testing.assert_array_equal(found.train.images[2], first[16:, 8:24])
    np.testing.assert_array_equal(found.test.images[0], other[8:24, 16:32])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noises": ("gausian:0.5",)}, "'gausian:0.5', which is no noise; expected"),
        ({"noises": ("gaussian",)}, "'gaussian', which is no noise; expected"),
        ({"noises": ("gaussian:-1",)}, r"\(sigma is -1.0, but must not be negative\)"),
        ({"noises": ("none", "none")}, "--noises is none none"),
        ({"unpoolings": ()}, "--unpoolings is empty"),
        ({"steps": 0}, "--steps is 0"),
        ({"patch": 8}, "--patch is 8"),
        ({"widths": (0,)}, "--widths"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        autoencoder.run(_config(tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_filters_are_tuned_by_trying_every_setting() -> None:
    clean = data.load("digits").train.images[:6].astype(np.float32) / 255
    noisy = np.asarray(corruption.gaussian(0.3)(jax.random.key(0), clean))
    for candidates in classical.filters().values():
        errors_ = [
            np.mean((np.clip(classical.applied(one, noisy), 0, 1) - clean) ** 2)
            for one in candidates
        ]
        best = classical.tuned(candidates, noisy, clean)
        assert best == candidates[int(np.argmin(errors_))]
        # Otherwise the range of the settings is no use.
        assert min(errors_) < np.mean((np.clip(noisy, 0, 1) - clean) ** 2)


def test_untouched_pictures_do_not_make_the_table_infinite() -> None:
    clean = np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)
    restored = clean.copy()
    restored[0] += 0.1
    restored[0] = np.clip(restored[0], 0, 1)
    found = autoencoder.compared(restored, clean)
    expected = -10 * np.log10(np.mean((restored - clean) ** 2))
    assert found["psnr"] == pytest.approx(expected, rel=1e-6)
    assert np.isinf(found["mean_psnr"])
    gains = autoencoder_report.gains(
        [
            {"noise": "none", "method": "nearest", "psnr": 20.0},
            {"noise": "none", "method": "resize", "psnr": 21.0},
        ]
    )
    assert gains == [{"noise": "none", "network": "resize", "network_psnr": 21.0}]
