"""The benchmark of a head on a frozen VGG-16: a tiny run, arithmetic, errors."""

import dataclasses
import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import inputs, processes, transfer
from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import CONTENDERS, Contender
from experiments.benchmark.workers import transfer as in_workers
from flaxnets import errors, models, params

ROOT = Path(__file__).parents[3]
TINY: dict[str, Any] = {
    "rounds": 1,
    "pictures": 8,
    "size": 32,
    "batch_size": 2,
    "epochs": 2,
    "device": "cpu",
}

needs_pytorch = pytest.mark.skipif(
    util.find_spec("torch") is None or util.find_spec("torchvision") is None,
    reason="PyTorch or torchvision is not installed",
)


@needs_pytorch
def test_a_tiny_run_and_a_contender_that_does_other_work(tmp_path, monkeypatch) -> None:
    """PyTorch, once as it is and once with steps that are twice as long."""
    honest = processes.run

    def run(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
        if contender.name == "pytorch-channels-last":
            rate = 2 * job.learning_rate
            job = dataclasses.replace(job, learning_rate=rate)
        return honest(contender, job)

    monkeypatch.setattr(processes, "run", run)
    names = ("pytorch", "pytorch-channels-last")
    config = transfer.Config(contenders=names, out=tmp_path, **TINY)
    assert transfer.run(config) == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["complete"] and not result["skipped"]
    (failure,) = result["failures"]
    assert failure.startswith("pytorch-channels-last: early losses differs by")
    checks = [o for o in result["outcomes"] if o["kind"] == "check"]
    assert [(o["contender"], o["stored"], o["status"]) for o in checks] == [
        ("flaxnets", True, "ok"),
        ("flaxnets", False, "ok"),
        ("pytorch", False, "ok"),
        ("pytorch-channels-last", False, "other work"),
    ]
    # The same sums of float32 in another order, over thirteen layers.
    assert all(max(o["differences"].values()) < 1e-5 for o in checks[:3])
    trained = [o for o in result["outcomes"] if o["kind"] == "train"]
    assert [(o["contender"], o["stored"]) for o in trained] == [
        ("flaxnets", True),
        ("flaxnets", False),
        ("pytorch", False),
    ]
    for outcome in trained:
        assert outcome["total_seconds"] > sum(outcome["epoch_seconds"]) > 0
        assert len(outcome["epoch_seconds"]) == TINY["epochs"] - 1
    stored, plain, peer = trained
    total, epoch = result["summary"]["total"], result["summary"]["epoch"]
    assert total["fastest_peer"] == epoch["fastest_peer"] == "pytorch"
    ratio = stored["total_seconds"] / peer["total_seconds"]
    assert total["ratio_to_fastest_peer"]["median"] == pytest.approx(ratio)
    ratio = plain["epoch_seconds"][0] / peer["epoch_seconds"][0]
    assert epoch["ratio_to_fastest_peer"]["median"] == pytest.approx(ratio)
    assert {"flaxnets", "jax", "torch"} <= result["versions"].keys()
    assert result["config"]["pictures"] == TINY["pictures"]
    table = (tmp_path / "table.txt").read_text()
    assert "2 epochs of 8 x 32x32, batch 2" in table and f"failed: {failure}" in table
    assert (tmp_path / "plot.png").exists()


def answer(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
    """As workers answer: flaxnets passes once in 4 s, then its epochs take 0.5 s."""
    seconds: dict[str, Any] = {
        True: {"total_seconds": 13.0, "pass_seconds": 4.0, "epoch_seconds": [0.5] * 4},
        False: {
            "total_seconds": 60.0,
            "pass_seconds": 0.0,
            "epoch_seconds": [10.0, 99.0, 10.0, 9.0],
        },
    }[job.stored]
    if contender.name == "flaxnets" and not job.stored:
        seconds["epoch_seconds"] = [9.0] * 4
    return {
        "contender": contender.name,
        "kind": job.kind,
        "batch_size": job.batch_size,
        "status": "ok",
        "backend": job.device,
        "device": f"some {job.device}",
        "peak_memory_bytes": 1,
        "losses": [0.7, 0.6],
        "compile_seconds": 7.0 if contender.name == "flaxnets" else 2.0,
        **seconds,
    }


def unlike(outcome: processes.Outcome, status: str, message: str) -> processes.Outcome:
    """The same worker, when it did not do its job."""
    kept = {name: outcome[name] for name in ("contender", "kind", "batch_size")}
    return {**kept, "status": status, "message": message}


def test_what_is_compared_with_what(tmp_path, monkeypatch) -> None:
    """Totals with the store, epochs without it; the peers' trainings in both."""

    def run(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
        outcome = answer(contender, job)
        if contender.name == "keras-jax":
            return unlike(outcome, "not installed", "keras not installed")
        return outcome

    monkeypatch.setattr(processes, "run", run)
    assert transfer.run(transfer.Config(out=tmp_path, device="cpu")) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    found = result["summary"]
    measured = CONTENDERS.keys() - {"keras-jax"}
    assert found["total"]["rows"].keys() == found["epoch"]["rows"].keys() == measured
    assert found["total"]["rows"]["flaxnets"]["rounds"] == 3
    # 13/60; (13 - 7)/(60 - 2); 9/10, the median of a peer's epochs.
    for name, ratio in (
        ("total", 13 / 60),
        ("total_without_compilation", 6 / 58),
        ("epoch", 0.9),
    ):
        assert found[name]["ratio_to_fastest_peer"]["median"] == pytest.approx(ratio)
    assert found["total"]["pass_seconds"]["median"] == 4.0
    table = (tmp_path / "table.txt").read_text()
    assert "flaxnets: 4.0 s for the features, then 0.500 s an epoch" in table
    assert "0.22 (0.22 to 0.22), within 0.3\n" in table
    assert "0.90 (0.90 to 0.90), within 0.95\n" in table
    assert "skipped: keras-jax: keras not installed" in table


def test_a_ratio_above_its_bar_is_said(tmp_path, monkeypatch) -> None:
    def run(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
        outcome = answer(contender, job)
        slow = 2.0 if contender.name == "flaxnets" else 1.0
        return {**outcome, "total_seconds": slow * outcome["total_seconds"]}

    monkeypatch.setattr(processes, "run", run)
    assert transfer.run(transfer.Config(out=tmp_path, device="cpu")) == 0
    assert "0.43 (0.43 to 0.43), above 0.3\n" in (tmp_path / "table.txt").read_text()


@pytest.mark.parametrize("kind", ["check", "train"])
def test_failures_are_named_and_the_others_measured(
    kind, tmp_path, monkeypatch
) -> None:
    def run(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
        outcome = answer(contender, job)
        fails = (contender.name, job.kind) == ("pytorch", kind)
        return unlike(outcome, "failed", "it broke") if fails else outcome

    monkeypatch.setattr(processes, "run", run)
    assert transfer.run(transfer.Config(rounds=1, out=tmp_path, device="cpu")) == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["failures"] == [f"pytorch ({kind}): it broke"]
    assert result["summary"]["total"]["rows"].keys() == CONTENDERS.keys() - {"pytorch"}
    assert f"failed: pytorch ({kind}): it broke" in (tmp_path / "table.txt").read_text()


def test_without_flaxnets_there_is_nothing_to_compare(tmp_path, monkeypatch) -> None:
    def run(contender: Contender, job: jobs.TransferJob) -> processes.Outcome:
        return unlike(answer(contender, job), "no device", "jax sees no gpu")

    monkeypatch.setattr(processes, "run", run)
    with pytest.raises(errors.DeviceError, match="cannot run: jax sees no gpu"):
        transfer.run(transfer.Config(out=tmp_path, device="gpu"))


def test_a_check_alone_replaces_no_measurement(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "run", answer)
    monkeypatch.setattr(transfer, "__file__", str(tmp_path / "transfer.py"))
    assert transfer.run(transfer.Config(device="cpu", check=True)) == 0
    assert not list(tmp_path.rglob("result.json"))


def test_compilation_is_what_the_first_time_takes_longer(monkeypatch) -> None:
    """On a clock that the work itself moves."""
    now = [100.0]
    passes, epochs = iter([5.0, 3.0]), [12.0, 4.0, 6.0]

    def begin() -> None:
        now[0] += next(passes)

    def fit(ended: Any) -> None:
        for seconds in epochs:
            now[0] += seconds
            ended()

    training = in_workers.Training({"backend": "cpu"}, begin, fit, dict)
    monkeypatch.setattr(in_workers, "in_pytorch", lambda job: training)
    monkeypatch.setattr(in_workers.time, "perf_counter", lambda: now[0])
    job = jobs.TransferJob("train", "", 1, "cpu", False, 0, "", "", 3, 0.1, False)
    outcome = in_workers.work(CONTENDERS["pytorch"], job)
    assert outcome["total_seconds"] == 27.0
    assert outcome["epoch_seconds"] == [4.0, 6.0]
    # The first pass and epoch took 17; warm, they take 3 and, in the median, 5.
    assert outcome["compile_seconds"] == 9.0
    assert transfer.warm_seconds(outcome) == 18.0


def test_the_parameters_are_those_of_the_network() -> None:
    """By the module's own names and shapes, with the deviations of the papers."""
    weights = inputs.transfer_weights(64, 0)
    network = models.WithHead(
        models.build("vgg16", num_classes=None), models.Head(inputs.CLASSES)
    )
    expected = params.abstract(network, (1, 64, 64, 3))["params"]
    assert not params.differences(expected, params.unflatten(weights))
    kernel = weights["backbone/block5/conv3/kernel"]
    # Of 2.4 million draws, whose deviation is known to 0.05%.
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=2e-3)
    kernel = weights["head/dense1/kernel"]
    limit = np.sqrt(6 / (inputs.transfer_features(64) + 50))
    assert 0.99 * limit < kernel.max() <= limit
    assert all(value.dtype == np.float32 for value in weights.values())
    assert not any(weights[name].any() for name in weights if name.endswith("bias"))


@pytest.mark.parametrize(
    "job",
    [
        jobs.TransferJob("train", "", 1, "cpu", False, 0, "", "", 3, 0.1, False),
        jobs.NetworkJob(
            "forward", "", "vgg16", 1, 32, "float32", "cpu", False, 0, 1, 1
        ),
        jobs.Job("check", "", 1, "cpu", False, 0, "", "", 1, 0.5, 1),
    ],
)
def test_a_worker_is_told_which_job_it_has(job, monkeypatch) -> None:
    text = json.dumps(dataclasses.asdict(job))
    monkeypatch.setattr(sys, "argv", ["worker", "flaxnets", text])
    assert jobs.asked() == ("flaxnets", job)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "--rounds is 0, but must be at least 1"),
        ({"pictures": 1}, "--pictures is 1, but must be at least 2"),
        ({"pictures": 40}, "--pictures is 40, .* a multiple of --batch-size, 32"),
        ({"size": 31}, "--size is 31, but must be at least 32"),
        ({"batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        ({"epochs": 1}, "--epochs is 1, but must be at least 2"),
        ({"seed": -1}, "--seed is -1, but must be at least 0"),
        ({"contenders": ("torch",)}, "--contenders torch: unknown; .* pytorch"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, monkeypatch) -> None:
    # So that one that is let through measures nothing.
    monkeypatch.delattr(processes, "run")
    with pytest.raises(errors.ArgumentError, match=message):
        transfer.run(transfer.Config(**options))


def test_a_mistake_gets_one_clear_line() -> None:
    options = "transfer --out pyproject.toml".split()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert "--out pyproject.toml: a file" in done.stderr
    assert "Traceback" not in done.stderr
