"""Training networks that give images back, against NumPy and the library's pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import data, errors, models, params, train
from flaxnets.data import corruption
from flaxnets.train import losses, reconstruction, similarity

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 12, 12, 1), np.uint8)
LABELS = np.zeros(23, np.int32)


def halved(variables, images, **_):
    """A network that gives half of its input back."""
    return images * variables["params"]["factor"], {}


HALF = {"params": {"factor": jnp.float32(0.5)}}


def test_the_restorer_means_over_every_image_whatever_the_batch_size() -> None:
    pictures = IMAGES.astype(np.float64) / 255
    error = np.mean((pictures / 2 - pictures) ** 2, axis=(1, 2, 3))
    similar = similarity.ssim(jnp.float32(pictures / 2), jnp.float32(pictures))
    for batch_size in (5, 23, 50):
        found = train.Restorer(halved, batch_size=batch_size).evaluate(HALF, IMAGES)
        assert found["loss"] == pytest.approx(error.mean(), rel=1e-5)
        assert found["psnr"] == pytest.approx(-10 * np.log10(error).mean(), rel=1e-5)
        assert found["ssim"] == pytest.approx(float(similar.mean()), rel=1e-5)
    restorer = train.Restorer(halved, distance=reconstruction.dissimilarity)
    loss = restorer.evaluate(HALF, IMAGES)["loss"]
    assert loss == pytest.approx(1 - float(similar.mean()), rel=1e-5)


def test_each_image_is_spoiled_by_its_place_whatever_the_batch_size() -> None:
    spoil = corruption.gaussian(0.5)
    key = jax.random.key(3)
    found = [
        train.Restorer(halved, corrupt=spoil, key=key, batch_size=size).predict(
            HALF, IMAGES
        )
        for size in (4, 23)
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    given, restored = found[0]
    np.testing.assert_allclose(restored, given / 2, atol=1e-6)
    noise = given - IMAGES / np.float32(255)
    # 3,312 draws: the deviation is known to 1.2 %; four of that.
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    # No two images have the same noise.
    assert len({image.tobytes() for image in noise}) == len(IMAGES)


def test_corruption_without_a_key_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="needs a key"):
        train.Restorer(halved, corrupt=corruption.gaussian(0.1))


def test_the_loss_corrupts_what_goes_in_and_augments_both() -> None:
    loss = reconstruction.reconstruction(
        # As Linen's apply where statistics may change.
        lambda variables, images, **_: (halved(variables, images), {}),
        corrupt=lambda key, images: images + 1,
        augment=lambda key, images: images[:, ::-1],
        distance=losses.mean_absolute_error,
    )
    pictures = jnp.float32(IMAGES) / 255
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    value, (statistics, shown) = loss(HALF["params"], {}, batch, jax.random.key(0))
    expected = jnp.abs((pictures[:, ::-1] + 1) / 2 - pictures[:, ::-1]).mean()
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert shown == {"loss": value} and statistics == {}


def test_a_network_that_is_given_no_images_is_compared_with_an_endpoint() -> None:
    """It is given rows of numbers: halves are its output, and threefold its target."""

    def apply(variables, given, *, mutable=False, **_):
        rows = given.reshape(-1, 12, 12, 1)
        found = rows * variables["params"]["factor"], {"wanted": rows * 3}
        return found if mutable is False else (found, {})

    numbers = np.random.default_rng(1).random((23, 144), np.float32)
    pictures = numbers.reshape(-1, 12, 12, 1)
    expected = np.mean((2.5 * pictures) ** 2, axis=(1, 2, 3))
    loss = reconstruction.reconstruction(apply, target="wanted")
    batch = {"image": jnp.asarray(numbers), "label": jnp.asarray(LABELS)}
    value, _ = loss(HALF["params"], {}, batch, jax.random.key(0))
    assert value == pytest.approx(expected.mean(), rel=1e-5)
    restorer = train.Restorer(apply, target="wanted", batch_size=10)
    found = restorer.evaluate(HALF, numbers)
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    # Measured as they are shown; targets lie outside of that here.
    shown = np.mean((pictures / 2 - 3 * pictures) ** 2, axis=(1, 2, 3))
    assert found["psnr"] == pytest.approx(-10 * np.log10(shown).mean(), rel=1e-5)
    given, restored = restorer.predict(HALF, numbers)
    np.testing.assert_array_equal(given, numbers)
    np.testing.assert_allclose(restored, pictures / 2, rtol=1e-6)


def test_the_perceptual_distance_is_that_of_endpoints() -> None:
    model = models.CNN(num_classes=None, widths=(4, 5), pools=1, dense=())
    variables = params.initialize(model, jax.random.key(0), (1, 12, 12, 1))
    pictures = jnp.float32(IMAGES[:3]) / 255
    others = jnp.float32(IMAGES[3:6]) / 255
    distance = reconstruction.perceptual(
        model.apply,
        variables,
        {"conv1": 2.0, "pool1": 0.5},
        prepare=lambda images: images - 0.5,
    )
    _, first = model.apply(variables, pictures - 0.5)
    _, second = model.apply(variables, others - 0.5)
    expected = sum(
        weight * np.mean((first[name] - second[name]) ** 2, axis=(1, 2, 3))
        for name, weight in (("conv1", 2.0), ("pool1", 0.5))
    )
    np.testing.assert_allclose(distance(pictures, others), expected, rtol=1e-5)
    np.testing.assert_array_equal(distance(pictures, pictures), np.zeros(3))
    with pytest.raises(errors.ArgumentError, match="no endpoint conv9; it has: conv1"):
        reconstruction.perceptual(model.apply, variables, {"conv9": 1.0})(
            pictures, others
        )
    with pytest.raises(errors.ArgumentError, match="name at least one"):
        reconstruction.perceptual(model.apply, variables, {})


def test_an_autoencoder_learns_in_the_loop_that_all_studies_use() -> None:
    """Records hold loss, PSNR and SSIM; patience goes by PSNR."""
    bars = np.zeros((64, 12, 12, 1), np.uint8)
    for place, image in enumerate(bars):
        image[:, place % 12] = 255
        image[place // 12] = 128
    split = data.Split(bars, np.zeros(64, np.int32))
    dataset = data.Dataset("bars", split, split, ("bar",), "made here")
    model = models.Autoencoder((8,), 1, "subpixel")
    optimizer = optax.adam(1e-2)
    fitted = train.fit(
        train.create(
            params.initialize(model, jax.random.key(0), (1, 12, 12, 1)),
            optimizer,
            key=jax.random.key(1),
        ),
        train.make_step(reconstruction.reconstruction(model.apply), optimizer),
        dataset,
        epochs=10,
        batch_size=8,
        seed=0,
        evaluator=train.Restorer(model.apply, batch_size=64),
        learning_rate=optax.constant_schedule(1e-2),
        patience=9,
    )
    first, last = fitted.records[0], fitted.records[-1]
    # A picture of its mean grey alone would have the standard deviation as its error.
    grey = -20 * np.log10(bars.std() / 255)
    assert last["test_psnr"] > grey + 6
    assert last["test_ssim"] > first["test_ssim"]
