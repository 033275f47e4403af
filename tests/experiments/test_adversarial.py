"""The study of learned noise, whole, at small size."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import (
    adversarial,
    adversarial_report,
    adversarial_scores,
    adversarial_setup,
    adversarial_training,
)
from flaxnets import attack, data, errors, models, params, train
from tests.attack import players

pytestmark = pytest.mark.usefixtures("hardly_optimised")

GENERATOR = np.random.default_rng(0)
# One layer of each kind, for the time that compiling takes.
SMALL = functools.partial(models.CNN, widths=(4,), pools=1, dense=())


def _config(out: Path, **options) -> adversarial.Config:
    small = {
        "dataset": ("digits",),
        "test_pictures": 40,
        "generator_widths": (4,),
        "classifier_epochs": 3,
        "classifier_rate": 1e-2,
        "generator_epochs": 2,
        "game_epochs": 2,
        "robust_epochs": 1,
        "attacks": ("fgsm", "square"),
        "queries": 5,
    }
    return adversarial.Config(out=out / "run", **{**small, **options})


def test_it_leaves_tables_and_figures_and_goes_on(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(models, "CNN", SMALL)
    monkeypatch.setattr(adversarial_scores, "SHARES", (1.0,))
    few = {"fgsm": attack.fgsm(0.2), "square": attack.square(0.3, queries=5)}
    monkeypatch.setattr(adversarial_scores, "_auto_attack", lambda epsilon: few)
    defence = {"defence": ("none", "game", "fgsm"), "auto_attack": True}
    config = _config(tmp_path, **defence)
    assert adversarial.run(config) == 0
    assert "none: clean " in capsys.readouterr().out
    out = config.out
    result = json.loads((out / "result.json").read_text())
    plain, game, _ = result["table"]
    assert [row["defence"] for row in result["table"]] == ["none", "game", "fgsm"]
    tried = {row["attack"]: row for row in plain["evaluated"]["attacks"]}
    assert list(tried) == ["fgsm", "square", *map("noise_{}".format, result["noise"])]
    assert plain["clean_accuracy"] > 0.5
    # None of them moves a value farther, and the worst case is no better than any.
    lowest = min(row["accuracy"] for row in tried.values())
    assert plain["worst_case_accuracy"] <= lowest < plain["clean_accuracy"]
    for row in tried.values():
        assert row["beyond"] == 0
        assert row["linf_max"] is None or row["linf_max"] <= 0.3
    assert plain["pgd_40_accuracy"] is None
    for row in result["table"]:
        stages = row["auto_attack"]
        assert list(stages) == ["none", *few]
        assert stages["none"] == pytest.approx(row["clean_accuracy"])
        assert row["auto_attack_accuracy"] == stages["square"] <= stages["fgsm"]
        # What any of the attacks broke, those of AutoAttack among them.
        assert row["worst_case_accuracy"] <= row["auto_attack_accuracy"]
    # The table's noise and the one that is looked at are the same.
    numbers = result["noise"]["generator"]
    expected = tried["noise_generator"]["accuracy"]
    # It may also put right what was misread.
    assert numbers["misclassified"] <= 1 - expected + 1e-9
    victims = round(40 * (plain["clean_accuracy"] - expected))
    assert sum(numbers["taken_for"]) == victims
    history = result["history"]["game"]
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[0].keys() >= {
        "train_generator_loss",
        "test_success_rate",
        "test_pgd_accuracy",
    }
    drawn = (
        "examples_generator",
        "taken_for_fresh_game",
        "game",
        "kinds",
        "epsilon_none",
    )
    for name in drawn:
        assert (out / f"figures/{name}.png").stat().st_size > 5_000
    assert "Made on one, tried on another" in (out / "report.html").read_text()

    # Stopped in the middle of its last row, it makes that one again, and no training.
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:30])
    (out / "result.json").unlink()
    monkeypatch.setattr(adversarial_report, "write", lambda *_: None)
    monkeypatch.setattr(train, "fit", None)
    assert adversarial.run(_config(tmp_path, resume=True, **defence)) == 0
    again = json.loads((out / "result.json").read_text())
    for name in ("table", "transfer", "noise", "history", "train_seconds"):
        assert again[name] == result[name]
    with pytest.raises(errors.RunFolderError, match="other options"):
        adversarial.run(_config(tmp_path, resume=True, epsilon=0.2, **defence))


def _course(folder: train.RunFolder, epochs: int) -> adversarial_training.Course:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 24).astype(np.int32)
    images = generator.integers(0, 256, (24, 2, 2, 1), np.uint8)
    split = data.Split(images, labels)
    dataset = data.Dataset("noise", split, split, ("a", "b", "c"), "")
    lengths = {"first": 1, "second": epochs}
    return adversarial_training.Course(folder, dataset, lengths, 8, 0)


def _small_players() -> adversarial_training.Players:
    return adversarial_training.Players(
        apply=players.classifier,
        perturber=models.Perturber((2,), 1),
        shape=(2, 2, 1),
        epsilon=0.3,
        tuned=False,
        together=24,
        seed=0,
    )


def test_a_training_in_two_sittings_is_the_one_in_a_single_one(tmp_path: Path) -> None:
    options = (1e-2, 3, 0.5, 0.5, 1.0)

    def done(path: Path, epochs: int, **how) -> tuple[Any, list[dict[str, Any]]]:
        with train.RunFolder.open(path, {}, **how) as folder:
            course = _course(folder, epochs)
            test = data.Split(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32))
            for name, kind in (("first", "fgsm"), ("second", "pgd")):

                def make(steps: int, kind: Any = kind) -> adversarial_training.Training:
                    del steps  # Those of the longer course, for both.
                    return adversarial_training.robust(
                        _small_players(),
                        players.classifier_variables(2),
                        kind,
                        *options,
                        6,
                    )

                found = course.trained(name, make, test)
            return found.variables, course.rows

    whole, rows = done(tmp_path / "whole", 2)
    done(tmp_path / "parts", 1)
    # A row whose checkpoint was not written any more.
    with (tmp_path / "parts/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"training": "second", "epoch": 2, "step": 9}) + "\n")
    parts, resumed = done(tmp_path / "parts", 2, resume=True)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    measured = ("training", "epoch", "step", "train_loss", "test_pgd_accuracy")
    assert [row["step"] for row in rows] == [3, 6, 9]
    for one, other in zip(resumed, rows, strict=True):
        assert [one[name] for name in measured] == [other[name] for name in measured]
    lines = (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9]


def test_the_kind_of_noise_is_told() -> None:
    """Noise that is the same everywhere, and noise of two pixels' period."""
    shape = (6, 16, 16, 1)
    images = GENERATOR.integers(100, 150, shape, np.uint8)
    labels = np.arange(6, dtype=np.int32) % 3
    stripes = 0.1 * (-1.0) ** np.arange(16, dtype=np.float32)[None, :, None]
    noises = {
        "even": np.full((16, 16, 1), 0.2, np.float32),
        "stripes": np.broadcast_to(stripes, (16, 16, 1)),
    }

    def generator(variables, images, *, train=False, rngs=None, mutable=()):
        noise = jax.numpy.zeros_like(images) + variables["params"]["noise"][None]
        return (noise, {}), {}

    def classifier(variables, images):
        """By the mean: 2 where it is above 0.6, else 0; class 1 is never read."""
        bright = images.mean(axis=(1, 2, 3)) - variables["params"]["threshold"]
        return jax.numpy.stack([-bright, bright * 0 - 9, bright], axis=1), {}

    bench = adversarial_scores.Bench(
        classifier,
        ("fgsm",),
        {name: {"params": {"noise": noise}} for name, noise in noises.items()},
        generator,
        pictures=data.Split(images, labels),
        classes=3,
        epsilon=0.2,
        queries=5,
        together=6,
        key=jax.random.key(0),
    )
    variables = {"params": {"threshold": np.float32(0.6)}}
    even = bench.noise("even", variables)
    # Of a mean of 0.49, all are read as 0; with 0.2 more, all as 2.
    assert even.numbers["misclassified"] == pytest.approx(4 / 6)
    assert even.numbers["success_rate"] == 1
    assert even.numbers["taken_for"] == [0, 0, 2]
    np.testing.assert_array_equal(even.confusion[:, 2], [2, 2, 2])
    for name in ("common_share", "at_bound_share", "low_frequency_share"):
        assert even.numbers[name] == pytest.approx(1)
    assert even.numbers["l2_mean"] == pytest.approx(0.2 * math.sqrt(256), rel=1e-5)
    np.testing.assert_allclose(even.mean, 0.2, rtol=1e-5)
    stripes_ = bench.noise("stripes", variables)
    assert stripes_.numbers["success_rate"] == 0
    assert stripes_.numbers["at_bound_share"] == 0
    assert stripes_.numbers["low_frequency_share"] == pytest.approx(0, abs=1e-6)
    assert stripes_.numbers["common_share"] == pytest.approx(1)
    # Only along the rows, and there the highest frequency, the first of them.
    power = np.zeros((16, 16))
    power[8, 0] = (0.1 * 256) ** 2
    np.testing.assert_allclose(stripes_.spectrum, power, atol=1e-3, rtol=1e-4)


def _reference(tensors: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """A LeNet's logits of f64[N, H, W, 1], channels first, in loops of its own."""
    x = images.transpose(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
        count, channels, height, width = x.shape
        blocks = x.reshape(count, channels, height // 2, 2, width // 2, 2)
        x = np.maximum(blocks.max(axis=(3, 5)), 0)
    x = x.reshape(len(x), -1) @ tensors["fc1.weight"].T + tensors["fc1.bias"]
    return np.maximum(x, 0) @ tensors["fc2.weight"].T + tensors["fc2.bias"]


def test_a_lenet_of_others_and_how_it_takes_pictures(tmp_path: Path) -> None:
    shapes = {
        "conv1.weight": (3, 1, 5, 5),
        "conv2.weight": (4, 3, 5, 5),
        "fc1.weight": (7, 64),
        "fc2.weight": (10, 7),
    }
    tensors = {
        name: GENERATOR.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        tensors[name.replace("weight", "bias")] = GENERATOR.normal(size=shape[0])
    path = tmp_path / "lenet.npz"
    floats = {name: array.astype(np.float32) for name, array in tensors.items()}
    np.savez(path, **floats)
    images = GENERATOR.integers(0, 256, (40, 28, 28, 1), np.uint8)
    expected = {
        numbers: _reference(tensors, (images / 255 - numbers[0]) / numbers[1])
        for numbers in adversarial_setup.NORMALISATIONS
    }
    for numbers, logits in expected.items():
        labels = GENERATOR.permutation(logits.argmax(axis=1)).astype(np.int32)
        split = data.Split(images, labels)
        dataset = data.Dataset("noise", split, split, tuple("0123456789"), "")
        network = adversarial_setup.lenet_of(path, dataset)
        losses = {
            chosen: train.scores(its, labels)["loss"]
            for chosen, its in expected.items()
        }
        least = min(losses, key=losses.__getitem__)
        assert f"mean {least[0]:g}, deviation {least[1]:g}" in network.words
        apply = adversarial_setup.lenet(*numbers)
        found = train.Evaluator(apply, batch_size=40).predict(network.given, images)
        # Float32 sums of some hundred products.
        scale = np.abs(logits).max()
        np.testing.assert_allclose(found, logits, atol=1e-4 * scale, rtol=1e-4)
    np.savez(path, **{name: tensors[name] for name in ("conv1.weight", "fc2.bias")})
    with pytest.raises(errors.WeightsError, match=r"holds conv1.weight \[3, 1, 5, 5\]"):
        adversarial_setup.lenet_of(path, dataset)
    with pytest.raises(errors.ArgumentError, match="has 2 classes of 28x28x1"):
        adversarial_setup.lenet_of(path, dataset._replace(class_names=("a", "b")))


def test_the_classifier_of_a_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(models, "CNN", SMALL)
    dataset = data.load("digits")
    model = models.CNN(num_classes=10)
    variables = params.initialize(model, jax.random.key(3), (1, 28, 28, 1))
    state = train.create(variables, optax.sgd(0.1), key=jax.random.key(0))
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(0, state, metric=None, metadata={})
    config = {"study": "mnist", "dataset_sha256": data.fingerprint(dataset)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = adversarial_setup.network_of(
        "cnn", str(tmp_path), dataset, adversarial_setup.preprocessing.TORCHVISION, 0
    )
    jax.tree.map(np.testing.assert_array_equal, found.given, jax.device_get(variables))
    lengths = adversarial.epochs_of(_config(tmp_path), found)
    assert list(lengths) == ["generator", "game", "fresh_game"]


def test_photographs(tmp_path: Path, monkeypatch) -> None:
    for split, count in (("train", 3), ("validation", 2)):
        for name in ("cats", "dogs"):
            for index in range(count):
                path = tmp_path / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = GENERATOR.integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    names = ("cats_dogs", str(tmp_path))
    dataset, _ = adversarial_setup.pictures_of(names, "squeezenet1_1", "none", 32, 0)
    assert dataset.train.images.shape == (6, 32, 32, 3)
    assert dataset.test.images.shape == (4, 32, 32, 3)
    assert dataset.class_names == ("cats", "dogs")
    config = _config(tmp_path / "other", dataset=names)
    assert adversarial.epsilon_of(config) == 8 / 255
    assert adversarial_setup.together((28, 28, 1), 10_000) == 500
    assert adversarial_setup.together((96, 96, 3), 10_000) == 14
    assert adversarial_setup.together((28, 28, 1), 40) == 40
    with pytest.raises(errors.ArgumentError, match="at least 4 classes"):
        adversarial.run(
            _config(tmp_path / "other", dataset=names, size=32, auto_attack=True)
        )
    # In colours, and of two classes, it goes the whole way.
    monkeypatch.setattr(models, "CNN", SMALL)
    monkeypatch.setattr(adversarial_scores, "SHARES", (1.0,))
    short = {"size": 32, "batch_size": 2, "classifier_epochs": 1, "game_epochs": 1}
    options = {"attacks": ("fgsm",), "generator_epochs": 1, **short}
    config = _config(tmp_path, dataset=names, defence=("none",), **options)
    assert adversarial.run(config) == 0
    (row,) = json.loads((config.out / "result.json").read_text())["table"]
    for tried in row["evaluated"]["attacks"]:
        assert tried["linf_max"] is None or tried["linf_max"] <= 8 / 255
    assert (config.out / "figures/examples_generator.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ("digits", "more")}, "--dataset is digits more"),
        ({"backbone": "vgg11"}, "of 1 channel, but vgg11 takes 3"),
        ({"weights": "nowhere"}, "--weights nowhere: there is no such folder"),
        ({"defence": ()}, "--defence is empty"),
        ({"defence": ("none", "none")}, "--defence is none none"),
        ({"attacks": ("square", "deepfool")}, "must have one of fgsm, pgd_40"),
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": 0.0}, "--epsilon is 0"),
        ({"generator_widths": ()}, "--generator-widths is "),
        ({"generator_widths": (2,) * 6}, "too small"),
        ({"updates": (0, 1)}, "--updates is 0 1"),
        ({"warmup": 1.5}, "--warmup is 1.5"),
        ({"beta": math.inf}, "--beta is inf"),
        ({"game_epochs": 0}, "--game-epochs is 0"),
        ({"robust_rate": 0.0}, "--robust-rate is 0.0"),
        ({"seed": -1}, "--seed is -1"),
        ({"batch_size": 2000}, "batch_size is 2000"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises((errors.ArgumentError, errors.DataError), match=message):
        adversarial.run(_config(tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_a_seed_chooses_pictures_and_fewer_are_the_first() -> None:
    split = data.load("digits").test
    many, few = (adversarial_setup.some(split, count, 0) for count in (50, 20))
    np.testing.assert_array_equal(many.images[:20], few.images)
    assert len(adversarial_setup.some(split, 10**6, 0).labels) == len(split.labels)
    other = adversarial_setup.some(split, 20, 1)
    assert not np.array_equal(other.labels, few.labels)


def test_watched_accuracy_is_that_of_the_same_attack() -> None:
    generator = np.random.default_rng(2)
    images = generator.random((12, 2, 2, 1), np.float32)
    labels = generator.integers(0, 3, 12).astype(np.int32)
    variables = players.classifier_variables(4)
    measure = adversarial_training.watching(players.classifier, 0.1)
    found = jax.jit(measure)(variables, images, labels, jax.random.key(0))
    strong = attack.pgd(0.1, steps=adversarial_training.WATCHING_STEPS)
    ran = attack.run(
        strong, players.classifier, variables, images, labels, key=jax.random.key(0)
    )
    # Each picture has the same key in both, and so the same start.
    np.testing.assert_array_equal(found["pgd_accuracy"], ~ran.fooled)
    np.testing.assert_array_equal(found["accuracy"], ran.before == ran.labels)
