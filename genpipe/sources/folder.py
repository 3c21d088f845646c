"""A folder of images: classes as sub-folders, no classes, or a manifest with labels, captions and splits.

As Hugging Face's `imagefolder` has it: `metadata.csv`, `metadata.jsonl` or `manifest.csv` with `file_name` and perhaps
`label`, `text`, `split`; folders train/, validation/ (val/, valid/) and test/ above the classes keep the publisher's
split. Every file that is neither hidden nor a manifest is an example; what can't be used is named by validation. The
folder __MACOSX, which macOS adds to its archives, counts as hidden.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from genpipe.config import Field, settings
from genpipe.data.dataset import Dataset
from genpipe.errors import DataError
from genpipe.sources import _manifest, _own

MANIFESTS = ("metadata.csv", "metadata.jsonl", "manifest.csv")


@settings
class Config(_own.Own):
    path: str = Field(min_length=1, description="the folder, seen from the project's root")
    class_folders: bool = Field(default=True, description="sub-folders are classes, unless a manifest says the labels")
    columns: _manifest.Columns = _manifest.Columns()


class Found(NamedTuple):
    """An example before its file is read."""

    name: str  # seen from the folder
    label: str | None
    text: str | None
    split: str | None


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for a folder without files, and for a link, pipe or device in it."""
    folder, labels, columns, count = _own.existing(root, config.path), set[str](), set[str](), 0
    for one in found(folder, config):
        count += 1
        labels |= {one.label} if one.label else set()
        columns |= {name for name in ("split", "text") if getattr(one, name)}
    if not count:
        raise DataError(f"{folder} holds no file; ingest.source.path names the folder of images (params.yaml)")
    return _own.about(config, config.path, _own.class_names(labels, config.classes), sorted(columns))


def fingerprint(config: Config, root: Path) -> str:
    """A digest over path, size and time of change of every file."""
    folder, total = _own.existing(root, config.path), hashlib.sha256()
    for file in files_in(folder):
        total.update(f"{_own.stamp(file)}\n".encode())
    return total.hexdigest()


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    """Files in the order of their names, those of a manifest in its order; each is read when it is decoded."""
    like = describe(config, root)
    folder, places = _own.existing(root, config.path), {name: number for number, name in enumerate(like.classes)}
    for one in found(folder, config):
        content = _own.later(folder / one.name, _own.legible(one.name), config.max_file_bytes)
        yield _own.example(content, _own.label_of(one.label, places), one.split, one.text, like)


def found(folder: Path, config: Config) -> Iterator[Found]:
    """Every example: first those of manifests, then the files that none of them names."""
    splits = split_folders(folder)
    tables = [home / name for home in (folder, *(folder / name for name in splits)) for name in MANIFESTS]
    tables = [table for table in tables if table.is_file()]
    labelled = any(config.columns.label in _manifest.header(table) for table in tables)
    named = set[str]()
    for table in tables:
        for entry in _manifest.entries(table, config.columns):
            file = (table.parent / _own.as_listed(table.parent, entry.file)).absolute()
            _own.inside(folder, str(file), str(table))
            name = PurePosixPath(os.path.relpath(file, folder)).as_posix()
            named.add(name)
            split, label = placed(name, splits)
            label = label if config.class_folders and not labelled else entry.label
            yield Found(name, label, entry.text, entry.split or split)
    for file in files_in(folder):
        name = file.relative_to(folder).as_posix()
        if file not in tables and name not in named:
            split, label = placed(name, splits)
            yield Found(name, label if config.class_folders and not labelled else None, None, split)


def placed(name: str, splits: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The split and the class that the folders above a file name, if they do."""
    above = PurePosixPath(name).parts[:-1]
    split = splits.get(above[0]) if above else None
    classes = above[1:] if split else above
    return split, _own.legible(classes[0]) if classes else None


def split_folders(folder: Path) -> dict[str, str]:
    """Name → split of the top folders, where all of them are named as splits; nothing where at most one is.

    Raises DataError for several beside other folders: taken for classes, the publisher's split would be lost.
    """
    names = [entry.name for entry in visible(folder) if entry.is_dir(follow_symlinks=False)]
    splits = {name: _own.SPLIT_NAMES[name.lower()] for name in names if name.lower() in _own.SPLIT_NAMES}
    others = [name for name in names if name not in splits]
    if len(splits) > 1 and others:
        raise DataError(
            f"{folder} holds the splits {', '.join(splits)} beside {_own.legible(', '.join(others[:5]))}; move the "
            "splits into a folder of their own and name it in ingest.source.path (params.yaml)"
        )
    return {} if others else splits


def files_in(folder: Path, top: Path | None = None) -> Iterator[Path]:
    """Every visible file, sorted by name, one folder after another so that few names are held at a time.

    Raises DataError for a link out of the top folder or to a folder, and for what is neither file nor folder.
    """
    top = top or folder
    for entry in visible(folder):
        file = Path(entry.path)
        if entry.is_symlink():
            _own.inside(top, entry.path, f"the link {file.relative_to(top)}")
            if not file.is_file():
                raise DataError(f"{file} is a link to no file; put the files themselves into {top}")
            yield file
        elif entry.is_dir():
            yield from files_in(file, top)
        elif entry.is_file():
            yield file
        else:
            raise DataError(f"{file} is neither file nor folder, but a pipe, socket or device; remove it from {top}")


def visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
            return sorted(shown, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} can't be listed ({error.strerror}); ingest.source.path names a folder") from error
