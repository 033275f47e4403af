"""A worker's process: `python -m experiments.benchmark.worker CONTENDER JOB`.

Prints one JSON line. Times are `time.time()`, to be set against the moment at which
the parent started the process.
"""

import importlib
import os
from importlib import metadata, util
from typing import Any

from experiments.benchmark import job as jobs
from experiments.benchmark.contenders import CONTENDERS, FLOOR, Contender

# Benchmarks that hold the parts of all libraries themselves.
_WITH_ALL = (
    (jobs.TransferJob, "experiments.benchmark.workers.transfer"),
    (jobs.PicturesJob, "experiments.benchmark.pictures"),
    (jobs.UnpoolingJob, "experiments.benchmark.workers.unpooling"),
    (jobs.AttackJob, "experiments.benchmark.workers.attacks"),
)

# Where a package's distribution has another name.
_DISTRIBUTIONS = {"tensorflow": ("tensorflow", "tensorflow-cpu")}


def main() -> None:
    """Does the job that the command line holds."""
    name, job = jobs.asked()
    contender = {**CONTENDERS, FLOOR.name: FLOOR}[name]
    missing = [package for package in contender.requires if not util.find_spec(package)]
    if missing:
        jobs.answer(
            status="not installed", message=f"{', '.join(missing)} not installed"
        )
        return
    try:
        measured = work(contender, job)
    except jobs.DeviceMissing as error:
        jobs.answer(status="no device", message=str(error))
        return
    except jobs.NetworkMissing as error:
        jobs.answer(status="no network", message=str(error))
        return
    jobs.answer(
        status="ok",
        **measured,
        peak_memory_bytes=peak_memory_bytes(),
        visible_cpus=len(os.sched_getaffinity(0)),
        versions={package: version(package) for package in contender.requires},
    )


def work(contender: Contender, job: jobs.AnyJob) -> dict[str, Any]:
    """Does a contender's job, with its library alone."""
    for kind, name in _WITH_ALL:
        if isinstance(job, kind):
            module = importlib.import_module(name)
            return module.work(contender, job)
    ending = "_networks" if isinstance(job, jobs.NetworkJob) else ""
    module = importlib.import_module(
        f"experiments.benchmark.workers.{contender.module}{ending}"
    )
    return getattr(module, job.kind)(job)


def version(package: str) -> str:
    """The installed version of a package."""
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had, in bytes.

    Not `getrusage`, which on Linux carries the parent's size across fork and exec.
    """
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
