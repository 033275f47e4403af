"""Augmentations against torchvision's, once their draws are given."""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flaxnets.data import augmentation, mixing

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

GENERATOR = np.random.default_rng(0)
KEY = jax.random.key(0)


@pytest.fixture
def transforms(torchvision) -> Any:
    return importlib.import_module("torchvision.transforms.v2")


def channels_first(images: Any) -> Any:
    return torch.tensor(np.moveaxis(np.asarray(images), -1, -3).copy())


def channels_last(images: Any) -> np.ndarray:
    return np.moveaxis(images.numpy(), -3, -1)


@pytest.mark.parametrize("size", [7, 32, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_crop(transforms, size: int, channels: int) -> None:
    functional = transforms.functional
    images = GENERATOR.random((6, 150, 240, channels)).astype(np.float32)
    boxes = [
        (0, 0, 150, 240),
        (10, 20, 32, 32),
        (149, 239, 1, 1),
        (3, 200, 120, 37),
        (70, 0, 5, 240),
        (1, 1, 149, 113),
    ]
    found = augmentation.resized_crop(jnp.asarray(images), jnp.asarray(boxes), size)
    for image, box, crop in zip(images, boxes, found, strict=True):
        expected = functional.resized_crop(
            channels_first(image), *box, [size, size], antialias=True
        )
        # Places up to 240 in float32 are known to 1e-5 of a pixel.
        np.testing.assert_allclose(crop, channels_last(expected), atol=3e-5)
        top, left, height, width = box
        alone = image[top : top + height, left : left + width]
        expected = torch.nn.functional.interpolate(
            channels_first(alone[None]), (size, size), mode="bilinear", antialias=True
        )
        np.testing.assert_allclose(crop, channels_last(expected)[0], atol=3e-5)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (224, 224, (0.08, 1.0), (3 / 4, 4 / 3)),
        (60, 100, (0.75, 1.0), (1 / 2, 4 / 3)),
        (20, 100, (0.9, 1.0), (3 / 4, 4 / 3)),
        (100, 20, (0.9, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_random_boxes(torchvision, height: int, width: int, scale, ratio) -> None:
    count = 4000
    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    crop = torchvision.transforms.RandomResizedCrop
    expected = np.array(
        [crop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    )
    shape = (count, height, width, 3)
    boxes = augmentation.random_boxes(KEY, shape, scale=scale, ratio=ratio)
    for found, other in zip(np.asarray(boxes).T, expected.T, strict=True):
        result: Any = stats.ks_2samp(found, other)
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("brightness", (0.0, 0.3, 1.0, 1.8)),
        ("contrast", (0.0, 0.3, 1.0, 1.8)),
        ("saturation", (0.0, 0.3, 1.0, 1.8)),
        ("hue", (-0.5, -0.13, 0.0, 0.31, 0.5)),
    ],
)
def test_colours(transforms, name: str, values, channels: int) -> None:
    theirs = getattr(transforms.functional, f"adjust_{name}")
    ours = getattr(augmentation, f"adjust_{name}")
    images = GENERATOR.random((len(values), 40, 30, channels)).astype(np.float32)
    # Greys, blacks, whites, and pixels with two equal channels.
    images[:, 0], images[:, 1], images[:, 2] = images[:, 0, :, :1], 0, 1
    images[:, 3:6] = images[:, 3:6].round(1)
    found = ours(jnp.asarray(images), jnp.array(values, jnp.float32))
    for image, value, changed in zip(images, values, found, strict=True):
        expected = channels_last(theirs(channels_first(image), value))
        np.testing.assert_allclose(changed, expected, atol=2e-6)


def test_color_jitter_of_one_image(transforms) -> None:
    """Each channel of each pixel, over many draws."""
    spreads = {"brightness": 0.6, "contrast": 0.7, "saturation": 0.8, "hue": 0.3}
    image = GENERATOR.random((2, 2, 3)).astype(np.float32)
    jitter = transforms.ColorJitter(**spreads)
    torch.manual_seed(0)
    count = 1500
    pixels = channels_first(image)
    expected = np.stack([channels_last(jitter(pixels)) for _ in range(count)])
    images = jnp.broadcast_to(jnp.asarray(image), (count, 2, 2, 3))
    found = np.asarray(augmentation.color_jitter(**spreads)(KEY, images))
    for place in np.ndindex(2, 2, 3):
        one, other = found[:, *place].round(5), expected[:, *place].round(5)
        result: Any = stats.ks_2samp(one, other)
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_mixing(transforms, name: str) -> None:
    """With the share, or the box, that was drawn here."""
    height, width = 20, 31
    images = GENERATOR.random((5, height, width, 3)).astype(np.float32)
    targets = np.eye(5, dtype=np.float32)
    mix = {"MixUp": mixing.mixup(1.0), "CutMix": mixing.cutmix(1.0)}[name]
    mixed, found = mix(jax.random.key(3), jnp.asarray(images), jnp.asarray(targets))
    share = float(found[0, 0])
    assert 0.05 < share < 0.95
    theirs = getattr(transforms, name)(num_classes=5)
    rows, columns = np.nonzero(np.any(np.asarray(mixed) != images, axis=(0, 3)))
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    labels = torch.tensor(targets)
    chosen = {"labels": labels, "batch_size": 5, "box": box}
    chosen |= {"lam": share, "lam_adjusted": share}
    expected = theirs.transform(channels_first(images), chosen)
    np.testing.assert_allclose(mixed, channels_last(expected), atol=1e-6)
    np.testing.assert_allclose(found, theirs.transform(labels, chosen), atol=1e-6)
    if name == "CutMix":
        area = math.prod((box[2] - box[0], box[3] - box[1]))
        assert share == pytest.approx(1 - area / (height * width), abs=1e-6)
