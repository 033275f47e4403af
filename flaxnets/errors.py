"""The errors that flaxnets raises on purpose.

Each message names the file or argument, what was found, what was expected, and what
to do. A command line prints one of these without a traceback; anything else is a bug
and keeps its traceback.
"""

from typing import Any


class FlaxnetsError(Exception):
    """Base of every error that flaxnets raises on purpose."""


class ArgumentError(FlaxnetsError, ValueError):
    """An argument or option has a value that cannot be used."""


class DataError(FlaxnetsError, ValueError):
    """A data file or array is broken, or is not what it claims to be."""


class DownloadError(FlaxnetsError, OSError):
    """A file could not be fetched, or the fetched bytes are not the expected ones."""


class WeightsError(FlaxnetsError, ValueError):
    """A file of weights is broken, forged, or belongs to another model."""


class CheckpointError(FlaxnetsError, RuntimeError):
    """A checkpoint is damaged, absent, or belongs to another model."""


class RunFolderError(FlaxnetsError, RuntimeError):
    """A run folder cannot be used: in use, not writable, full, or of another run.

    Attributes:
        fitted: what was trained, where only its last checkpoint could not be written.
    """

    fitted: Any = None


class DeviceError(FlaxnetsError, RuntimeError):
    """A requested accelerator is absent, or ran out of memory."""


class DivergedError(FlaxnetsError, ArithmeticError):
    """Training produced a loss that is not finite."""
