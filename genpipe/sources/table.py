"""A table, CSV or JSON lines, with a column of image files and perhaps columns of labels, captions and splits."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genpipe.config import Field, settings
from genpipe.data.dataset import Dataset
from genpipe.sources import _manifest, _own


@settings
class Config(_own.Own):
    path: str = Field(pattern=r"\.(csv|jsonl)$", description="the table (.csv or .jsonl), seen from the project's root")
    folder: str = Field(default="", description="folder in which its files lie; the table's own unless given")
    columns: _manifest.Columns = _manifest.Columns()


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError when the table has no row, or one that names no file."""
    table, labels, columns = _own.existing(root, config.path), set[str](), set[str]()
    _manifest.header(table)
    for entry in _manifest.entries(table, config.columns):
        labels |= {entry.label} if entry.label else set()
        columns |= {name for name in ("split", "text") if getattr(entry, name)}
    return _own.about(config, config.path, _own.class_names(labels, config.classes), sorted(columns))


def fingerprint(config: Config, root: Path) -> str:
    """A digest over path, size and time of change of the table and of each file that it names."""
    table, total = _own.existing(root, config.path), hashlib.sha256()
    total.update(str(_own.stamp(table)).encode())
    for entry in _manifest.entries(table, config.columns):
        file = file_of(entry, home(config, root), table)
        total.update(str(_own.stamp(file) if file.exists() else file).encode())
    return total.hexdigest()


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    """In the table's order; each file is read when it is decoded."""
    like, table, folder = describe(config, root), _own.existing(root, config.path), home(config, root)
    places = {name: number for number, name in enumerate(like.classes)}
    for entry in _manifest.entries(table, config.columns):
        file = file_of(entry, folder, table)
        content = _own.later(file, entry.file, config.max_file_bytes)
        yield _own.example(content, _own.label_of(entry.label, places), entry.split, entry.text, like)


def file_of(entry: _manifest.Entry, folder: Path, table: Path) -> Path:
    return _own.inside(folder, _own.as_listed(folder, entry.file), str(table))


def home(config: Config, root: Path) -> Path:
    return _own.existing(root, config.folder) if config.folder else _own.existing(root, config.path).parent
