"""The study of inverted networks, whole, at small size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from experiments import invert, invert_setup
from flaxnets import data, errors, models, params, train
from flaxnets.train import optimizers
from flaxnets.train.evaluation import as_float

pytestmark = pytest.mark.usefixtures("hardly_optimised")

GENERATOR = np.random.default_rng(0)


def _config(out: Path, **options) -> invert.Config:
    small = {
        "data": "digits",
        "backbone": "cnn",
        "weights": "none",
        "endpoint": ("conv1", "pool1"),
        "pictures": 64,
        "test_pictures": 16,
        "epochs": 2,
    }
    return invert.Config(out=out / "run", **{**small, **options})


def _dataset(shape=(16, 18, 1)) -> data.Dataset:
    def split(count: int) -> data.Split:
        images = GENERATOR.integers(0, 256, (count, *shape), np.uint8)
        return data.Split(images, np.arange(count, dtype=np.int32) % 2)

    return data.Dataset("noise", split(9), split(7), ("a", "b"), "")


def test_it_leaves_pictures_a_table_and_goes_on(tmp_path: Path, capsys) -> None:
    config = _config(tmp_path)
    assert invert.run(config) == 0
    assert "conv1: " in capsys.readouterr().out
    out = config.out
    result = json.loads((out / "result.json").read_text())
    first, last = result["table"]
    assert (first["code_shape"], last["code_shape"]) == ([28, 28, 16], [14, 14, 16])
    assert first["code_values"] == 28 * 28 * 16
    # A 3x3 convolution from 16 channels to one, and its bias.
    assert first["parameters"] == 3 * 3 * 16 + 1
    # What is as large as the picture was made no smaller.
    assert first["resized"] == {} and last["resized"]["psnr"] > 20
    assert first["psnr"] > result["mean_picture"]["psnr"]
    for name in ("side_by_side", "depth"):
        assert (out / f"figures/{name}.png").stat().st_size > 5_000
    assert "random" in (out / "report.html").read_text()
    # Stopped in the middle of a line, it goes on with the decoder that is missing.
    whole = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text(whole[0] + whole[1][:30])
    (out / "result.json").unlink()
    kept = (out / "figures/rebuilt/pool1.npy").read_bytes()
    assert invert.run(_config(tmp_path, resume=True)) == 0
    again = json.loads((out / "result.json").read_text())["table"]
    assert again[0] == first
    assert {**again[1], "seconds": 0} == {**last, "seconds": 0}
    assert (out / "figures/rebuilt/pool1.npy").read_bytes() == kept
    with pytest.raises(errors.RunFolderError, match="other options"):
        invert.run(_config(tmp_path, resume=True, unpooling="nearest"))


def test_activations_kept_or_computed_anew_give_the_same(monkeypatch) -> None:
    """Also with switches, which are no floats, and the same as the modules alone."""
    dataset = _dataset()
    module = models.CNN(num_classes=2, widths=(3, 4), pools=1, dense=())
    variables = params.initialize(module, jax.random.key(0), (1, 16, 18, 1))
    encoder = invert_setup.Encoder(module, variables, lambda images: images * 2)
    found = {}
    for limit in (1 << 30, 0):
        monkeypatch.setattr(invert_setup, "MOST_BYTES", limit)
        made = invert_setup.Inversion(
            encoder, "features", dataset.train.images, "max_unpool"
        )
        seen, _ = made.seen(dataset.train, dataset.test)
        assert seen.images.dtype == (np.float32 if limit else np.uint8)
        drawn = made.drawn(jax.random.key(1))
        assert ("encoder" in drawn) == (not limit)
        # Random, since a last layer of zeros gives the same for everything.
        shape = drawn["params"]["level1_conv1"]["kernel"].shape
        drawn["params"]["level1_conv1"]["kernel"] = jax.random.normal(
            jax.random.key(2), shape
        )
        restored, endpoints = jax.jit(made.apply)(drawn, seen.images)
        original = np.asarray(as_float(endpoints["original"]))
        np.testing.assert_allclose(original, dataset.train.images / 255, atol=1e-6)
        found[limit] = np.asarray(restored)

    images = jnp.asarray(dataset.train.images / 255, jnp.float32)

    @jax.jit
    def alone(variables, decoder):
        endpoints: Any = module.apply(variables, images * 2)[1]
        code = made.mirror.code(images, endpoints)
        # All pictures, fewer than a hundred, are what the scale comes from.
        values = (code.values - code.values.mean((0, 1, 2))[None, None, None]) / (
            code.values.std((0, 1, 2))[None, None, None]
        )
        return made.mirror.decoder.apply(decoder, code.replace(values=values))[0]

    expected = alone(variables, {"params": drawn["params"]})
    for restored in found.values():
        # Float32, sums of hundreds of products of size one.
        np.testing.assert_allclose(restored, expected, rtol=1e-4, atol=1e-4)


def test_training_begins_with_the_mean_grey() -> None:
    dataset = _dataset()
    module = models.CNN(num_classes=2, widths=(3,), pools=1, dense=(5,))
    variables = params.initialize(module, jax.random.key(0), (1, 16, 18, 1))
    encoder = invert_setup.Encoder(module, variables, lambda images: images)
    made = invert_setup.Inversion(encoder, "dense1", dataset.train.images, "subpixel")
    (seen,) = made.seen(dataset.train)
    restored, _ = jax.jit(made.apply)(made.drawn(jax.random.key(1)), seen.images)
    assert made.map_size is None
    grey = dataset.train.images.mean() / 255
    np.testing.assert_allclose(restored, np.full(restored.shape, grey), rtol=1e-5)


def test_the_measures_to_compare_with() -> None:
    dataset = _dataset((16, 20, 3))
    mean = dataset.train.images.mean(axis=0) / 255
    tests = dataset.test.images / 255
    expected = [peak_signal_noise_ratio(test, mean, data_range=1) for test in tests]
    found = invert_setup.mean_picture(dataset)
    assert found["psnr"] == pytest.approx(np.mean(expected), rel=1e-5)

    # A ramp survives being made smaller, but for its ends; noise does not.
    ramp = np.broadcast_to(np.arange(0, 240, 12, dtype=np.uint8)[:, None], (20, 3))
    ramps = np.broadcast_to(ramp, (2, 16, 20, 3))
    smooth, noisy = (
        invert_setup.resized(images, (8, 10)) for images in (ramps, dataset.test.images)
    )
    assert smooth["psnr"] > 35 and smooth["ssim"] > 0.98
    assert noisy["psnr"] < 15 and noisy["ssim"] < 0.6
    assert invert_setup.resized(ramps, (16, 20)) == {}


def test_photographs_are_drawn_by_the_seed_and_prepared(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("validation", 4)):
        for name in ("cats", "dogs"):
            for index in range(count):
                path = tmp_path / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = GENERATOR.integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(path)

    def drawn(**options) -> data.Dataset:
        config = _config(
            tmp_path, data=str(tmp_path), backbone="vgg11", size=32, **options
        )
        return invert.pictures_of(config).dataset

    few = drawn(pictures=6, test_pictures=3)
    assert few.train.images.shape == (6, 32, 32, 3)
    assert few.test.images.shape == (3, 32, 32, 3)
    assert set(few.train.labels) == {0, 1}
    many = drawn(pictures=100, test_pictures=100)
    assert (len(many.train.labels), len(many.test.labels)) == (10, 8)
    np.testing.assert_array_equal(many.train.images[:6], few.train.images)
    other = drawn(pictures=6, test_pictures=3, seed=1)
    assert not np.array_equal(other.train.images, few.train.images)


def _run(path: Path, dataset: data.Dataset) -> Any:
    """What a run of experiments.mnist leaves; returns its network's variables."""
    module = invert_setup.module_of("cnn", len(dataset.class_names))
    shape = (1, *dataset.train.images.shape[1:])
    variables = params.initialize(module, jax.random.key(3), shape)
    optimizer, _ = optimizers.make("sgd", learning_rate=0.1, total_steps=1)
    state = train.create(variables, optimizer, key=jax.random.key(0))
    with train.Checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save(0, state, metric=None, metadata={})
    config = {"study": "mnist", "dataset": "a, b"}
    config["dataset_sha256"] = data.fingerprint(dataset)
    (path / "config.json").write_text(json.dumps(config))
    return variables


def test_a_run_is_inverted_with_some_of_its_pictures(tmp_path: Path) -> None:
    """Fewer than it was trained on, and it is still known to be trained on them."""
    source = tmp_path / "mnist"
    variables = _run(source, data.load("digits"))
    config = _config(tmp_path, weights=str(source), endpoint=("pool1",), epochs=1)
    assert invert.run(config) == 0
    result = json.loads((config.out / "result.json").read_text())
    assert result["encoder_sha256"] == params.fingerprint(jax.device_get(variables))
    assert (result["train_pictures"], result["test_pictures"]) == (64, 16)
    # The run itself is not written over.
    into = dataclasses.replace(config, out=source, overwrite=True)
    with pytest.raises(errors.RunFolderError, match="holds a run of another study, mn"):
        invert.run(into)
    assert (source / "checkpoints/0").is_dir()


def test_the_weights_of_a_run(tmp_path: Path) -> None:
    dataset = _dataset()
    variables = _run(tmp_path, dataset)
    prepare = invert.setup.preparation("cnn", "none", 32)
    encoder = invert_setup.encoder_of("cnn", str(tmp_path), dataset, prepare, 0)
    assert encoder.fingerprint() == params.fingerprint(jax.device_get(variables))
    wide = _dataset((16, 20, 1))
    with pytest.raises(errors.ArgumentError, match="trained on 'a, b' and not on"):
        invert_setup.encoder_of("cnn", str(tmp_path), wide, prepare, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": ("block3",)}, "no endpoint 'block3'.*it has: conv1, pool1"),
        ({"endpoint": ("conv1", "conv1")}, "--endpoint names one twice"),
        ({"backbone": "resnet18", "endpoint": ()}, "not for ResNet"),
        ({"backbone": "vgg17"}, "no model is called 'vgg17'"),
        ({"backbone": "vgg11", "endpoint": ()}, "of 1 channel, but vgg11 takes 3"),
        (
            {"backbone": "squeezenet1_1", "endpoint": (), "unpooling": "max_unpool"},
            "3x3 and overlap",
        ),
        ({"data": "pictures.zip"}, "pictures.zip: there is no such folder or zip"),
        ({"weights": "imagenet"}, "--weights imagenet: there is no such folder"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"batch_size": 65}, "batch_size is 65"),
        ({"backbone": "vgg11", "endpoint": (), "size": 0}, "--size is 0"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises((errors.ArgumentError, errors.DataError), match=message):
        invert.run(_config(tmp_path, **options))
    assert not list(tmp_path.iterdir())
