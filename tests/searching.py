"""Looking for an example in every file below a folder, whatever the file is called and however it packs its bytes."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

ENLARGED_TO = 48  # about, in pictures of several examples


def holding(root: Path, pixels: np.ndarray, png: bytes) -> set[str]:
    """The files below `root`, by name, that hold or show an example: its (H, W) uint8 `pixels`, or its `png`."""
    files = (file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix() for file in files if holds(file.read_bytes(), pixels, png)}


def holds(content: bytes, pixels: np.ndarray, png: bytes) -> bool:
    needles = (pixels.tobytes(), png)
    return any(needle in part for part in parts(content) for needle in needles) or shows(content, pixels)


def parts(content: bytes) -> Iterator[bytes]:
    """The bytes as they are, and what Parquet or an archive has packed into them."""
    yield content
    if content.startswith(b"PAR1"):
        for column in pq.read_table(io.BytesIO(content)).flatten().columns:
            yield from (value for value in column.to_pylist() if isinstance(value, bytes))
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif content.startswith(b"\x1f\x8b"):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            yield from (file.read() for member in archive if (file := archive.extractfile(member)))


def shows(content: bytes, pixels: np.ndarray) -> bool:
    """Whether the content is a picture with the example in it, enlarged as `modality.picture` does."""
    if not content.startswith(b"\x89PNG"):
        return False
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    factor = max(1, round(ENLARGED_TO / len(pixels)))
    small = sheet[factor // 2 :: factor, factor // 2 :: factor]
    if small.shape[0] < pixels.shape[0] or small.shape[1] < pixels.shape[1]:
        return False
    return bool((sliding_window_view(small, pixels.shape) == pixels).all((2, 3)).any())
