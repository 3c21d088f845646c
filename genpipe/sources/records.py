"""Binary records of fixed length: bytes of labels, then the pixels (C, H, W), as CIFAR's binary version has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genpipe.config import Field, settings
from genpipe.data.dataset import Dataset
from genpipe.errors import DataError
from genpipe.sources import _own


@settings
class Part:
    path: str = Field(min_length=1, description="file of records")
    split: _own.Split = Field(default="", description="split that the publisher put them into, if any")


@settings
class Config(_own.Own):
    files: tuple[Part, ...] = Field(min_length=1, description="files in order")
    shape: tuple[int, int, int] = Field(description="channels, height and width of each image")
    label_bytes: int = Field(default=1, ge=0, description="bytes before the pixels, of which the last is the class")


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for a file that is absent, or is not made of whole records."""
    for part in config.files:
        file, length = _own.existing(root, part.path), record_bytes(config)
        if file.stat().st_size % length or not file.stat().st_size:
            raise DataError(
                f"{file} of {file.stat().st_size} bytes is not made of records of {length} bytes each; "
                "mend ingest.source.shape or label_bytes (params.yaml), or get the file anew"
            )
    columns = ["split"] if any(part.split for part in config.files) else []
    source = ", ".join(part.path for part in config.files)
    return _own.about(config, source, classes(config, root), columns)


def classes(config: Config, root: Path) -> tuple[str, ...]:
    if not config.label_bytes or config.classes:
        return config.classes if config.label_bytes else ()
    return _own.numbers(1 + max(label for _, label, _ in records(config, root)), ())


def fingerprint(config: Config, root: Path) -> str:
    return str([_own.stamp(_own.existing(root, part.path)) for part in config.files])


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    like = describe(config, root)
    for pixels, label, split in records(config, root):
        (picture,) = _own.pictures(pixels[None].transpose(0, 2, 3, 1), "ingest.source.shape (params.yaml)")
        yield _own.example(np.ascontiguousarray(picture), label, split, None, like)


def records(config: Config, root: Path) -> Iterator[tuple[np.ndarray, int, str | None]]:
    """Pixels (C, H, W), label and split of one record after another."""
    length = record_bytes(config)
    for part in config.files:
        with _own.existing(root, part.path).open("rb") as file:
            while len(record := file.read(length)) == length:
                pixels = np.frombuffer(record, np.uint8, offset=config.label_bytes).reshape(config.shape)
                yield pixels, record[config.label_bytes - 1] if config.label_bytes else -1, part.split or None


def record_bytes(config: Config) -> int:
    return _own.bytes_of_one((1, *config.shape), 1, config.max_file_bytes, "ingest.source.shape") + config.label_bytes
