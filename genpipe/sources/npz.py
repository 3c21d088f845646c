"""NumPy archives: arrays of images, and perhaps of labels, by name. Arrays of objects, which are pickles, are refused.

An array is read piece by piece, so that an archive may be larger than memory.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from genpipe.config import Field, settings
from genpipe.data import archives
from genpipe.data.dataset import Dataset
from genpipe.errors import DataError
from genpipe.sources import _own


@settings
class Config(_own.Own):
    path: str = Field(pattern=r"\.npz$", description="the file, seen from the project's root")
    arrays: tuple[_own.Part, ...] = Field(min_length=1, description="one entry a split, or one in all")
    unpack: archives.Limits = archives.Limits()


class Npy(NamedTuple):
    """An array of the archive, at the first of its values."""

    name: str
    values: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for an array that is absent, of objects, or of no shape that images or labels have."""
    file = _own.existing(root, config.path)
    check_size(file, config.unpack)
    highest = max((highest_label(file, part) for part in config.arrays), default=-1)
    columns = ["split"] if any(part.split for part in config.arrays) else []
    classes = _own.numbers(highest + 1, config.classes) if highest >= 0 else ()
    return _own.about(config, config.path, classes, columns)


def fingerprint(config: Config, root: Path) -> str:
    return str(_own.stamp(_own.existing(root, config.path)))


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    like, file = describe(config, root), _own.existing(root, config.path)
    for part in config.arrays:
        labels = labels_of(file, part)
        for array in pieces(file, part.images, config.max_file_bytes):
            for picture in _own.pictures(array, f"{config.path}, array '{part.images}',"):
                yield _own.example(picture, next(labels, None), part.split or None, None, like)


def highest_label(file: Path, part: _own.Part) -> int:
    """-1 without labels. Raises DataError when they are no whole numbers, or not as many as images."""
    if not part.labels:
        return -1
    with opened(file, part.images) as images, opened(file, part.labels) as labels:
        count = images.shape[0] if images.shape else 0
        if labels.dtype.kind not in "ui" or labels.shape not in ((count,), (count, 1)):
            raise DataError(
                f"{file}, array '{part.labels}', holds {labels.dtype} of shape {labels.shape}; it must hold {count} "
                f"whole numbers, one for each example of '{part.images}'"
            )
    return max(labels_of(file, part), default=-1)


def labels_of(file: Path, part: _own.Part) -> Iterator[int]:
    if part.labels:
        for array in pieces(file, part.labels, 8):
            yield from array.reshape(-1).astype(np.int64).tolist()


def pieces(file: Path, name: str, limit: int) -> Iterator[np.ndarray]:
    """The array `name`, (n, …) at a time."""
    with opened(file, name) as array:
        size = _own.bytes_of_one(array.shape, array.dtype.itemsize, limit, f"{file}, array '{name}',")
        for count in _own.at_a_time(array.shape[0], size):
            content = array.values.read(count * size)
            if len(content) < count * size:
                raise DataError(f"{file}, array '{name}', ends before its head says; get it anew")
            yield np.frombuffer(content, array.dtype).reshape(count, *array.shape[1:])


def check_size(file: Path, limits: archives.Limits) -> None:
    """Raises DataError for an archive beyond `limits`; no more is read of an array than the directory says of it."""
    budget = archives.Budget(file, limits, file.stat().st_size)
    with listed(file) as archive:
        for entry in archive.infolist():
            budget.entry()
            budget.take(entry.file_size, entry.filename)


@contextmanager
def listed(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DataError(f"{file} can't be read as .npz: {error}; save it anew with np.savez") from error


@contextmanager
def opened(file: Path, name: str) -> Iterator[Npy]:
    """Raises DataError when there is no such array, when it holds objects, and for what is no .npz file."""
    with listed(file) as archive:
        known = [member.removesuffix(".npy") for member in archive.namelist()]
        if name not in known:
            raise DataError(f"{file} has no array '{name}'; it holds {', '.join(known)}")
        with archive.open(f"{name}.npy") as values:
            head = npy.read_array_header_1_0 if npy.read_magic(values) == (1, 0) else npy.read_array_header_2_0
            shape, columns_first, dtype = head(values)
            if dtype.hasobject:
                raise DataError(f"{file}, array '{name}', holds Python objects: a pickle, which is never loaded")
            if (columns_first and len(shape) > 1) or not shape:
                raise DataError(f"{file}, array '{name}', must be stored row by row: `np.ascontiguousarray` it")
            yield Npy(name, values, dtype, shape)
