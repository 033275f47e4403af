"""From a picture to what a pretrained network was trained on."""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, crop in the middle, scale, normalise; as weights ask for it.

    Attributes:
        resize: length of the shorter side in pixels, or height and width.
        crop: height and width of the middle that is kept; None keeps all.
        interpolation: of the resizing, by Pillow's antialiasing filters.
        maximum: what white becomes before the normalisation, 1 or 255.
        mean, deviation: of each channel, in the order of `channels`.
        channels: the order that the network wants.
    """

    resize: int | tuple[int, int] = 256
    crop: int | None = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    maximum: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Maps one picture uint8[H, W, 3] in RGB to f32[crop, crop, 3]."""
        return self.normalized(self.cropped(image))

    def __str__(self) -> str:
        """Sizes and order of channels in a few words, as for a table."""
        size = self.resize
        resized = f"{size[0]}x{size[1]}" if isinstance(size, tuple) else f"{size}"
        crop = f", crop {self.crop}" if self.crop else ""
        return f"{resized}{crop}, {self.channels.upper()}"

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """Scales and normalises uint8[..., 3] in RGB to f32[..., 3]."""
        values = image.astype(np.float32) * np.float32(self.maximum / 255)
        if self.channels == "bgr":
            values = values[..., ::-1]
        mean = np.asarray(self.mean, np.float32)
        return (values - mean) / np.asarray(self.deviation, np.float32)

    def scaled(self, images: Any) -> Any:
        """Scales and normalises f32[..., 3] in RGB, 0 to 1, also on the device.

        `normalized` for images that a step has made floats.
        """
        values = images * np.float32(self.maximum)
        if self.channels == "bgr":
            values = values[..., ::-1]
        shape = (1,) * (values.ndim - 1) + (3,)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        return (values - mean) / np.asarray(self.deviation, np.float32).reshape(shape)

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """The part of the picture that the network sees, uint8[crop, crop, 3] in RGB.

        Sides and offsets are rounded as torchvision's Resize and CenterCrop do; a
        picture smaller than the crop gets a black border.
        """
        from PIL import Image

        filters = {
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
        }
        height, width = image.shape[:2]
        size: tuple[int, int]
        if isinstance(self.resize, tuple):
            size = self.resize
        elif height < width:
            size = (self.resize, int(self.resize * width / height))
        else:
            size = (int(self.resize * height / width), self.resize)
        if size != (height, width):
            picture = Image.fromarray(image)
            shrunk = picture.resize((size[1], size[0]), filters[self.interpolation])
            image = np.asarray(shrunk)
        if self.crop is None:
            return image
        for axis in (0, 1):
            image = _middle(image, self.crop, axis)
        return image


# The preprocessing of torchvision's first ImageNet weights and of its second ones, and
# of Keras's VGG and ResNet (`mode="caffe"`); the original SqueezeNet's means are
# rounded.
TORCHVISION = Preprocessing()
TORCHVISION_V2 = Preprocessing(resize=232)
KERAS_CAFFE = Preprocessing(
    resize=(224, 224),
    crop=None,
    maximum=255.0,
    mean=(103.939, 116.779, 123.68),
    deviation=(1.0, 1.0, 1.0),
    channels="bgr",
)
SQUEEZENET_CAFFE = Preprocessing(
    resize=(256, 256),
    crop=227,
    maximum=255.0,
    mean=(104.0, 117.0, 123.0),
    deviation=(1.0, 1.0, 1.0),
    channels="bgr",
)

# What the weights of each layout (`flaxnets.weights.names.Layout`) were made with.
OF_LAYOUT = {
    "torchvision": TORCHVISION,
    "timm": TORCHVISION,
    "keras": KERAS_CAFFE,
    "keras3": KERAS_CAFFE,
    "caffe": SQUEEZENET_CAFFE,
}


def from_config(fields: Mapping[str, Any]) -> Preprocessing:
    """What `dataclasses.asdict` made of a preprocessing, also by way of JSON."""
    whole: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    return Preprocessing(**whole)


def imagenet_classes() -> tuple[str, ...]:
    """Names of ImageNet's 1000 classes in the order of the logits.

    They are torchvision's (torchvision/models/_meta.py), all different.
    """
    file = resources.files("flaxnets.data") / "imagenet_classes.txt"
    return tuple(file.read_text().splitlines())


def _middle(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The middle `size` of an axis, with a border of zeros where it is shorter."""
    length = image.shape[axis]
    if length < size:
        low = (size - length) // 2
        pads = [(0, 0)] * image.ndim
        pads[axis] = (low, size - length - low)
        return np.pad(image, pads)
    # Half to even, as Python rounds and torchvision crops.
    start = round((length - size) / 2)
    return np.take(image, np.arange(start, start + size), axis)
