"""One batch on several devices: each takes its share, gradients are of the whole.

States are copied to every device and batches are divided; the compiler adds the
exchange of gradients, and statistics of a batch stay those of the whole batch.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxnets import errors, machine


class Devices:
    """The devices that share each batch: all of the kind that jax computes on.

    Args:
        batch_size: examples per step, over all devices.

    Raises:
        ArgumentError: the batch cannot be divided evenly.
    """

    def __init__(self, batch_size: int) -> None:
        devices = machine.default_devices()
        count = len(devices)
        if batch_size % count:
            below = batch_size // count * count
            around = f"{below} or " if below else ""
            raise errors.ArgumentError(
                f"batch_size is {batch_size}, but {count} devices share each batch: "
                f"it must be divisible by {count}, such as {around}{below + count}; "
                "to use fewer devices, hide some, e.g. with CUDA_VISIBLE_DEVICES"
            )
        self._mesh = Mesh(devices, ("batch",), axis_types=(AxisType.Auto,))
        # On one device, arrays need no placement, and programs are compiled for it.
        self.several = count > 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Devices) and self._mesh == other._mesh

    def __hash__(self) -> int:
        return hash(self._mesh)

    @property
    def copied(self) -> NamedSharding | None:
        """The sharding of arrays that every device holds whole."""
        return NamedSharding(self._mesh, PartitionSpec()) if self.several else None

    def divided(self, axis: int) -> NamedSharding | None:
        """The sharding of arrays whose `axis` is divided among the devices."""
        spec = PartitionSpec(*[None] * axis, "batch")
        return NamedSharding(self._mesh, spec) if self.several else None

    def copy(self, tree: Any) -> Any:
        """A tree's arrays on every device."""
        return jax.device_put(tree, self.copied)

    def divide(self, batch: Any) -> Any:
        """Inside a compiled function: a batch, divided along its first axis."""
        if not self.several:
            return batch
        return jax.lax.with_sharding_constraint(batch, self.divided(0))
