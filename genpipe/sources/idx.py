"""IDX files, as MNIST and its kin are published: a file of images and perhaps one of labels, gzipped or not.

Format: two zero bytes, the type, the number of dimensions, each dimension as a big-endian uint32, then the values.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from genpipe.config import Field, settings
from genpipe.data import archives
from genpipe.data.dataset import Dataset
from genpipe.errors import DataError
from genpipe.sources import _own

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@settings
class Config(_own.Own):
    files: tuple[_own.Part, ...] = Field(min_length=1, description="one entry a split, or one in all")
    unpack: archives.Limits = archives.Limits()


class Idx(NamedTuple):
    """An open file at the first of its values."""

    file: Path
    values: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for a file that is absent, broken or of another format."""
    for name in names(config):
        check_size(_own.existing(root, name), config.unpack)
    highest = max((highest_label(root, part) for part in config.files), default=-1)
    columns = ["split"] if any(part.split for part in config.files) else []
    source = ", ".join(part.images for part in config.files)
    return _own.about(config, source, _own.numbers(highest + 1, config.classes) if highest >= 0 else (), columns)


def fingerprint(config: Config, root: Path) -> str:
    return str([_own.stamp(_own.existing(root, name)) for name in names(config)])


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    like = describe(config, root)
    for part in config.files:
        images = arrays(_own.existing(root, part.images), config.max_file_bytes)
        labels = (int(label) for label in labels_of(root, part))
        for array in images:
            for picture in _own.pictures(array, part.images):
                yield _own.example(picture, next(labels, None), part.split or None, None, like)


def names(config: Config) -> list[str]:
    return [name for part in config.files for name in (part.images, part.labels) if name]


def check_size(file: Path, limits: archives.Limits) -> None:
    """Raises DataError for a packed file whose head promises more than `limits` allow; no more than that is read."""
    with opened(file) as idx:
        if isinstance(idx.values, gzip.GzipFile):
            budget = archives.Budget(file, limits, file.stat().st_size)
            budget.take(math.prod(idx.shape) * idx.dtype.itemsize)


def highest_label(root: Path, part: _own.Part) -> int:
    """-1 without labels. Raises DataError when there are not as many as images."""
    if not part.labels:
        return -1
    with opened(_own.existing(root, part.images)) as images, opened(_own.existing(root, part.labels)) as labels:
        if labels.dtype.kind not in "ui" or len(labels.shape) != 1 or labels.shape[0] != images.shape[0]:
            raise DataError(
                f"{labels.file} holds {labels.dtype.name} of shape {labels.shape} beside images of shape "
                f"{images.shape}; it must hold one whole number an image (ingest.source.files in params.yaml)"
            )
    return max(labels_of(root, part), default=-1)


def labels_of(root: Path, part: _own.Part) -> Iterator[int]:
    if part.labels:
        for array in arrays(_own.existing(root, part.labels), 8):
            yield from array.astype(np.int64).tolist()


def arrays(file: Path, limit: int) -> Iterator[np.ndarray]:
    """The values in pieces of about a megabyte, each (n, …). Raises DataError when the file ends early or goes on."""
    with opened(file) as idx:
        size = _own.bytes_of_one(idx.shape, idx.dtype.itemsize, limit, str(file))
        for count in _own.at_a_time(idx.shape[0], size):
            content = read(idx.values, count * size, file)
            yield np.frombuffer(content, idx.dtype).reshape(count, *idx.shape[1:])
        if idx.values.read(1):
            raise DataError(
                f"{file} goes on after the {math.prod(idx.shape)} values that its head promises; get it anew"
            )


@contextmanager
def opened(file: Path) -> Iterator[Idx]:
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(file) if packed else file.open("rb") as values:
        zeros, kind, dimensions = struct.unpack(">HBB", read(values, 4, file))
        if zeros or kind not in TYPES or not dimensions:
            raise DataError(
                f"{file} is no IDX file: it must begin with two zero bytes, a type and its dimensions "
                "(ingest.source.files in params.yaml)"
            )
        shape = struct.unpack(f">{dimensions}I", read(values, 4 * dimensions, file))
        yield Idx(file, values, np.dtype(TYPES[kind]), shape)  # type: ignore[arg-type]  # gzip's file is no IO[bytes]


def read(values: Any, count: int, file: Path) -> bytes:
    """Exactly `count` bytes. Raises DataError when the file is broken or ends before."""
    try:
        content: bytes = values.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file} can't be unpacked: {error}; get it anew") from error
    if len(content) < count:
        raise DataError(f"{file} ends {count - len(content)} bytes before its head says; get it anew")
    return content
