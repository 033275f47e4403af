"""Where a benchmark runs."""

import os
import platform
import subprocess
import sys
import time
from typing import Any


def facts(device: str) -> dict[str, Any]:
    """What a result says of the machine.

    Args:
        device: the kind of device that is measured.
    """
    return {
        "backend": device,
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "thread_settings": {
            name: value
            for name, value in os.environ.items()
            if name.endswith("_NUM_THREADS") or name == "XLA_FLAGS"
        },
    }


def device_kind(kind: str) -> str:
    """`cpu`, `gpu` or `tpu`: for `auto`, what jax would take.

    Asked in another process, since this one must not hold the accelerator's memory.
    """
    if kind != "auto":
        return kind
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    backend = found.stdout.split()[-1]
    return "gpu" if backend in ("cuda", "rocm") else backend


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
