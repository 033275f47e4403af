"""Workers in processes of their own, which never outlive the benchmark."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.benchmark.contenders import Contender
from experiments.benchmark.job import AnyJob

ROOT = Path(__file__).parents[2]

# Far above what any job takes, so that one that hangs ends the wait.
TIMEOUT_SECONDS = 1800

Outcome = dict[str, Any]


def run(contender: Contender, job: AnyJob) -> Outcome:
    """Starts a worker, waits for it, and returns what it answered.

    Returns:
        `contender`, `job`, `status` (`ok`, `not installed`, `no device`, `no
        network` or `failed`),
        and the worker's fields; with `ok` its moments also as seconds since the
        process was started, and with another status a `message`.
    """
    command = [sys.executable, "-m", "experiments.benchmark.worker", contender.name]
    command.append(json.dumps(dataclasses.asdict(job)))
    with tempfile.TemporaryDirectory(prefix="benchmark-cache-") as cache:
        started_at = time.time()
        code, output, complaints = _finished(
            command, environment(contender, job, Path(cache))
        )
    answer = _answer(code, output, complaints)
    outcome: Outcome = {
        "contender": contender.name,
        "kind": job.kind,
        "batch_size": job.batch_size,
        "seed": job.seed,
        "started_at": started_at,
        **answer,
    }
    if "first_step_at" in outcome:
        outcome["first_step_seconds"] = outcome["first_step_at"] - started_at
    if "accuracies" in outcome:
        outcome["race"] = [
            {"seconds": moment - started_at, "test_accuracy": accuracy}
            for moment, accuracy in outcome.pop("accuracies")
        ]
    return outcome


def environment(contender: Contender, job: AnyJob, cache: Path) -> dict[str, str]:
    """A worker's environment: its device, and compilation caches that begin empty."""
    variables = {**os.environ, **contender.environment}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    variables |= {
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if job.device == "cpu":
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    return variables


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit(143), so that a worker under way is ended too."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finished(command: list[str], variables: dict[str, str]) -> tuple[int, str, str]:
    with _started(command, variables) as process:
        try:
            output, complaints = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return 1, "", f"no answer after {TIMEOUT_SECONDS} seconds"
    return process.returncode, output, complaints


@contextlib.contextmanager
def _started(
    command: list[str], variables: dict[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    """A process that ends, with the helpers that it started, when the block does."""
    # Between its start and the block nobody would end it.
    held = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A session of its own, whose every process can be told to end.
            start_new_session=True,
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        raise
    with process:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # After Ctrl-C the block's own end would wait a quarter of a second only.
            process.wait()


def _answer(code: int, output: str, complaints: str) -> dict[str, Any]:
    """The worker's answer: the last line of its output."""
    lines = output.strip().splitlines()
    if code == 0 and lines:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(lines[-1])
    said = (complaints.strip() or output.strip()).splitlines()
    ending = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return {
        "status": "failed",
        "message": f"{ending}: {said[-1].strip() if said else 'it said nothing'}",
        "complaints": said[-20:],
    }
