"""The study of cats and dogs, whole, on a few pictures that are made here."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import (
    cats_dogs,
    cats_dogs_predict,
    cats_dogs_setup,
    cats_dogs_table,
    commands,
)
from flaxnets import data, errors, transfer

pytestmark = pytest.mark.usefixtures("hardly_optimised")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes that colour tells apart: even a random network sees it."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 6)):
        for name, channel in (("cats", 0), ("dogs", 2)):
            for index in range(count):
                pixels = generator.integers(0, 60, (40, 48, 3), np.uint8)
                pixels[..., channel] += 150
                path = tmp_path / "pictures" / split / name / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def _config(pictures: Path, **options) -> cats_dogs.Config:
    small = {
        "data": pictures,
        "backbone": "alexnet",  # Five layers: compiled in a moment.
        "size": 64,
        "weights": "none",
        "batch_size": 4,
        "epochs": 3,
        "features": pictures.parent / "features",
        "out": pictures.parent / "run",
    }
    return cats_dogs.Config(**{**small, **options})


@pytest.mark.network
def test_the_lecture_s_own_setting_reaches_its_accuracy(tmp_path: Path) -> None:
    """VGG-16 as it was published, on the lecture's pictures: 90.8 % or better."""
    config = cats_dogs.Config(
        head="lecture", features=tmp_path / "features", out=tmp_path / "run"
    )
    assert (config.data, config.backbone, config.weights) == (None, "vgg16", "imagenet")
    assert cats_dogs.run(config) == 0
    result = json.loads((config.out / "result.json").read_text())
    assert result["test_accuracy"] >= 0.908


def test_it_leaves_a_run_that_predicts(pictures: Path, capsys) -> None:
    config = _config(pictures, on_bad_image="skip")
    (pictures / "train" / "cats" / "3.jpg").write_bytes(b"<html>")
    assert cats_dogs.run(config) == 0
    said = capsys.readouterr().out
    assert "features: 256 numbers a picture" in said
    assert "3.jpg: is a web page" in said
    result = json.loads((config.out / "result.json").read_text())
    # Colour alone is enough for all, or all but one, of the twelve.
    assert result["test_accuracy"] > 0.9
    assert result["trainable_parameters"] == 2 * 256 + 2
    assert len(result["skipped_pictures"]["train"]) == 1
    certificate = result["freeze_certificate"]
    assert certificate["unchanged"]
    assert certificate["step_flops"] < certificate["step_flops_avoided"] / 1000
    for name in ("curves", "confusion", "mistakes"):
        assert (config.out / f"figures/{name}.png").stat().st_size > 5_000
    assert len(list(config.features.glob("*.npy"))) == 2

    shown = pictures / "validation" / "dogs" / "2.jpg"
    request = cats_dogs_predict.Predict(images=(shown,), run=config.out, json=True)
    assert cats_dogs_predict.run(request) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["class"] == "dogs"
    assert found["probabilities"]["dogs"] > 0.5
    with pytest.raises(errors.RunFolderError, match="holds a run already"):
        cats_dogs.run(config)
    # A run goes on with the same pictures only.
    (pictures / "train" / "cats" / "4.jpg").write_bytes(shown.read_bytes())
    again = _config(pictures, on_bad_image="skip", resume=True)
    with pytest.raises(errors.RunFolderError, match="pictures_sha256"):
        cats_dogs.run(again)


def test_all_modes_side_by_side_each_with_its_time(pictures: Path) -> None:
    config = _config(pictures, mode="all", seconds=0.5, epochs=None)
    words = ["-m", "experiments.cats_dogs", *commands.options(config, without=())]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((config.out / "result.json").read_text())["modes"]
    assert tuple(found) == transfer.MODES
    assert [row["stopped"] for row in found.values()] == ["time"] * 4
    assert found["scratch"]["trainable_parameters"] == 2_470_210 == 2_469_696 + 514
    for row in found.values():
        assert 0 <= row["test_accuracy"] <= 1
        parts = ("features_seconds", "train_seconds", "evaluation_seconds")
        assert 0.5 <= sum(row[name] for name in parts) < 60
    assert (config.out / "figures/modes.png").stat().st_size > 5_000
    assert "95 % interval" in done.stdout
    # What is finished is not done again, and never mixed with other options.
    again = subprocess.run(
        [sys.executable, *words, "--resume"], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert json.loads((config.out / "result.json").read_text())["modes"] == found
    other = _config(pictures, mode="all", seconds=0.5, epochs=None, per_class=4)
    with pytest.raises(errors.RunFolderError, match="per_class is 4, was None"):
        cats_dogs.run(dataclasses.replace(other, resume=True))


def test_stored_views_are_examples_of_the_schedule_too(pictures: Path) -> None:
    config = _config(pictures, augment="flip", views=3, epochs=2)
    assert cats_dogs.run(config) == 0
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(line) for line in lines)
    # 16 pictures in three views, four a step; the cosine ends with the last epoch.
    assert (first["step"], last["step"]) == (12, 24)
    assert first["learning_rate"] > 0.4 * 1e-2 > last["learning_rate"] > 0
    with pytest.raises(errors.RunFolderError, match="stored is False, was True"):
        cats_dogs.run(
            dataclasses.replace(config, stored=False, views=None, resume=True)
        )


def test_layers_are_thawed_one_phase_after_the_other(pictures: Path, capsys) -> None:
    config = _config(pictures, thaw=("nothing:2", "conv4:1"))
    assert cats_dogs.run(config) == 0
    said = capsys.readouterr().out
    assert said.index("from epoch 2 on") < said.index("from epoch 3 on 0 ")
    result = json.loads((config.out / "result.json").read_text())
    assert result["trainable_parameters"] == 2_470_210 and result["epochs"] == 3
    assert "freeze_certificate" not in result
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12]
    # What is finished is finished, in the phase that it ended in.
    assert cats_dogs.run(dataclasses.replace(config, resume=True)) == 0
    again = json.loads((config.out / "result.json").read_text())
    for name in ("test_loss", "train_seconds", "features_seconds"):
        assert again[name] == result[name], name
    words = commands.options(config, without=())
    assert words[words.index("--thaw") :][:3] == ["--thaw", "nothing:2", "conv4:1"]


def test_without_weights_a_body_learns_from_turned_pictures(pictures: Path) -> None:
    config = _config(pictures, pretrain="rotation", pretrain_epochs=2)
    assert cats_dogs.run(config) == 0
    result = json.loads((config.out / "result.json").read_text())
    assert result["pretraining"]["epochs"] == 2
    assert 0 <= result["pretraining"]["turns_accuracy"] <= 1
    assert result["freeze_certificate"]["unchanged"]
    # The body is not the one that a run without it begins with.
    plain = _config(pictures, out=pictures.parent / "plain")
    assert cats_dogs.run(plain) == 0
    other = json.loads((plain.out / "result.json").read_text())["freeze_certificate"]
    assert other["sha256_before"] != result["freeze_certificate"]["sha256_before"]


def test_the_table(pictures: Path) -> None:
    config = cats_dogs_table.Config(
        data=pictures,
        backbone="alexnet",
        weights="none",
        mode=("feature_extraction",),
        per_class=(2, 6),
        draws=2,
        batch_size=4,
        features=pictures.parent / "features",
        out=pictures.parent / "table",
    )
    assert cats_dogs_table.run(config) == 0
    found = json.loads((config.out / "result.json").read_text())["table"]
    assert [(row["per_class"], row["draws"]) for row in found] == [(2, 2), (6, 2)]
    assert found[1]["test_accuracy"] > 0.9
    assert (config.out / "figures/learning_curves.png").stat().st_size > 10_000
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg61"}, "no model is called 'vgg61'; did you mean"),
        ({"weights": "imagenett"}, "no such file"),
        ({"per_class": 9}, "--per-class asks for 9 pictures.*between 1 and 8"),
        ({"batch_size": 17}, "batch_size is 17, but must be between 1 and the 16"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"seconds": 0.0}, "--seconds is 0.0"),
        ({"up_to": "conv3"}, "up_to names the last frozen layer"),
        ({"mode": "partial_fine_tuning", "up_to": "conv12"}, "did you mean 'conv2'"),
        ({"pretrain": "rotation", "mode": "scratch"}, "--pretrain rotation makes"),
        ({"size": 16}, "--size is 16"),
        ({"views": 8}, "--views has no effect here: .* needs --augment"),
        ({"pretrain_epochs": 3}, "--pretrain-epochs has no effect here"),
        ({"seconds": 9.0, "schedule": "cosine", "epochs": None}, "needs --epochs too"),
        ({"thaw": ("conv5",)}, "--thaw conv5 is not LAYER:EPOCHS, .* from 1 to 2"),
        ({"thaw": ("conv5:3",)}, "--thaw conv5:3 is not LAYER:EPOCHS"),
        ({"thaw": ("conv5:1", "conv4:1")}, "--thaw names epoch 1 twice"),
        ({"thaw": ("conv55:1",)}, "no layer 'conv55'; did you mean 'conv5'"),
        ({"thaw": ("conv5:1",), "mode": "scratch"}, "--thaw has no effect"),
        ({"thaw": ("conv5:1",), "mode": "all"}, "--thaw needs one --mode"),
        ({"thaw": ("conv5:1",), "augment": "flip"}, "needs --no-stored"),
        ({"data": Path("nowhere")}, "nowhere: there is no such folder or zip"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, pictures: Path) -> None:
    with pytest.raises(errors.FlaxnetsError, match=message):
        cats_dogs.run(_config(pictures, **options))
    assert not (pictures.parent / "run" / "metrics.jsonl").exists()


def test_few_are_drawn_from_each_class_and_nested() -> None:
    labels = np.repeat(np.arange(3), (20, 30, 10))
    small, large = (cats_dogs_setup.few(labels, count, seed=4) for count in (3, 9))
    assert np.bincount(labels[small]).tolist() == [3, 3, 3]
    assert set(small) < set(large)
    assert set(cats_dogs_setup.few(labels, 3, seed=5)) != set(small)


def test_squeezenets_features_tell_cats_from_dogs(real_data: Path) -> None:
    """Real photographs, real weights: 40 a class, every tenth for testing."""
    folder = data.image_folder(real_data / "cats_and_dogs_small.zip")
    chosen = cats_dogs_setup.few(folder.train.labels, 40, seed=0)
    train, test = chosen, np.arange(0, len(folder.validation), 10)
    weights = str(real_data / "squeezenet_v1_caffe.npz")
    prepare = cats_dogs_setup.preparation("squeezenet_caffe", weights)
    shape = cats_dogs_setup.image_shape(prepare)
    model = cats_dogs_setup.network("squeezenet_caffe", "linear", prepare, 2)
    import jax

    variables = cats_dogs_setup.drawn(
        model,
        shape,
        jax.random.key(0),
        cats_dogs_setup.body("squeezenet_caffe", weights),
    )
    plan = transfer.Plan(model, shape, "feature_extraction")
    from sklearn.linear_model import LogisticRegression

    found = []
    for listing, places in ((folder.train, train), (folder.validation, test)):
        part = data.Listing(listing[place] for place in places.tolist())
        pictures = data.Pictures(folder, part, prepare.cropped)
        found.append(plan.seen(variables, pictures.split()))
    judge = LogisticRegression(C=0.2, max_iter=1000).fit(*found[0])
    # 92.5 % were measured with 50 a class on all of them; three deviations below.
    assert judge.score(*found[1]) > 0.84
