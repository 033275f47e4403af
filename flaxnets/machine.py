"""What a run finds on its machine: devices, memory, versions, the process's age."""

import os
import resource
import sys
import time
from importlib import metadata
from typing import Any

import jax
import numpy as np

from flaxnets import errors

_IMPORTED = time.time()


def default_device() -> Any:
    """The device that computes now: jax's first, or the default that was set."""
    (device,) = jax.device_put(np.float32(0)).devices()
    return device


def default_devices() -> list[Any]:
    """All devices of the default one's kind that this process has."""
    return jax.local_devices(backend=default_device().platform)


def select_device(kind: str) -> Any:
    """Makes the first device of `kind` the default one and returns it.

    Args:
        kind: `auto` (jax's own choice), `cpu`, `gpu` or `tpu`.

    Raises:
        DeviceError: no such device; the message lists those that exist.
    """
    if kind == "auto":
        return default_device()
    try:
        device = jax.devices(kind)[0]
    except RuntimeError:
        found = ", ".join(str(device) for device in jax.devices())
        raise errors.DeviceError(
            f"--device {kind}: no such device here; the devices found are: {found}. "
            "Use --device auto, or install jax for that accelerator (see README)"
        ) from None
    jax.config.update("jax_default_device", device)
    return device


def process_seconds() -> float:
    """Seconds since this process was started (since this import, off Linux)."""
    try:
        with open("/proc/self/stat") as file:
            # The second field is the command in parentheses and may hold spaces.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime") as file:
            uptime = float(file.read().split()[0])
    except OSError:
        return time.time() - _IMPORTED
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had, in bytes."""
    # Linux's getrusage keeps the size of the parent that started this program.
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return _usage_bytes()


def _usage_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Python's and the main packages' versions."""
    packages = ("flaxnets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    return {"python": sys.version.split()[0]} | {
        package: metadata.version(package) for package in packages
    }
