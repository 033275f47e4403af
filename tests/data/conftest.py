"""Data sets as files, small enough for tests."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flaxnets.data import idx

WriteIdx = Callable[..., Path]


@pytest.fixture
def write_idx() -> WriteIdx:
    """A function that fills a folder with the four IDX files, gzipped or not."""

    def write(folder: Path, *, count: int = 12, suffix: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(count)
        images = generator.integers(0, 256, (count, 5, 5)).astype(np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        for name in idx.FILES:
            values = images if "images" in name else labels
            header = bytes([0, 0, 8, values.ndim])
            header += struct.pack(f">{values.ndim}I", *values.shape)
            content = header + values.tobytes()
            if suffix == ".gz":
                content = gzip.compress(content)
            (folder / f"{name}{suffix}").write_bytes(content)
        return folder

    return write
