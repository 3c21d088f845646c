"""The data as a git revision names them, read through DVC: from its cache, or from a remote, column by column.

Of the shards only ids and labels are read; a file system that reads in parts brings no more than these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import RevError
from dvc_data.index import DataIndexError

from genpipe.data.dataset import Dataset, Stored
from genpipe.data.difference import Rows
from genpipe.data.keys import KEY, packed
from genpipe.errors import DataError
from genpipe.project import Project

WORKING_TREE = "."
QUARANTINE = "artifacts/validate/quarantine.parquet"
NO_LABEL = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Revision:
    """The data at a revision: its rows with their labels, and those in quarantine, None where nobody knows them."""

    name: str
    about: Dataset
    rows: Rows
    quarantine: Rows | None
    missing: str = ""  # why the quarantine is not known


def read(project: Project, name: str) -> Revision:
    """The data at the revision `name`, or in the working tree. Raises DataError when they can't be read."""
    with files(project, name) as fs:
        if not fs.exists("data.dvc"):
            raise DataError(f"{called(name)} has no data.dvc, so it names no data; `git log data.dvc` lists who does")
        try:
            about, rows = read_rows(fs, called(name))
        except (DataIndexError, DvcException, OSError) as error:
            raise DataError(
                f"the data that {called(name)} names in data.dvc are in no cache here and in no remote that answers "
                f"(`dvc remote list`): {error}"
            ) from error
        quarantine, missing = read_quarantine(fs)
    return Revision(name, about, rows, quarantine, missing)


@contextmanager
def files(project: Project, name: str) -> Iterator[Any]:
    """The project's files at a revision, those that DVC keeps among them."""
    try:
        fs = DVCFileSystem(str(project.root), rev=None if name == WORKING_TREE else name)
        fs.ls("")
    except RevError:
        raise DataError(f"'{name}' is no revision of this repository; name a commit, a branch, a tag, or `.`") from None
    except DvcException as error:
        raise DataError(f"{project.root} is not under git and DVC: {error}") from error
    try:
        yield fs
    finally:
        fs.close()


def called(name: str) -> str:
    return "the working tree" if name == WORKING_TREE else name


def read_rows(fs: Any, side: str) -> tuple[Dataset, Rows]:
    found = fs.glob("data/*/dataset.yaml")
    if len(found) != 1:
        names = ", ".join(file.split("/")[1] for file in found) or "none"
        raise DataError(f"the data that {side} names must be one dataset and are {names}; name a revision with one")
    (description,) = found
    folder = description.rpartition("/")[0]
    with TemporaryDirectory() as scratch:
        fs.get_file(description, str(Path(scratch) / "dataset.yaml"))
        stored = Stored.read(Path(scratch))
    keys, labels = [np.empty(0, KEY)], [np.empty(0, np.int64)]
    for shard in stored.shards:
        with fs.open(f"{folder}/{shard.name}", "rb") as file, pq.ParquetFile(file) as table:
            wanted = [column for column in ("id", "label") if column in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=10_000, columns=wanted):
                keys.append(packed(batch["id"].to_pylist()))
                if "label" in wanted:
                    labels.append(batch["label"].fill_null(NO_LABEL).to_numpy())
                else:
                    labels.append(np.full(len(batch), NO_LABEL))
    return stored.about, labelled(np.concatenate(keys), np.concatenate(labels), stored.about.classes)


def labelled(keys: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Rows:
    """Rows with the names of their classes, by which they are compared: a new class may shift the numbers."""
    values, said = np.unique(labels, return_inverse=True)
    names = [classes[label] if 0 <= label < len(classes) else f"label {label}" for label in values.tolist()]
    return Rows(keys, said, tuple("" if label == NO_LABEL else name for label, name in zip(values, names, strict=True)))


def read_quarantine(fs: Any) -> tuple[Rows | None, str]:
    """The rows that `validate` set aside, with their reasons; or None, and why they are not known."""
    if (missing := unvalidated(fs)) is not None:
        return None, missing
    try:
        with fs.open(QUARANTINE, "rb") as file:
            table = pq.read_table(file, columns=["id", "reason"])
    except (DataIndexError, DvcException, OSError):
        return None, f"{QUARANTINE} is in no cache here and in no remote that answers"
    names, said = np.unique(table["reason"].to_numpy(), return_inverse=True)
    return Rows(packed(table["id"].to_pylist()), said, tuple(names.tolist())), ""


def unvalidated(fs: Any) -> str | None:
    """Why no quarantine belongs to these data: dvc.lock must name one that was made from what data.dvc names."""
    if not fs.exists("dvc.lock"):
        return "there is no dvc.lock"
    (data,) = yaml.safe_load(fs.read_text("data.dvc"))["outs"]
    stages = yaml.safe_load(fs.read_text("dvc.lock")).get("stages", {})
    of = {dep["path"]: dep.get("md5") for dep in stages.get("validate", {}).get("deps", [])}
    return None if of.get("data") == data["md5"] else "dvc.lock tells of other data than data.dvc names"
