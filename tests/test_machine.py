"""What is told of a machine is true of it."""

import os
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import errors, machine

DEVICES = """
import jax, jax.numpy as jnp
from flaxnets import machine
first, second, *_ = jax.devices()
assert machine.default_device() == machine.select_device("auto") == first
assert machine.default_devices() == jax.devices()
with jax.default_device(second):
    assert machine.default_device() == machine.select_device("auto") == second
    assert jax.jit(lambda x: x + 1)(1.0).devices() == {second}
with jax.default_device("cpu"):
    assert machine.default_device() == first
jax.config.update("jax_default_device", second)
assert machine.default_device() == second
assert machine.select_device("cpu") == machine.default_device() == first
"""


def test_the_default_device_is_the_one_that_computes() -> None:
    flags = "--xla_force_host_platform_device_count=3"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", DEVICES], check=True, env=environment)


def test_the_default_device_holds_new_arrays() -> None:
    assert jnp.zeros(1).devices() == {machine.default_device()}
    assert machine.default_device() in machine.default_devices()


def test_an_absent_device_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        errors.DeviceError, match="--device abacus: no such device.*--device auto"
    ) as caught:
        machine.select_device("abacus")
    assert str(jax.devices()[0]) in str(caught.value)


PEAK = """
from flaxnets import machine
before = machine.peak_memory_bytes()
block = bytearray(200 << 20)
print(before, machine.peak_memory_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it exactly")
def test_peak_memory_is_the_process_s_own() -> None:
    """What its parent holds does not count; 200 MiB more of its own do."""
    block = np.ones(600 << 20, np.uint8)
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert before < block.nbytes
    assert after >= before + (190 << 20)


def test_peak_memory_without_proc_is_that_of_the_system(monkeypatch) -> None:
    def absent(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine, "open", absent, raising=False)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert machine.peak_memory_bytes() >= peak


def test_a_process_is_older_than_nothing_and_grows_older() -> None:
    first = machine.process_seconds()
    assert 0 < first <= machine.process_seconds()


def test_versions_name_python_and_jax() -> None:
    versions = machine.versions()
    assert versions["jax"] == jax.__version__
    assert versions["python"] == sys.version.split()[0]
