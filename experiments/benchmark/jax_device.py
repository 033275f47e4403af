"""The device and precision of workers that run on jax."""

from typing import Any

import jax

from experiments.benchmark import job as jobs


def select(job: jobs.Job | jobs.NetworkJob) -> dict[str, Any]:
    """Sets the precision of a job's matrix products; says where jax runs it.

    Raises:
        DeviceMissing: jax's default device is not of the job's kind.
    """
    device = jax.devices()[0]
    backend = "gpu" if device.platform in ("gpu", "cuda", "rocm") else device.platform
    if backend != job.device:
        raise jobs.DeviceMissing(f"this build of jax sees no {job.device}")
    if backend != "cpu":
        precision = "tensorfloat32" if job.tf32 else "highest"
        jax.config.update("jax_default_matmul_precision", precision)
    return {"backend": backend, "device": device.device_kind}
