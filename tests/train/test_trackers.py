import builtins

import pytest

from flaxnets import errors
from flaxnets.train import trackers

RECORD = {"step": 5, "epoch": 1, "test_accuracy": 0.75, "name": "not a number"}


def test_tensorboard_events_hold_the_numbers(tmp_path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX.proto.event_pb2 import Event

    with trackers.tensorboard(tmp_path) as track:
        track(RECORD)
    (path,) = tmp_path.iterdir()
    content, values = path.read_bytes(), {}
    while content:
        # TFRecord: length, its checksum, the event, its checksum.
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            values[value.tag] = (event.step, value.simple_value)
        content = content[16 + length :]
    assert values == {"epoch": (5, 1.0), "test_accuracy": (5, 0.75)}


@pytest.mark.parametrize(
    ("open_tracker", "package"),
    [
        (lambda folder: trackers.tensorboard(folder), "tensorboardX"),
        (lambda folder: trackers.weights_and_biases(folder, {}), "wandb"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, open_tracker, package):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(errors.ArgumentError, match=f"{package}.*pip install"),
        open_tracker(tmp_path),
    ):
        pass
