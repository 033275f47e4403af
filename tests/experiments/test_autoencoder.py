"""The study of autoencoders, whole, at small size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import autoencoder, autoencoder_report, classical
from flaxnets import data, errors, models, params
from flaxnets.data import corruption
from flaxnets.train import similarity

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
    made = []

    def counted(owner: Any, name: str) -> None:
        form = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given: made.append(name) or form(*given)
        )

    counted(classical, "tuned")
    counted(autoencoder, "trained")
    assert autoencoder.run(_config(out, resume=True)) == 0
    assert made == ["tuned", "trained"]  # The median, and the network; no codes.
    again = json.loads((out / "result.json").read_text())
    assert _known(again["rows"]) == _known(result["rows"])
    assert again["codes"] == result["codes"]


def test_photographs_give_patches_of_their_middle(tmp_path: Path) -> None:
    generator, others = np.random.default_rng(0), {}
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        folder = tmp_path / "pictures" / split / name
        folder.mkdir(parents=True)
        picture = generator.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "1.png")
        if (split, name) == ("train", "a"):
            first = picture
        if split == "test":
            others[name] = picture
    config = autoencoder.Config(data=tmp_path / "pictures", patch=16)
    found = autoencoder.loaded(config)
    assert found.train.images.shape == (8, 16, 16, 3)
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4
    # Of 48 columns the middle 32, in four quarters, row by row.
    np.testing.assert_array_equal(found.train.images[0], first[:16, 8:24])
    np.testing.assert_array_equal(found.train.images[1], first[:16, 24:40])
    np.testing.assert_array_equal(found.train.images[2], first[16:, 8:24])
    # The shown ones are the first, so they do not lie class by class.
    orders = set()
    for seed in range(8):
        test = autoencoder.loaded(dataclasses.replace(config, seed=seed)).test
        for image, label in zip(test.images, test.labels, strict=True):
            np.testing.assert_array_equal(image, others["ab"[label]][8:24, 16:32])
        orders.add(tuple(test.labels.tolist()))
    assert orders == {(0, 1), (1, 0)}


@pytest.mark.parametrize(
    ("size", "tests", "message"),
    [
        ((27, 29), 20, "of 27x29 pixels.*must be even"),
        ((10, 10), 20, "of 10x10 pixels.*needs 11 a side"),
        ((16, 16), 1, "1 test picture, but two"),
    ],
)
def test_pictures_that_cannot_be_measured_are_refused_at_once(
    size, tests, message, tmp_path: Path
) -> None:
    images = np.zeros((20, *size), np.uint8)
    arrays = {"x_train": images, "y_train": np.arange(20) % 2}
    path = tmp_path / "odd.npz"
    np.savez(path, **arrays, x_test=images[:tests], y_test=arrays["y_train"][:tests])
    out = tmp_path / "run"
    with pytest.raises(errors.ArgumentError, match=message):
        autoencoder.run(_config(out, dataset=str(path), batch_size=10))
    assert not out.exists()


def test_pictures_of_one_class_lie_on_a_line_too() -> None:
    model = models.Autoencoder((4,), 1, "nearest", 3)
    variables = params.initialize(model, jax.random.key(0), (1, 16, 16, 1))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    found = autoencoder._between(model, variables, images, np.zeros(3, int))
    assert found.shape == (1, autoencoder.ON_A_LINE, 16, 16, 1)


@pytest.mark.parametrize("shape", [(28, 28), (28, 27), (9, 8)])
def test_white_noise_has_the_checkerboard_s_share_that_the_page_says(shape) -> None:
    noise = np.random.default_rng(0).normal(size=(400, *shape, 1))
    found = similarity.checkerboard(noise)
    # 400 pictures: their mean share lies within a few percent of the expected one.
    assert found == pytest.approx(autoencoder_report._white(shape), rel=0.05)


def test_filters_are_tuned_on_pictures_of_all_classes() -> None:
    """Of pictures that lie class by class, the first ones would be of one class."""
    images = np.repeat(np.arange(2, dtype=np.uint8), 500).reshape(-1, 1, 1, 1)
    split = data.Split(np.broadcast_to(images, (1000, 16, 16, 1)), images.reshape(-1))
    dataset = data.Dataset("two", split, split, ("a", "b"), "")
    config = autoencoder.Config()
    bench = autoencoder.Bench(config, dataset, corruption.gaussian(0.1))
    seen = []

    def tuned(candidates, noisy, clean):
        seen.append(clean)
        return candidates[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classical, "tuned", tuned)
        patched.setattr(classical, "applied", lambda best, noisy: noisy)
        next(m for m in bench.methods() if m.name == "median").make()
    (clean,) = seen
    assert len(clean) == autoencoder.TUNED_ON
    assert 16 < (clean > 0).any(axis=(1, 2, 3)).sum() < 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noises": ("gausian:0.5",)}, "'gausian:0.5', which is no noise; expected"),
        ({"noises": ("gaussian",)}, "'gaussian', which is no noise; expected"),
        ({"noises": ("gaussian:-1",)}, r"noise \(-1 is not a number above 0\)"),
        ({"noises": ("gaussian:0",)}, r"\(0 is not a number above 0\)"),
        ({"noises": ("blur:inf",)}, r"\(inf is not a number above 0\)"),
        ({"noises": ("squares:7.5",)}, r"\(7.5 is not a whole number of pixels\)"),
        (
            {"noises": ("none", "squares:40")},
            "--noises squares:40: .* 40 pixels do not",
        ),
        ({"bottleneck": 0}, "--bottleneck is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"noises": ("none", "none")}, "--noises is none none"),
        ({"unpoolings": ()}, "--unpoolings is empty"),
        ({"steps": 0}, "--steps is 0"),
        ({"patch": 8}, "--patch is 8"),
        ({"widths": (0,)}, "--widths"),
        ({"widths": (2,) * 7}, "too small for the pooling of level 5"),
        ({"batch_size": 5000}, "batch_size is 5000"),
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
    first = -10 * np.log10(np.mean((restored[0] - clean[0]) ** 2))
    assert found["mean_psnr"] == pytest.approx((first + 100 + 100) / 3, rel=1e-5)
    assert autoencoder.compared(clean, clean)["psnr"] == pytest.approx(100)
    gains = autoencoder_report.gains(
        [
            {"noise": "none", "method": "nearest", "psnr": 20.0},
            {"noise": "none", "method": "resize", "psnr": 21.0},
        ]
    )
    assert gains == [{"noise": "none", "network": "resize", "network_psnr": 21.0}]
