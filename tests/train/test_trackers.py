import importlib.machinery
import sys
import types

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


def test_wandb_gets_config_and_numbers(monkeypatch, tmp_path) -> None:
    """Against a stand-in that records its calls, since wandb wants an account."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", values, step))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return Run()

    fake = types.ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with trackers.weights_and_biases(tmp_path, {"seed": 3}) as track:
        track(RECORD)
    options = {"project": "flaxnets", "dir": str(tmp_path), "config": {"seed": 3}}
    assert calls == [
        ("init", options),
        ("log", {"epoch": 1.0, "test_accuracy": 0.75}, 5),
        ("finish",),
    ]


@pytest.mark.parametrize(
    ("open_tracker", "package"),
    [
        (lambda folder: trackers.tensorboard(folder), "tensorboardX"),
        (lambda folder: trackers.weights_and_biases(folder, {}), "wandb"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, open_tracker, package):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(errors.ArgumentError, match=f"{package}.*pip install"),
        open_tracker(tmp_path),
    ):
        pass
