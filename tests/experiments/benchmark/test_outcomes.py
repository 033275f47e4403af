"""What becomes of workers that are absent or fail, and of what they found."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark import mnist, processes
from experiments.benchmark.contenders import CONTENDERS, Contender
from experiments.benchmark.job import Job

JOB = Job(
    kind="check",
    variant="",
    batch_size=1,
    device="cpu",
    tf32=False,
    seed=0,
    data="",
    weights="",
    windows=1,
    target=0.5,
    max_epochs=1,
)
LOSSES = {"losses": [2.0], "mean_loss": 2.0, "test_loss": 2.0, "test_accuracy": 0.5}
ANSWERS: dict[str, dict[str, Any]] = {
    "check": {"paper": LOSSES, "keras": LOSSES},
    "steps": {
        "first_step_seconds": 1.0,
        "compile_seconds": None,
        "window_steps": 10,
        "window_seconds": [0.02],
    },
    "race": {"race": [{"seconds": 3.0, "test_accuracy": 0.995}]},
    "floor": {"floor_seconds": 3e-4, "product_seconds": 2e-4, "adam_seconds": 1e-4},
}


def answer(contender: Contender, job: Job) -> processes.Outcome:
    """As a worker answers that does everything in no time."""
    return {
        "contender": contender.name,
        "kind": job.kind,
        "batch_size": job.batch_size,
        "status": "ok",
        "backend": job.device,
        "device": f"some {job.device}",
        "peak_memory_bytes": 1,
        **ANSWERS[job.kind],
    }


def unlike(outcome: processes.Outcome, status: str, message: str) -> processes.Outcome:
    """The same worker, when it did not do its job."""
    kept = {name: outcome[name] for name in ("contender", "kind", "batch_size")}
    return {**kept, "status": status, "message": message}


def benchmark(
    out: Path | None, batch_sizes: tuple[int, ...] = (16,), **options: Any
) -> int:
    return mnist.run(
        mnist.Config(
            dataset="digits",
            rounds=1,
            batch_sizes=batch_sizes,
            steps=10,
            out=out,
            **options,
        )
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_absent_peers_are_skipped_and_said_to_be(device, tmp_path, monkeypatch) -> None:
    def run(contender: Contender, job: Job) -> processes.Outcome:
        outcome = answer(contender, job)
        if contender.name == "keras-jax":
            return unlike(outcome, "not installed", "keras not installed")
        if contender.name == "pytorch":
            return unlike(outcome, "no device", f"no {job.device} for it")
        return outcome

    monkeypatch.setattr(processes, "run", run)
    assert benchmark(tmp_path, device=device) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["complete"] and not result["failures"]
    assert (result["device"] == "some gpu") == (device == "gpu")
    absent = {"keras-jax": "keras not installed", "pytorch": f"no {device} for it"}
    assert result["skipped"] == absent
    measured = CONTENDERS.keys() - absent.keys()
    assert result["summary"]["steps"]["16"]["rows"].keys() == measured
    table = (tmp_path / "table.txt").read_text()
    for name, reason in absent.items():
        assert f"skipped: {name}: {reason}" in table
    assert (tmp_path / "plot.png").exists()


@pytest.mark.parametrize("kind", ["check", "steps", "race", "floor"])
def test_failures_are_named_and_the_others_measured(
    kind, tmp_path, monkeypatch
) -> None:
    name = "floor" if kind == "floor" else "pytorch"

    def run(contender: Contender, job: Job) -> processes.Outcome:
        outcome = answer(contender, job)
        fails = (contender.name, job.kind) == (name, kind)
        return unlike(outcome, "failed", "it broke") if fails else outcome

    monkeypatch.setattr(processes, "run", run)
    assert benchmark(tmp_path, device="cpu") == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["complete"] and not result["skipped"]
    assert result["failures"] == [f"{name} ({kind}): it broke"]
    others = CONTENDERS.keys() - {"pytorch"}
    assert others <= result["summary"]["steps"]["16"]["rows"].keys()
    assert others <= result["summary"]["race"]["rows"].keys()
    assert f"failed: {name} ({kind}): it broke" in (tmp_path / "table.txt").read_text()
    assert (tmp_path / "plot.png").exists()


def test_the_race_can_be_measured_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "run", answer)
    assert benchmark(tmp_path, batch_sizes=(), device="cpu") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["summary"]["steps"] == {}
    assert result["summary"]["race"]["rows"].keys() == CONTENDERS.keys()
    assert "median of 1 rounds" in (tmp_path / "table.txt").read_text()
    assert (tmp_path / "plot.png").exists()


def test_a_check_alone_replaces_no_measurement(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "run", answer)
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "mnist.py"))
    assert benchmark(None, device="cpu") == 0
    (measured,) = tmp_path.rglob("result.json")
    before = measured.read_bytes()
    assert benchmark(None, device="cpu", check=True) == 0
    assert measured.read_bytes() == before
    assert benchmark(tmp_path / "check", device="cpu", check=True) == 0
    assert (tmp_path / "check/result.json").exists()


@pytest.mark.parametrize(
    ("module", "code", "status", "message"),
    [
        (
            "sitecustomize",
            "import sys; sys.modules['torch'] = None",
            "not installed",
            "torch not installed",
        ),
        ("torch", "raise OSError('broken')", "failed", "exit code 1: OSError: broken"),
        (
            "torch",
            "import os; os.kill(os.getpid(), 9)",
            "failed",
            "ended by signal 9: it said nothing",
        ),
    ],
)
def test_a_worker_says_why_it_has_no_answer(
    module, code, status, message, tmp_path, monkeypatch
) -> None:
    """With a module that is found before those installed."""
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = processes.run(CONTENDERS["pytorch"], JOB)
    assert (outcome["status"], outcome["message"]) == (status, message)
