"""The study of generative pairs, whole, at small size."""

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from experiments import gan, gan_report, mnist
from experiments import gan_measures as measures
from flaxnets import data, errors, models
from flaxnets.train import frechet

pytestmark = pytest.mark.usefixtures("hardly_optimised")


def _config(out: Path, **options) -> gan.Config:
    small = {
        "dataset": "digits",
        "classifier_epochs": 1,
        "latent": 4,
        "widths": (4,),
        "discriminator_widths": (4,),
        "hidden": (8,),
        "epochs": 2,
        "batch_size": 256,
    }
    return gan.Config(out=out / "run", **{**small, **options})


def _result(config: gan.Config) -> dict[str, Any]:
    return json.loads((config.out / "result.json").read_text())


def _compiling_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, barely optimised, and what was compiled is used again."""
    quick: Any = {"compiler_options": {"xla_backend_optimization_level": 0}}
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, **quick))
    small = functools.partial(models.CNN, widths=(8,), pools=1, dense=(32, 16))
    monkeypatch.setattr(models, "CNN", small)
    monkeypatch.setattr(mnist, "augmentations", lambda recipe: [])
    begun, losses_of = gan.begun, gan.losses_of
    steps, evaluators = [], []

    def begun_again(*arguments) -> tuple[Any, ...]:
        state, step, schedule = begun(*arguments)
        steps.append(step)
        return state, steps[0], schedule

    def losses_again(*arguments) -> Any:
        evaluators.append(losses_of(*arguments))
        return evaluators[0]

    monkeypatch.setattr(gan, "begun", begun_again)
    monkeypatch.setattr(gan, "losses_of", losses_again)


def test_it_leaves_measures_and_pictures_and_goes_on(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    _compiling_little(monkeypatch)
    config = _config(tmp_path)
    out = config.out
    assert gan.run(config) == 0
    assert "classes among 1,000" in capsys.readouterr().out
    result = _result(config)
    assert (result["epochs"], result["steps"]) == (2, 10)
    assert result["classifier_accuracy"] > 0.2
    distances, classes = result["frechet"], result["classes"]
    assert distances["halves"]["pictures"] == distances["pictures"] // 2
    assert distances["few"]["pictures"] == min(distances["pictures"], 1000)
    for found in (distances, distances["halves"], distances["few"]):
        # Ten steps make no digits.
        assert found["made"] > found["floor"] > 0
        assert found["times_floor"] == pytest.approx(found["made"] / found["floor"])
    assert sum(classes["counts"]) == classes["pictures"] == 1000
    lines = (out / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    # Of the same pictures, by a program that was compiled again.
    assert last["test_frechet"] == pytest.approx(distances["made"], rel=1e-4)
    assert last["test_covered"] == pytest.approx(classes["covered"])
    for name in ("samples", "over_time", "between", "distance", "losses"):
        assert (out / f"figures/{name}.png").stat().st_size > 5_000
    assert "Frechet distance" in (out / "report.html").read_text()
    # Killed in the second epoch, it goes on with what it had after the first.
    second = (out / "pictures/epoch2.npy").read_bytes()
    shutil.rmtree(out / "checkpoints/pair/10")
    (out / "result.json").unlink()
    (out / "pictures/epoch2.npy").unlink()
    resumed = _config(tmp_path, resume=True)
    monkeypatch.setattr(gan_report, "write", lambda *report: None)
    assert gan.run(resumed) == 0
    assert "resuming at step 5" in capsys.readouterr().out
    again = _result(resumed)
    for name in ("frechet", "classes", "classifier_accuracy", "steps"):
        assert again[name] == result[name]
    assert (out / "pictures/epoch2.npy").read_bytes() == second
    assert len((out / "metrics.jsonl").read_text().splitlines()) == len(lines)
    with pytest.raises(errors.RunFolderError, match="other options"):
        gan.run(_config(tmp_path, resume=True, latent=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"latent": 0}, "--latent is 0"),
        ({"widths": ()}, "--widths is empty"),
        ({"widths": (4, 0)}, "--widths is 4 0"),
        ({"discriminator_widths": ()}, "--discriminator-widths is empty"),
        ({"hidden": (8, 0)}, "--hidden is 8 0"),
        ({"widths": (4, 4, 4)}, "28x28 pixels and 3 widths"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"discriminator_rate": float("nan")}, "--discriminator-rate is nan"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
        ({"r1": 1.0}, "--r1 is 1.0 with --normalisation batch"),
        ({"r1": -1.0, "normalisation": "none"}, "r1 is -1.0"),
        ({"shift": -1}, "shift is -1 pixels"),
        ({"batch_size": 5000}, "batch_size is 5000"),
        ({"classifier": Path("gone")}, "--classifier gone: there is no such folder"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        gan.run(_config(tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_a_classifier_of_other_pictures_is_no_judge(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    dataset = data.load("digits")
    config = {"study": "mnist", "dataset": "mnist"}
    config["dataset_sha256"] = data.fingerprint(dataset)[::-1]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.ArgumentError, match="on 'mnist' and not on these"):
        gan.run(_config(tmp_path, classifier=run))


def test_numbers_between_two_draws_are_draws() -> None:
    latents = np.random.default_rng(0).standard_normal((12, 10_000), np.float32)
    lines = gan.between(latents).reshape(gan.LINES, gan.ON_A_LINE, -1)
    np.testing.assert_array_equal(lines[:, 0], latents[: gan.LINES])
    # The cosine of a right angle in float32 is some 1e-8.
    np.testing.assert_allclose(
        lines[:, -1], latents[gan.LINES : 2 * gan.LINES], atol=1e-6
    )
    # The deviation of 10,000 draws is known to 0.7 %; five of that.
    np.testing.assert_allclose(lines.std(axis=-1), 1, rtol=0.035)


def test_classes_are_counted_and_those_that_are_sure() -> None:
    probabilities = np.array(
        [[0.95, 0.05, 0, 0], [0.6, 0.4, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]]
    )
    assert measures.coverage(probabilities) == {
        "pictures": 4,
        "counts": [2, 0, 0, 2],
        "covered": 0.5,
        "sure_counts": [1, 0, 0, 1],
        "covered_surely": 0.5,
    }


class Pixels:
    """Stands for a classifier whose features are the pixels."""

    def look(self, images: np.ndarray) -> measures.Seen:
        return measures.Seen(images.reshape(len(images), -1), np.ones((len(images), 1)))


def test_distances_are_from_test_pictures_as_many_as_there_are_on_both_sides() -> None:
    generator = np.random.default_rng(0)

    def split(count: int) -> data.Split:
        images = generator.integers(0, 200, (count, 2, 2, 1), np.uint8)
        return data.Split(images, np.zeros(count, np.int32))

    dataset = data.Dataset("noise", split(50), split(30), ("a",), "")
    judge: Any = Pixels()
    ruler = measures.Ruler(judge, dataset, 0)
    assert ruler.all.pictures == 30
    tests = judge.look(dataset.test.images).features.astype(np.float64)
    # Four pixels, each lighter by 3; what comes after the thirtieth does not count.
    given = np.concatenate([tests + 3, tests * 0])
    assert ruler.all.distance(tests) == pytest.approx(0, abs=1e-6)
    assert ruler.all.distance(given) == pytest.approx(36, rel=1e-6)
    assert ruler.halves.distance(given) > 0


def test_floors_are_of_as_many_pictures_none_of_which_is_on_both_sides(
    monkeypatch,
) -> None:
    looked_at = []

    def recorded(features: np.ndarray) -> Any:
        looked_at.append(features)
        return frechet.statistics(features)

    monkeypatch.setattr(measures, "statistics", recorded)
    monkeypatch.setattr(measures, "LOOKED_AT", 8)
    # No two pictures are equal.
    levels = np.arange(82 * 4).reshape(82, 2, 2, 1) % 251
    images = levels.astype(np.uint8)
    labels = np.zeros(82, np.int32)
    dataset = data.Dataset(
        "noise",
        data.Split(images[:51], labels[:51]),
        data.Split(images[51:], labels[51:]),
        ("a",),
        "",
    )
    judge: Any = Pixels()
    measures.Ruler(judge, dataset, 0)
    sets = [{tuple(row) for row in features.tolist()} for features in looked_at]
    assert sorted(map(len, looked_at)) == [8, 8, 15, 15, 31, 31]
    for size in (8, 15, 31):
        one, other = (one for one in sets if len(one) == size)
        assert not one & other


def test_pictures_are_made_as_they_are_stored() -> None:
    values = np.random.default_rng(0).random((measures.TOGETHER + 1, 4), np.float32)
    drawn = np.ones((3, 4), np.float32)

    def apply(variables, latents, *, train, mutable):
        """To the power of the averaged parameter, brought to the batch's maximum."""
        images = latents.reshape(-1, 2, 2, 1) ** variables["params"]
        return (images / images.max(), {}), {}

    generator: Any = SimpleNamespace(apply=apply)
    variables = {"params": np.float32(9), "average": np.float32(2)}
    values[0, 0] = 1
    found = measures.Maker(generator, drawn)(variables, values)
    assert found.dtype == np.uint8
    expected = 255 * values.astype(np.float64).reshape(-1, 2, 2, 1) ** 2
    # Half a level, and the rounding of what is about half way between two.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5 + 1e-4)
