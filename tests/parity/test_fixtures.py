"""The stored activations, computed by PyTorch from the same file.

    python -m tests.parity.test_fixtures

writes them anew; it needs FLAXNETS_DATA and PyTorch.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from flaxnets import weights
from flaxnets.weights import verification

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")

FILE = "squeezenet_v1_caffe.npz"


def squeezenet(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SqueezeNet's endpoints, as its deploy.prototxt has them.

    Caffe rounds the sizes of pooled maps up, and the last convolution pads a 1x1
    window by 1.
    """
    functional = torch.nn.functional
    # As little of the sums' rounding as there can be in what others are compared with.
    weight = {name: torch.tensor(array).double() for name, array in tensors.items()}

    def conv(x, name: str, **options):
        return functional.relu(
            functional.conv2d(x, weight[f"{name}/w"], weight[f"{name}/b"], **options)
        )

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    preprocessing = weights.find("squeezenet_caffe").preprocessing
    image = verification.image(227, preprocessing)
    x = torch.tensor(np.moveaxis(image, -1, 1).copy()).double()
    x = conv(x, "conv1", stride=2)
    found = {"conv1": x}
    x = pool(x)
    for index in range(2, 10):
        x = conv(x, f"fire{index}/conv1x1_1")
        wide = conv(x, f"fire{index}/conv3x3_2", padding=1)
        x = torch.cat([conv(x, f"fire{index}/conv1x1_2"), wide], dim=1)
        found[f"fire{index}"] = x
        if index in (4, 8):
            x = pool(x)
    found["features"] = x
    found["logits"] = conv(x, "conv_final", padding=1).mean((2, 3))
    return {name: np.moveaxis(tensor.numpy(), 1, -1) for name, tensor in found.items()}


def test_squeezenet(real_data: Path) -> None:
    expected = verification.sampled(squeezenet(weights.read(real_data / FILE)))
    stored = verification.stored("squeezenet_caffe", "caffe")
    assert stored and stored.keys() == expected.keys()
    for name, sample in stored.items():
        assert sample.shape == expected[name].shape
        apart = np.abs(sample.values - expected[name].values).max()
        # They are stored with seven figures.
        assert apart < 1e-6 * expected[name].largest, name
        assert sample.largest == pytest.approx(expected[name].largest, rel=1e-6)


def write() -> None:
    """Stores the activations."""
    data = Path(os.environ["FLAXNETS_DATA"])
    fixture = verification.sampled(squeezenet(weights.read(data / FILE)))
    folder = Path(verification.__file__).parent / "fixtures"
    path = folder / "squeezenet_caffe-caffe.json"
    path.write_text(verification.encoded(fixture))


if __name__ == "__main__":
    write()
