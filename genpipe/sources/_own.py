"""What the sources of a user's own data share: the settings that say what the data are, and paths, splits, classes."""

import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genpipe.config import Field, settings
from genpipe.data.dataset import Dataset
from genpipe.data.rows import Later
from genpipe.errors import ConfigError, DataError, OutOfReachError

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val"), "validation")
MOST_CLASSES = 100_000
Split = Literal["", "train", "validation", "test"]


@settings
class Own:
    """What a user says of the data; it travels into dataset.yaml and from there into the model card."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="name of the data set and of its folder in data/: letters, digits, '.', '_' and '-'",
    )
    licence: str = Field(default="not stated", description="licence of the data, as the model card states it")
    citation: str = Field(default="", description="who is to be cited for the data")
    classes: tuple[str, ...] = Field(default=(), description="names of the classes in order; sorted unless given")
    max_file_bytes: int = Field(default=64 * 2**20, ge=1, description="an example larger than this is not read")


@settings
class Part:
    """Images that lie together, in a file or in an array of one, and perhaps their labels."""

    images: str = Field(min_length=1, description="file, or name of the array, of the images")
    labels: str = Field(default="", description="file, or name of the array, of their labels")
    split: Split = Field(default="", description="split that the publisher put them into, if any")


def about(config: Own, source: str, classes: Sequence[str], columns: Iterable[str] = ()) -> Dataset:
    return Dataset(
        name=config.name,
        modality="image",
        licence=config.licence,
        citation=config.citation,
        source=source,
        classes=tuple(classes),
        columns=tuple(columns),
    )


def existing(root: Path, path: str) -> Path:
    """The file or folder at `path`, seen from `root`. Raises OutOfReachError when it is absent."""
    place = (root / path).resolve()
    if not place.exists():
        raise OutOfReachError(f"{place} is absent; ingest.source says '{path}' (params.yaml), seen from {root}")
    return place


def inside(folder: Path, name: str, said_by: str) -> Path:
    """The file `name` of `folder`. Raises DataError when it lies elsewhere, by its name or through a link."""
    try:
        place = (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # which of the two depends on Python's version
        raise DataError(f"{said_by} names '{name}', a link that leads back to itself; remove it") from error
    if not place.is_relative_to(folder.resolve()):
        raise DataError(f"{said_by} names '{name}', which lies outside of {folder}; only files within it are read")
    return place


def as_listed(folder: Path, name: str) -> str:
    """`name` in the Unicode form in which `folder` has it: systems write é as one sign or as two."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if os.path.exists(folder / form)), name)  # noqa: PTH110  # takes any name


def later(file: Path, name: str, limit: int) -> Later | dict[str, Any]:
    """The content of an image file, which needs no reading while the file is as it was."""
    try:
        found = stamp(file)
    except OSError:  # which `read_bytes` knows to tell
        return content_of(file, name, limit)
    return Later(partial(content_of, file, name, limit), repr((name, limit, *found)), min(found[1], limit))


def content_of(file: Path, name: str, limit: int) -> dict[str, Any]:
    return {"bytes": read_bytes(file, limit), "path": name}


def read_bytes(file: Path, limit: int) -> bytes | None:
    """The file's bytes; None, for validation to name, where it is absent or larger than `limit`.

    Raises DataError for what may not be read, and for what is no file (a pipe would never end).
    """
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise DataError(f"{file} is no regular file; remove it, or name another folder")
        return file.read_bytes() if size <= limit else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror}); make it readable or move it away") from error


def split_named(name: str, said_by: str) -> str | None:
    """`train`, `validation` or `test` for the usual names of these, None for no name. Raises DataError for others."""
    if not name:
        return None
    if name.lower() not in SPLIT_NAMES:
        raise DataError(f"{said_by} says split '{name}'; known splits: {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.lower()]


def class_names(found: Iterable[str], given: Sequence[str]) -> tuple[str, ...]:
    """The classes in order: as given, else those found, numbers by value and before words. None found, none at all."""
    names = set(found)
    if not names or given:
        return tuple(given) if names else ()
    return tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def numbers(count: int, given: Sequence[str]) -> tuple[str, ...]:
    """The names of classes that come as numbers below `count`: as given, else the numbers themselves.

    Raises DataError when these are so many that one of the labels is rather a stray value.
    """
    if not given and count > MOST_CLASSES:
        raise DataError(
            f"label {count - 1} makes more than {MOST_CLASSES} classes; mend it, or name the classes in "
            "ingest.source.classes (params.yaml)"
        )
    return tuple(given) or tuple(str(number) for number in range(count))


def label_of(name: str | None, places: Mapping[str, int]) -> int | None:
    """A class by its name or number: its number, None for no name, -1 (which validation sets aside) for an unknown."""
    if not name:
        return None
    number = int(name) if name.isdecimal() else -1
    return places.get(name, number if number < len(places) else -1)


def legible(name: str) -> str:
    """A file's name as text, where its bytes are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def pictures(array: np.ndarray, said_by: str) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) uint8 with C 1 or 3 → (N, H, W) or (N, H, W, 3). Raises DataError."""
    shape = array.shape[1:]
    if array.dtype == np.uint8 and len(shape) == 3 and shape[-1] not in (1, 3) and shape[0] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
        raise DataError(
            f"{said_by} holds {array.dtype} of shape {tuple(array.shape)}; images are uint8 (N, H, W), (N, H, W, C) "
            "or (N, C, H, W) with 1 or 3 channels; convert and save them so"
        )
    return array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array


def bytes_of_one(shape: Sequence[int], item_bytes: int, limit: int, said_by: str) -> int:
    """How many bytes one example of an array takes. Raises DataError when that is none, or more than `limit`."""
    size = math.prod(shape[1:]) * item_bytes
    if not 0 < size <= limit:
        raise DataError(f"{said_by} has examples of {size} bytes; ingest.source.max_file_bytes allows 1 to {limit}")
    return size


def at_a_time(total: int, size: int) -> Iterator[int]:
    """`total` examples of `size` bytes, cut into pieces of about a megabyte: the length of each."""
    most = max(1, 2**20 // size)
    for done in range(0, total, most):
        yield min(most, total - done)


def stamp(file: Path) -> tuple[str, int, int]:
    """What changes when a file is written anew: part of a fingerprint."""
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


def example(content: Any, label: int | None, split: str | None, text: str | None, like: Dataset) -> dict[str, Any]:
    """A row with those columns that `like` names."""
    labels = {"label": label} if like.classes else {}
    others = {"split": split, "text": text}
    return {"image": content, **labels, **{name: others[name] for name in like.columns}}


def check_reader(read: Any) -> None:
    """Raises ConfigError unless `read` names a source of files. (None: it is wrong in itself, and told elsewhere.)"""
    if read is not None and read.config is not None and not isinstance(read.config, Own):
        raise ConfigError([f"params.yaml: ingest.source.read.kind is '{read.kind}', which reads no files"])
