"""What the studies' command lines share."""

import dataclasses
from collections.abc import Collection
from typing import Any

from flaxnets import errors, train


def options(config: Any, *, without: Collection[str]) -> list[str]:
    """The options of a command line that make a study's config, defaults left out.

    Args:
        config: a dataclass.
        without: names of fields that are left out.
    """
    words = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name in without or value == default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


def at_least_one(config: Any, names: Collection[str]) -> None:
    """Raises ArgumentError where one of these fields of a config is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise errors.ArgumentError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}, but must be "
                "at least 1"
            )


def bytes_of(megabytes: int | None) -> int | None:
    """A limit in bytes, where there is one."""
    return None if megabytes is None else megabytes << 20


def whole(fitted: train.Fitted) -> None:
    """Ends a study where its training was stopped by a signal."""
    if fitted.stopped == "SIGINT":
        raise KeyboardInterrupt
    if fitted.stopped == "SIGTERM":
        raise SystemExit(143)
